"""The models of a virtual board: all heads are loaded, as after the program's start; local tails on request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from benchmarks.adaptive.simulator.board import BackgroundLoads
from benchmarks.adaptive.simulator.clock import Clock
from benchmarks.adaptive.simulator.scene import LOAD_RUNS, Scene
from edge_runtime.config.config import DeviceTable
from edge_runtime.inference.local_tails import LocalTailCost, LocalTails, memory_bytes_of
from edge_runtime.planner.prediction import SplitProfile

LOCAL_TAIL_MEMORY_MB = next(
    f.default for f in msgspec.structs.fields(DeviceTable) if f.name == "local_tail_memory_mb"
)


class _Virtual:
    """A model that is never run: in virtual time work only takes time."""

    def run(self, tensors: Sequence[Any]) -> list[Any]:
        raise AssertionError(f"{len(tensors)} tensors in virtual time")


class VirtualModels:
    """The models as the scheduler uses them; all local tails fit into the program's default memory for them."""

    def __init__(self, scene: Scene, clock: Clock, *, local_tails: bool) -> None:
        whole_s = scene.profile.local.head_s
        sizes = {tail.split: tail.tail_bytes for tail in scene.server.tails}
        costs = {
            timing.split: LocalTailCost(
                memory_bytes_of(sizes[timing.split], timing.payload_bytes), max(0.0, whole_s - timing.head_s)
            )
            for timing in scene.profile.splits[:-1]
        }
        self._local_tails = (
            LocalTails(
                lambda _: _Virtual(),
                costs,
                whole=_Virtual(),
                memory_bytes=int(LOCAL_TAIL_MEMORY_MB * 1e6),
                loader=BackgroundLoads(clock, each_s=LOAD_RUNS * whole_s),
                now=clock.now,
            )
            if local_tails
            else None
        )

    def head(self, split: int) -> object:
        """Return the head of a cut; it is loaded."""
        return split

    def has_local_tail(self, split: int) -> bool:
        """Return whether the cut's local tail is loaded by now."""
        return self._local_tails is not None and self._local_tails.behind(split) is not None

    def with_local_tail(self, profile: SplitProfile) -> SplitProfile:
        """Return the cut with the seconds of its local tail, if that is loaded."""
        return profile if self._local_tails is None else self._local_tails.apply(profile)


class Free:
    """The simulator has no privacy ledger: every cut can be paid for."""

    def payable(self, cuts: Iterable[int], subject: str) -> frozenset[int]:
        """Return all cuts."""
        return frozenset(cuts if subject else ())
