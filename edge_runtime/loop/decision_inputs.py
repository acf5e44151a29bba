"""Inputs of the decisions about a frame.

They are the time and link states, the model, which heads and local tails are loaded, and the cuts that the privacy
budget still allows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from edge_runtime.inference.profile import Profile
from edge_runtime.link.link_view import LinkView
from edge_runtime.planner.prediction import SplitProfile
from split_model.bundle import Bundle


class Moment(msgspec.Struct, frozen=True):
    """A time in seconds of the loop's clock, with the state of the links at that time.

    ``links``: one for each server, in the order of the config; a server's number is its index.
    """

    now_s: float
    links: tuple[LinkView, ...]


class LoadedModels(Protocol):
    """The loaded heads and local tails. A request for one that is not loaded makes it load in the background."""

    def head(self, split: int) -> object | None:
        """Return the head of a cut, None while it loads. `SplitModelError` if it does not load."""

    def has_local_tail(self, split: int) -> bool:
        """Whether the local tail of this cut can run now."""

    def with_local_tail(self, profile: SplitProfile) -> SplitProfile:
        """Return a cut's profile with the seconds of its local tail, if that is loaded; loads nothing."""


class Payable(Protocol):
    """Finds the cuts that can still be paid for."""

    def payable(self, cuts: Iterable[int], subject: str) -> frozenset[int]:
        """Return those of the given cuts at which the ledger can pay for a frame of this subject."""


@dataclass(frozen=True)
class Model:
    """The model as the decisions see it.

    Args:
        identity: the bundle's hash, by which the server lists its cuts.
        name: for the log.
        local: the split that runs everything on this board.
        profile: times of heads and the whole model on the idle board.
        tail_macs: multiply-accumulates of each cut's tail.

    """

    identity: str
    name: str
    local: int
    profile: Profile
    tail_macs: dict[int, int]

    @classmethod
    def of(cls, bundle: Bundle, profile: Profile) -> Model:
        """Make the inputs from a bundle and its profile on this board."""
        tail_macs = {cut.index: cut.tail_macs for cut in bundle.manifest.cuts}
        return cls(bundle.identity, bundle.manifest.name, bundle.local, profile, tail_macs)


class BoardWaits(msgspec.Struct, frozen=True):
    """Seconds that a frame waits for earlier ones: for a local run, and for their bytes on the uplink.

    ``uplink_s``: for each server; empty for none. ``doubted``: the servers that did not answer earlier frames in
    time.
    """

    local_s: float = 0.0
    uplink_s: tuple[float, ...] = ()
    doubted: frozenset[int] = frozenset()

    def uplink_busy_s(self, server: int) -> float:
        """Seconds until the uplink to a server has sent the earlier requests."""
        return self.uplink_s[server] if self.uplink_s else 0.0


#: The waits of a frame with no earlier frame under way.
NO_WAITS = BoardWaits()
