"""What both frame loops have in common: a decision for every frame, its release on the way, and what became of it.

Every accepted frame gets exactly one answer. The split point changes between two frames, never within one.
"""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext

from edge_runtime.board.board import Board
from edge_runtime.board.cpu_load import LoadEstimator
from edge_runtime.inference.heads import Head, Heads
from edge_runtime.inference.local_runs import LocalRuns
from edge_runtime.inference.local_tails import Rests
from edge_runtime.inference.profile import Profile
from edge_runtime.link.frame_link import FrameLink, Reservation
from edge_runtime.link.view import LinkView, Outcome
from edge_runtime.loop.answers import unpack
from edge_runtime.loop.counters import Counters
from edge_runtime.loop.results import Array, Result, Sent, Step
from edge_runtime.planner.cut_backoff import Shunned
from edge_runtime.planner.planner import Decision, Planner
from edge_runtime.planner.prediction import Conditions, Prediction
from edge_runtime.planner.tail_times import TailTimes
from edge_runtime.privacy.ledger import Paying
from edge_runtime.sources import Frame
from split_model.bundle import Bundle
from split_model.errors import BackendError, BadBundleError, BadModelError, MissingInputError
from split_model.protocol import messages as wire
from split_model.service.throttle import PER_FRAME

log = logging.getLogger(__name__)

#: How often what is on its way is looked at, for deadlines.
CHECK_EVERY_S = 0.04


def expected_at(decision: Decision, split: int) -> Prediction | None:
    """What a decision predicts for one split, None where it does not say."""
    return next((prediction for prediction in decision.predictions if prediction.split == split), None)


