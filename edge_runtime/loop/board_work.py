"""The board's work on one frame: head, release and local runs, with the models that do them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from edge_runtime.board.board import Board
from edge_runtime.inference.heads import Head, Heads
from edge_runtime.inference.local_tails import LocalTails
from edge_runtime.loop.actions import Done, Run
from edge_runtime.loop.board_queue import Work
from edge_runtime.loop.results import Array
from edge_runtime.planner.prediction import SplitProfile
from split_model.bundle import Bundle
from split_model.errors import BackendError


@dataclass(frozen=True)
class Models:
    """The bundle and its models on this board, as `frame_decisions.LoadedModels`.

    ``local_tails``: None if local runs never continue after a head.
    """

    bundle: Bundle
    heads: Heads
    local_tails: LocalTails | None = None

    def head(self, split: int) -> object | None:
        """Return the head of a cut, None while it loads; raises the error of its loading."""
        return self.heads.prepared(split)

    def has_local_tail(self, split: int) -> bool:
        """Whether the local tail of this cut can run now; if not, it begins to load, if there is room."""
        return self.local_tails is not None and self.local_tails.behind(split) is not None

    def with_local_tail(self, profile: SplitProfile) -> SplitProfile:
        """Return the profile with the seconds of its local tail, if that is loaded."""
        return profile if self.local_tails is None else self.local_tails.apply(profile)

    def failed(self, run: Run, error: BackendError) -> None:
        """Drop a head or a local tail that does not run."""
        if isinstance(run.head, Head):
            if run.work is Work.LOCAL_TAIL and self.local_tails is not None:
                self.local_tails.failed(run.head.cut.index, error)
            elif run.work is not Work.WHOLE_MODEL:
                self.heads.forget(run.head.cut.index)


class Made(msgspec.Struct, eq=False):
    """Features of a frame: ``features`` for the release, which overwrites them, and a copy for a local tail."""

    features: list[Array] | None = None
    kept: list[Array] | None = None
    payload: memoryview | None = None


class BoardWork:
    """Makes the functions for the scheduler's pieces of work; each is called once, in any thread."""

    def __init__(
        self, models: Models, board: Board, *, now: Callable[[], float], sleep: Callable[[float], None]
    ) -> None:
        self._models = models
        self._board = board
        self._now = now
        self._sleep = sleep

    def piece(self, run: Run, made: Made) -> Callable[[], Done]:
        """Make a piece of work on a frame: a function to call in any thread. Call this in the loop's thread.

        If it has a slot, the work takes whole slots. The function raises `BackendError` if the backend fails.
        """
        if run.work is Work.WHOLE_MODEL:
            work: Callable[[], Done] = partial(self._local, self._models.heads.whole.run, run.frame.tensors)
        else:
            work = self._behind_head(run, made)
        return partial(self._paced, work, run.slot_s) if run.slot_s else work

    def _paced(self, work: Callable[[], Done], slot_s: float) -> Done:
        """Do the work and wait for the end of its slot, or of a later one if it takes longer."""
        started_s = self._now()
        try:
            return work()
        finally:
            slots = max(1, math.ceil((self._now() - started_s) / slot_s))
            self._sleep(max(0.0, started_s + slots * slot_s - self._now()))

    def _behind_head(self, run: Run, made: Made) -> Callable[[], Done]:
        head, inputs = run.head, run.frame.tensors
        assert isinstance(head, Head)
        if run.work is Work.LOCAL_TAIL:
            tails, features = self._models.local_tails, made.kept
            tail = None if tails is None else tails.behind(head.cut.index)
            assert tail is not None  # the scheduler has asked for it
            assert features is not None
            return partial(self._local, tail.run, features)
        if run.work is Work.RELEASE:
            return lambda: self._release(head, made, 0.0)
        if run.work is Work.HEAD:
            return lambda: Done(self._head(head, inputs, made, keep=run.keep))
        return lambda: self._release(head, made, self._head(head, inputs, made, keep=run.keep))

    def _local(self, model: Callable[[Sequence[Array]], list[Array]], tensors: Sequence[Array]) -> Done:
        outputs, took_s = self._board.run(partial(model, tensors))
        return Done(took_s, outputs=outputs)

    def _head(self, head: Head, inputs: Sequence[Array], made: Made, *, keep: bool) -> float:
        made.features, took_s = self._board.run(partial(head.features, inputs))
        if keep:  # copy now: the next frame through this head overwrites them
            made.kept = list(head.made(inputs))
        return took_s

    def _release(self, head: Head, made: Made, head_s: float) -> Done:
        features, made.features = made.features, None
        assert features is not None
        payload, release_s = self._board.run(partial(head.release, features))
        made.payload = payload
        return Done(head_s, release_s=release_s, payload_bytes=len(payload))
