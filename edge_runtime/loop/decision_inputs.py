"""Inputs of a frame's decisions: the moment, the model, the loaded models, and the cuts that can be paid for."""

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
    """When something happened, in seconds of the loop's clock, and the links as they were then.

    ``links``: to each server, in the order of the config; a server is known by its number in it.
    """

    now_s: float
    links: tuple[LinkView, ...]


class LoadedModels(Protocol):
    """Which heads and local tails are loaded. Asking for one that is not makes it load in the background."""

    def head(self, split: int) -> object | None:
        """The head of a cut, None while it loads. `SplitModelError` where it does not load."""

    def has_local_tail(self, split: int) -> bool:
        """Whether the local tail behind the head of this cut can run now."""

    def with_local_tail(self, profile: SplitProfile) -> SplitProfile:
        """A cut's profile with the seconds of its local tail, if that is loaded; loads nothing."""


class Payable(Protocol):
    """Which cuts can still be paid for."""

    def payable(self, cuts: Iterable[int], subject: str) -> frozenset[int]:
        """Those of some cuts at which a frame of this subject can be paid for."""


@dataclass(frozen=True)
class Model:
    """The model as the decisions see it.

    Args:
        identity: the bundle's hash, by which the server offers its cuts.
        name: for the log.
        local: the split that runs everything on this board.
        profile: what heads and the whole model take on this board when idle.
        tail_macs: multiply-accumulates of the tail behind each cut.

    """

    identity: str
    name: str
    local: int
    profile: Profile
    tail_macs: dict[int, int]

    @classmethod
    def of(cls, bundle: Bundle, profile: Profile) -> Model:
        """A bundle, as measured on this board."""
        tail_macs = {cut.index: cut.tail_macs for cut in bundle.manifest.cuts}
        return cls(bundle.identity, bundle.manifest.name, bundle.local, profile, tail_macs)


class BoardWaits(msgspec.Struct, frozen=True):
    """Seconds that a frame waits for earlier ones: for a local run, and for their bytes on the uplink.

    ``uplink_s``: of each server; empty for none. ``doubted``: the servers that others did not hear from in time.
    """

    local_s: float = 0.0
    uplink_s: tuple[float, ...] = ()
    doubted: frozenset[int] = frozenset()

    def uplink_busy_s(self, server: int) -> float:
        """Seconds until the uplink to a server is through with earlier requests."""
        return self.uplink_s[server] if self.uplink_s else 0.0


#: Of a frame that nothing is before.
NO_WAITS = BoardWaits()