class FrameLoop(ABC):
    """One model, its sources, one server. Everything here is called in the thread that iterates over `run`.

    ``finisher``: one thread, for local runs beside the loop. What a loop does in a thread of its own is done within
    a ``watch()``.
    """

    def __init__(
        self,
        *,
        bundle: Bundle,
        heads: Heads,
        board: Board,
        planner: Planner,
        link: FrameLink,
        profile: Profile,
        boot_id: str,
        answer_within_s: float,
        load: LoadEstimator,
        account: Paying,
        now: Callable[[], float] = time.monotonic,
        finisher: Executor | None = None,
        watch: Callable[[], AbstractContextManager[None]] = nullcontext,
        rests: Rests | None = None,
        may_hedge: bool = False,
        counters: Counters | None = None,
    ) -> None:
        self.counters = counters or Counters()
        self._bundle = bundle
        self._heads = heads
        self._board = board
        self._planner = planner
        self._link = link
        self._boot_id = boot_id
        self._answer_within_s = answer_within_s
        self._load = load
        self._account = account
        self._rests = rests
        self._may_hedge = may_hedge
        self._watch = watch
        self._now = now
        self._profile = {timing.split: timing for timing in profile.splits}
        self._tails = TailTimes(bundle)
        self._local_runs = LocalRuns(
            heads.whole, board, p95_s=profile.local.head_p95_s, took=self._took_local, now=now, executor=finisher
        )
        self._shunned = Shunned()
        self._unpaid = False  # the frame planned last stays here while the ledger cannot pay for every cut
        self._active: Head | None = None
        self._last_split: int | None = None
        self._hosted = True
        self._next_request_id = 0
        self._captured_s = self._interval_s = math.inf

    @abstractmethod
    def run(self, frames: Iterable[Frame]) -> Iterable[Step]:
        """Work through the frames; yields for each as it is done."""

    def close(self) -> None:
        """Wait for a local run that is still under way."""
        self._local_runs.close()

    def _failed(self, frame: Frame, decision: Decision, why: str) -> Result:
        log.error("%s: %s", frame.name or f"frame {frame.index}", why, extra=PER_FRAME)
        return Result(frame, "failed", decision.split, [], self._now() - frame.captured_s, error=why)

    def _decide(self, view: LinkView, frame: Frame) -> Decision:
        now_s = self._now()
        self._interval_s = max(0.0, frame.captured_s - self._captured_s)
        self._captured_s = frame.captured_s
        offered = next((o.cuts for o in view.offers if o.identity == self._bundle.identity), ())
        hosted = bool(offered) or not view.up
        if self._hosted and not hosted:
            log.warning("the server does not host bundle %s (%s); everything runs here until it does",
                        self._bundle.manifest.name, self._bundle.identity[:12])  # fmt: skip
        self._hosted = hosted
        allowed = self._planner.splits.intersection(offered)
        ready = frozenset(
            cut
            for cut in allowed
            if self._shunned.allows(cut, now_s=now_s) and self._profile[cut].payload_bytes <= view.request_bytes
        )
        for cut in ready:
            profile = self._tails.apply(self._planner.profile(cut), now_s=now_s)
            self._planner.update_profile(profile if self._rests is None else self._rests.apply(profile))
        conditions = Conditions(
            link=view.estimate,
            link_up=view.up,
            load=self._load.estimate(now_s),
            queue_s=view.queue_s,
            local_wait_s=self._local_runs.wait_s(),
            may_hedge=self._may_hedge,
            next_frame_s=max(0.0, frame.captured_s + self._interval_s - now_s),
        )
        payable = self._account.payable(ready, frame.subject)
        decision = self._planner.decide(conditions, now_s=now_s, ready=payable)
        self._unpaid = payable != ready and decision.split == self._planner.local
        return decision

    def _local_s(self) -> float:
        """What a local run takes now."""
        return self._profile[self._bundle.local].head_s * self._load.factor

    def _head_for(self, split: int) -> Head | None:
        """The head to use: the chosen one if it is prepared, else the one in use; None means the whole model."""
        if split == self._planner.local:
            self._active = None
            return None
        prepared = None
        try:
            prepared = self._heads.prepared(split)
        except (BackendError, BadBundleError, BadModelError, MissingInputError) as error:
            self._shunned.shun(split, f"its head does not load: {error}", now_s=self._now())
        if prepared is not None:
            self._active = prepared
        elif self._active is not None and not self._shunned.allows(self._active.cut.index, now_s=self._now()):
            self._active = None
        return self._active

    def _head_failed(self, head: Head, error: BackendError) -> None:
        self._heads.forget(head.cut.index)
        self._shunned.shun(head.cut.index, f"its head fails: {error}", now_s=self._now())

    def _send(
        self,
        frame: Frame,
        head: Head,
        payload: memoryview,
        parts: dict[str, float],
        *,
        reservation: Reservation,
        expected: Prediction | None,
        beside: bool = False,
    ) -> Sent | None:
        """Pay for a release and send it; None where it is not paid for: nothing leaves, the frame is finished here.

        ``parts``: ``head_s`` and ``release_s``, the seconds that they took, ``beside`` a local run or alone.
        """
        cut, known = head.cut.index, self._profile[head.cut.index]
        self._load.observed(sum(parts.values()), known.head_s + known.release_s, now_s=self._now(), beside=beside)
        if not self._account.charge(cut, frame.subject):
            self.counters.ledger_refused += 1
            return None
        self._submit(frame, head, payload, reservation)
        return Sent(frame, head, reservation, expected, self._now(), parts)

    def _submit(self, frame: Frame, head: Head, payload: memoryview, reservation: Reservation) -> int:
        release = head.release
        self.counters.released(
            protected=release.protected,
            whole_input_epsilon=release.whole_input_epsilon,
            per_value_epsilon_max=release.per_value_epsilon_max,
        )
        self._next_request_id += 1
        # A frame that had to wait is late already, but its answer is still wanted.
        due_at_s = max(frame.captured_s, self._now()) + self._answer_within_s
        request = wire.Request(
            request_id=self._next_request_id,
            boot_id=self._boot_id,
            version=wire.VERSIONS[0],
            bundle=self._bundle.identity,
            cut=head.cut.index,
            release=release.descriptor,
            total_bytes=len(payload),
            due_in_s=max(0.0, due_at_s - self._now()),
        )
        reservation.send(request, payload, due_at_s=due_at_s)
        return request.request_id

    def _take(self, sent: Sent, outcome: Outcome) -> Result | None:
        """The server's answer as a result, or None where it refused or answered something else."""
        split, answered = sent.head.cut.index, outcome.answered
        if answered is None:
            if (refusal := outcome.refusal) is not None:
                self._shunned.refused(split, refusal.code, refusal.text, now_s=self._now())
            return None
        outputs = unpack(answered, self._bundle.manifest.outputs)
        if outputs is None:
            self._shunned.shun(split, "the server's answer does not have the model's outputs", now_s=self._now())
            return None
        self._shunned.answered(split)
        self._tails.observed(split, answered.answer.tail_s, at_s=self._now())
        result = Result(sent.frame, "offloaded", split, outputs, self._now() - sent.frame.captured_s)
        result.payload_bytes = answered.total_bytes
        result.parts = {
            "offload_s": answered.elapsed_s,
            "queue_s": answered.answer.queue_s,
            "tail_s": answered.answer.tail_s,
        }
        return result

    def _here(self, frame: Frame, outputs: list[Array], took_s: float, *, sent: Sent | None) -> Result:
        """The result of a frame that was finished here, after it had been sent or not."""
        latency_s = self._now() - frame.captured_s
        if sent is None:
            return Result(frame, "local", self._bundle.local, outputs, latency_s, parts={"head_s": took_s})
        result = Result(frame, "fallback", sent.head.cut.index, outputs, latency_s)
        result.payload_bytes = sent.head.release.payload_bytes
        return result

    def _used(self, split: int) -> None:
        """A frame goes this way."""
        if self._last_split is not None and split != self._last_split:
            self.counters.moves += 1
        self._last_split = split

    def _step(self, result: Result, decision: Decision, view: LinkView) -> Step:
        self.counters.ended(result.how)
        self.counters.link(late=view.late, reconnects=view.reconnects)
        return Step(result, decision, view, self._load.factor, self._load.cpu_load)

    def _took_local(self, took_s: float) -> None:
        self._load.observed(took_s, self._profile[self._bundle.local].head_s, now_s=self._now())
