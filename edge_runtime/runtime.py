"""The frame loop: plan, run the head, release, offload, and finish here what the server does not answer in time.

Every accepted frame gets exactly one answer. The head that runs changes between two frames, never within one;
whether its features are sent or the board goes on from them is decided when it is done.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from dataclasses import replace

from edge_runtime.answers import unpack
from edge_runtime.conditions.board import Board
from edge_runtime.conditions.load import LoadEstimator
from edge_runtime.counters import Counters
from edge_runtime.deadline import is_stalled, local_start_s
from edge_runtime.heads import Head, Heads
from edge_runtime.ledger import Paying
from edge_runtime.local_runs import LocalRuns, Model, Run
from edge_runtime.mailbox import Outcome
from edge_runtime.offload import LinkView, Offload
from edge_runtime.planner import Decision, Planner, Seam
from edge_runtime.prediction import Conditions
from edge_runtime.profile import Profile
from edge_runtime.rests import Rests
from edge_runtime.shunned import Shunned
from edge_runtime.sources import Frame
from edge_runtime.steps import Result, Sent, Step
from edge_runtime.tail_times import TailTimes
from split_model.bundle import Bundle
from split_model.errors import BackendError, BadBundleError, BadModelError, MissingInputError
from split_model.protocol import messages as wire
from split_model.service.throttle import PER_FRAME

log = logging.getLogger(__name__)

_CHECK_EVERY_S = 0.04


class Runtime:
    """One model, one source, one server. Threads: this one (inference), the link's, one that finishes locally."""

    def __init__(
        self,
        *,
        bundle: Bundle,
        heads: Heads,
        board: Board,
        planner: Planner,
        offload: Offload,
        profile: Profile,
        boot_id: str,
        answer_within_s: float,
        load: LoadEstimator,
        account: Paying,
        now: Callable[[], float] = time.monotonic,
        finisher: Executor | None = None,
        rests: Rests | None = None,
        may_hedge: bool = False,
        counters: Counters | None = None,
    ) -> None:
        self.counters = counters or Counters()
        self._bundle = bundle
        self._heads = heads
        self._board = board
        self._planner = planner
        self._offload = offload
        self._boot_id = boot_id
        self._answer_within_s = answer_within_s
        self._load = load
        self._account = account
        self._rests = rests
        self._may_hedge = may_hedge
        self._now = now
        self._profile = {timing.split: timing for timing in profile.splits}
        self._tails = TailTimes(bundle)
        self._local_runs = LocalRuns(
            heads.whole, board, p95_s=profile.local.head_p95_s, took=self._took_local, now=now, executor=finisher
        )
        self._shunned = Shunned()
        self._active: Head | None = None
        self._through: Head | None = None  # the one that ran last
        self._last_split: int | None = None
        self._hosted = True
        self._next_request_id = 0
        self._captured_s = self._interval_s = math.inf

    def run(self, frames: Iterable[Frame]) -> Iterable[Step]:
        """Work through the frames, one at a time; yields after each."""
        for frame in frames:
            self.counters.frames_in += 1
            view = self._offload.view()
            decision = self._decide(view, frame)
            result = self._failed(frame, decision, frame.error) if frame.error else self._answer(frame, decision)
            self.counters.ended(result.how)
            self.counters.link(late=view.late, reconnects=view.reconnects)
            yield Step(result, decision, view, self._load.factor, self._load.cpu_load)

    def close(self) -> None:
        """Wait for a local run that is still under way."""
        self._local_runs.close()

    def _answer(self, frame: Frame, decision: Decision) -> Result:
        try:
            result = self._one(frame, decision)
        except BackendError as error:
            return self._failed(frame, decision, str(error))
        if self._last_split is not None and result.split != self._last_split:
            self.counters.moves += 1
        self._last_split = result.split
        return result

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
        self.counters.ledger_refused += payable != ready and decision.split == self._planner.local
        return decision

    def _one(self, frame: Frame, decision: Decision) -> Result:
        sent = self._launch(frame, decision)
        if isinstance(sent, Result):
            return sent
        try:
            result = self._await(sent)
        finally:
            self._offload.cancel(sent.request_id)
        result.parts |= sent.parts
        result.hedged = sent.hedged
        return result

    def _launch(self, frame: Frame, decision: Decision) -> Result | Sent:
        """Run the head and send its release, or answer here: a release that is likely for nothing is not made."""
        head = self._head_for(decision.split)
        self._offload.frame(offloaded=head is not None)
        was_local = head is None
        if head is None and (head := self._on_the_way(decision)) is None:
            return self._local(frame)
        beside = self._local_runs.wait_s() > 0.0
        try:
            features, head_s = self._board.run(lambda: head.features(frame.tensors))
        except BackendError as error:
            self._heads.forget(head.cut.index)
            self._shunned.shun(head.cut.index, f"its head fails: {error}", now_s=self._now())
            return self._local(frame)
        known = self._profile[head.cut.index]
        seam = self._at_seam(head, decision, was_local=was_local)
        if not seam.send:
            self._load.observed(head_s, known.head_s, now_s=self._now(), beside=beside)
            return self._local(frame, behind=head, head_s=head_s)
        if was_local:
            self._offload.sends()
        payload, release_s = self._board.run(lambda: head.release(features))
        self._load.observed(head_s + release_s, known.head_s + known.release_s, now_s=self._now(), beside=beside)
        if not self._account.charge(head.cut.index, frame.subject):
            self.counters.ledger_refused += 1
            return self._local(frame, behind=head, head_s=head_s)
        request_id = self._submit(frame, head, payload)
        parts = {"head_s": head_s, "release_s": release_s}
        sent = Sent(frame, head, request_id, seam.expected, self._now(), parts)
        hedge = decision.hedge if seam.expected is None else seam.expected.hedged
        if hedge and self._behind(head) is not None:
            sent.hedged = True
            self._start_here(sent)
        return sent

    def _on_the_way(self, decision: Decision) -> Head | None:
        """The head to run a local frame through, so that it can still be sent if the link is back by then.

        It is the one that ran last, if the link is there, its cut may be used, and what is behind it is at hand.
        """
        head = self._through
        if head is None or decision.seen is None or not decision.seen.link_up or not self._decides_late:
            return None
        usable = any(prediction.split == head.cut.index for prediction in decision.predictions)
        return head if usable and self._behind(head) is not None else None

    @property
    def _decides_late(self) -> bool:
        return not self._planner.is_fixed and self._planner.objective == "latency"

    def _at_seam(self, head: Head, decision: Decision, *, was_local: bool) -> Seam:
        """Whether to send what the head made, and what to expect of that."""
        cut = head.cut.index
        if cut:  # at cut 0 there is nothing to run while the link may come back
            self._through = head
        if not self._decides_late or decision.seen is None:
            expected = next((p for p in decision.predictions if p.split == cut), None)
            return Seam(send=True, expected=expected)
        now_s, view = self._now(), self._offload.view()
        seen = replace(
            decision.seen,
            link=view.estimate,
            link_up=view.up,
            load=self._load.factor,
            queue_s=view.queue_s,
            local_wait_s=self._local_runs.wait_s(),
            next_frame_s=max(0.0, self._captured_s + self._interval_s - now_s),
        )
        if not view.up:  # then nothing is sent, however it was planned
            return Seam(send=False, expected=None)
        return self._planner.at_seam(cut, seen, was_local=was_local)

    def _behind(self, head: Head) -> Model | None:
        """What is left of a local run behind this head, if it is at hand."""
        return None if self._rests is None else self._rests.behind(head.cut.index)

    def _left_s(self, head: Head) -> float:
        """What a local run takes now, of a frame that this head has done its part of."""
        left_s = None if self._behind(head) is None else self._planner.profile(head.cut.index).rest_s
        return self._local_s() if left_s is None else left_s * self._load.factor

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

    def _submit(self, frame: Frame, head: Head, payload: memoryview) -> int:
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
        self._offload.submit(request, payload, due_at_s=due_at_s)
        return request.request_id

    def _await(self, sent: Sent) -> Result:
        outcome = None
        if not self._local_runs.has_started(sent.frame.index):
            outcome = self._wait_for_server(sent)
        if outcome is None:
            outcome = self._race(sent)
        if outcome is not None and (answered := self._take(sent, outcome)) is not None:
            return answered
        return self._fall_back(sent)

    def _wait_for_server(self, sent: Sent) -> Outcome | None:
        """The outcome, or None as soon as it is better to run the frame here as well."""
        now_s = self._now()
        request = sent.in_flight(now_s)
        answer_by_s = sent.frame.captured_s + self._answer_within_s
        left_p95_s = self._local_runs.p95_s * self._left_s(sent.head) / self._local_s()
        start_local_s = local_start_s(request, answer_by_s=answer_by_s, local_p95_s=left_p95_s)
        while now_s < start_local_s:
            request = replace(request, silent=self._offload.view().estimate.silent_s > 0.0)
            local_s = self._local_runs.wait_s() + self._left_s(sent.head)
            if not self._planner.is_fixed and is_stalled(request, now_s=now_s, local_s=local_s):
                break
            until_s = min(start_local_s, now_s + _CHECK_EVERY_S)
            outcome = self._offload.wait(sent.request_id, until_s=until_s)
            if outcome is not None:
                return outcome
            now_s = self._now()
            acked_bytes = self._offload.acked_bytes(sent.request_id)
            if acked_bytes > request.acked_bytes:
                request = replace(request, acked_bytes=acked_bytes, progress_s=now_s)
        return None

    def _race(self, sent: Sent) -> Outcome | None:
        """Run the frame here and keep listening: whichever is done first is the answer."""
        finishing = self._start_here(sent)
        finishing.add_done_callback(lambda _: self._offload.nudge())
        return self._offload.wait(sent.request_id, until_s=math.inf, unless=finishing.done)

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

    def _start_here(self, sent: Sent) -> Future[Run]:
        """Go on here in the background, behind the head if that can be: none has run since."""
        frame, head = sent.frame, sent.head
        if (rest := self._behind(head)) is None:
            return self._local_runs.start(frame.index, frame.tensors, expected_s=self._local_s())
        features = head.made(frame.tensors)
        return self._local_runs.start(frame.index, features, expected_s=self._left_s(head), rest=rest)

    def _fall_back(self, sent: Sent) -> Result:
        frame = sent.frame
        if not self._local_runs.has_started(frame.index):
            self._start_here(sent)
        try:
            outputs, _ = self._local_runs.finish(frame.index, frame.tensors, expected_s=self._local_s())
        except BackendError as error:
            outputs, _ = self._whole_instead(frame, sent.head, error)
        result = Result(frame, "fallback", sent.head.cut.index, outputs, self._now() - frame.captured_s)
        result.payload_bytes = sent.head.release.payload_bytes
        return result

    def _local(self, frame: Frame, *, behind: Head | None = None, head_s: float = 0.0) -> Result:
        """Answer here; ``behind`` the head that has just run on this frame, in ``head_s``."""
        rest = None if behind is None else self._behind(behind)
        if behind is None or rest is None:
            outputs, took_s = self._local_runs.now(frame.tensors)
        else:
            try:
                outputs, took_s = self._local_runs.now(behind.made(frame.tensors), rest=rest)
            except BackendError as error:
                outputs, took_s = self._whole_instead(frame, behind, error)
        latency_s = self._now() - frame.captured_s
        return Result(frame, "local", self._bundle.local, outputs, latency_s, parts={"head_s": head_s + took_s})

    def _whole_instead(self, frame: Frame, head: Head, error: BackendError) -> Run:
        """Run the whole model because what is left behind this head failed, if it was that."""
        if self._rests is None or self._behind(head) is None:
            raise error
        self._rests.failed(head.cut.index, error)
        return self._local_runs.now(frame.tensors)

    def _took_local(self, took_s: float) -> None:
        self._load.observed(took_s, self._profile[self._bundle.local].head_s, now_s=self._now())
