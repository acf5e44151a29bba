"""Loads local tails: the model after each cut, so that a local run can continue after the head.

A local tail is the same tail that the server runs. The bundle on the board contains it, and head and tail together
give the whole model's output bit for bit. So a frame that was sent and is then finished here takes no more of the
board's time than a local run from the start, and the choice between the two can stay open until the head is done.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from edge_runtime.inference.heads import Heads
from edge_runtime.inference.memory import give_back
from edge_runtime.inference.model_files import ModelFiles
from edge_runtime.inference.profile import Profile
from edge_runtime.planner.prediction import SplitProfile
from split_model.bundle import Bundle
from split_model.errors import BackendError, BadBundleError, BadModelError, MissingInputError
from split_model.interpreter import Interpreter

log = logging.getLogger(__name__)

#: If a local run takes less than this, a local tail gains too little to be worth its memory.
WORTH_IT_S = 0.05
#: A tail used within this time is not dropped for another: otherwise two that do not fit would be loaded in turns.
_IDLE_S = 30.0


class Model(Protocol):
    """The part of an interpreter that is used here."""

    def run(self, tensors: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """One inference."""
        ...


@dataclass(frozen=True)
class LocalTailCost:
    """Estimated memory of the local tail of one cut, and its time on the idle board."""

    memory_bytes: int
    seconds: float


class LocalTails:
    """Loads local tails in the background when they are wanted, and keeps those that fit ``memory_bytes``.

    ``whole``: the whole model, which is the local tail of cut 0. ``loader``: an executor of one thread. Use it from
    the frame loop's thread.
    """

    def __init__(
        self,
        load: Callable[[int], Model],
        costs: Mapping[int, LocalTailCost],
        *,
        whole: Model,
        memory_bytes: int,
        loader: Executor,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._costs = dict(costs)
        self._whole = whole
        self._memory_bytes = memory_bytes
        self._loader = loader
        self._now = now
        self._kept: OrderedDict[int, tuple[Model, float]] = OrderedDict()  # each with the time of its last use
        self._under_way: tuple[int, Future[Model]] | None = None

    def apply(self, profile: SplitProfile) -> SplitProfile:
        """Return the profile with the time of its local tail, if that is loaded."""
        at_hand = profile.split == 0 or profile.split in self._kept
        return replace(profile, local_tail_s=self._costs[profile.split].seconds if at_hand else None)

    def behind(self, split: int) -> Model | None:
        """Return the local tail of this cut; None while it loads, or if there is no room for it."""
        self._collect()
        if split == 0:
            return self._whole
        found = self._kept.get(split)
        if found is not None:
            self._kept[split] = (found[0], self._now())
            self._kept.move_to_end(split)
            return found[0]
        if self._under_way is None and split in self._costs and self._make_room(self._costs[split].memory_bytes):
            self._under_way = (split, self._loader.submit(self._load, split))
        return None

    def failed(self, split: int, error: Exception) -> None:
        """Note that the local tail of this cut does not load or run: it is not tried again."""
        log.warning("cut %d: its local tail does not run here (%s); the whole model does", split, error)
        self._kept.pop(split, None)
        if split:
            del self._costs[split]

    def _collect(self) -> None:
        if self._under_way is None or not self._under_way[1].done():
            return
        (split, future), self._under_way = self._under_way, None
        try:
            self._kept[split] = (future.result(), self._now())
        except (BackendError, BadBundleError, BadModelError, MissingInputError) as error:
            self.failed(split, error)

    def _make_room(self, needed_bytes: int) -> bool:
        """Drop tails that were idle for long, oldest first. Returns whether there is enough room now."""
        held = {split: self._costs[split].memory_bytes for split in self._kept}
        idle = [split for split, (_, wanted_s) in self._kept.items() if self._now() - wanted_s >= _IDLE_S]
        while needed_bytes + sum(held.values()) > self._memory_bytes:
            if not idle or needed_bytes > self._memory_bytes:
                return False
            del held[idle[0]], self._kept[idle.pop(0)]
        return True


def memory_bytes_of(tail_bytes: int, features_bytes: int) -> int:
    """Estimated memory of a loaded local tail: weights packed by the backend beside its file, and its arena.

    EfficientNet-Lite0 (5 to 18 MB of file): 10 to 40 MB measured.
    """
    return int(2.1 * tail_bytes) + 4 * features_bytes


def open_tails(
    bundle: Bundle,
    heads: Heads,
    profile: Profile,
    *,
    backend: str | None,
    threads: int,
    memory_bytes: int,
    loader: Executor,
) -> LocalTails | None:
    """Open the local tails of a bundle; None if there is no memory for them or the board needs none."""
    whole_s = profile.local.head_s
    if whole_s < WORTH_IT_S or memory_bytes == 0:
        return None
    head_s = {timing.split: timing.head_s for timing in profile.splits}
    costs = {
        cut.index: LocalTailCost(
            memory_bytes_of(cut.tail.size_bytes, cut.raw_bytes), max(0.0, whole_s - head_s[cut.index])
        )
        for cut in bundle.manifest.cuts
    }

    def load(split: int) -> Interpreter:
        return load_local_tail(heads.files, split, backend=backend, threads=threads)

    return LocalTails(load, costs, whole=heads.whole, memory_bytes=memory_bytes, loader=loader)


def load_local_tail(files: ModelFiles, split: int, *, backend: str | None, threads: int) -> Interpreter:
    """Load a local tail now, with its warm-up inference; its file is checked again, as a head's is.

    Raises `BackendError`, `BadBundleError`, `BadModelError` or `MissingInputError`, also for a file that cannot be
    read and for too little memory.
    """
    try:
        return _load_local_tail(files, split, backend=backend, threads=threads)
    except MemoryError:
        raise BackendError(f"cut {split}: not enough memory for its local tail") from None


def _load_local_tail(files: ModelFiles, split: int, *, backend: str | None, threads: int) -> Interpreter:
    bundle = files.bundle
    cut = bundle.cut(split)
    tail = files.open(cut.tail, backend=backend, threads=threads)
    inputs = [(spec.dtype, spec.shape) for spec in tail.inputs]
    fits = inputs == [(spec.dtype, spec.shape) for spec in cut.tensors]
    outputs = bundle.manifest.outputs
    made = tail.run([np.zeros(spec.shape, spec.dtype) for spec in tail.inputs]) if fits else []
    if len(made) != len(outputs) or not all(
        spec.fits(one.dtype.name, one.shape) for spec, one in zip(outputs, made, strict=True)
    ):
        raise BadBundleError(
            f"{tail.source}: its tensors are not those of cut {split}", remedy="prepare the bundle again"
        )
    give_back(tail)
    return tail
