"""The frame loop: plan, run the head, release, offload, and finish here what the server does not answer in time.

Every accepted frame gets exactly one answer. The split point changes between two frames, never within one.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import replace

from edge_runtime.answers import unpack
from edge_runtime.conditions.board import Board
from edge_runtime.conditions.load import LoadEstimator
from edge_runtime.counters import Counters
from edge_runtime.deadline import is_stalled, local_start_s
from edge_runtime.heads import Head, Heads
from edge_runtime.ledger import Paying
from edge_runtime.local_runs import LocalRuns
from edge_runtime.mailbox import Outcome
from edge_runtime.offload import LinkView, Offload
from edge_runtime.planner import Decision, Planner
from edge_runtime.prediction import Conditions, is_too_doubtful
from edge_runtime.profile import Profile
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
        spare_core: bool = False,
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
        self._spare_core = spare_core
        self._now = now
        self._profile = {timing.split: timing for timing in profile.splits}
        self._tails = TailTimes(bundle)
        self._local_runs = LocalRuns(
            heads.whole, board, p95_s=profile.local.head_p95_s, took=self._took_local, now=now, executor=finisher
        )
        self._shunned = Shunned()
        self._active: Head | None = None
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
            self._planner.update_profile(self._tails.apply(self._planner.profile(cut), now_s=now_s))
        conditions = Conditions(
            link=view.estimate,
            link_up=view.up,
            load=self._load.estimate(now_s),
            queue_s=view.queue_s,
            local_wait_s=self._local_runs.wait_s(),
            beside=self._load.beside if self._spare_core else None,
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
        return result

    def _launch(self, frame: Frame, decision: Decision) -> Result | Sent:
        """Run the head and send its release, or answer here: a release that is likely for nothing is not made."""
        head = self._head_for(decision.split)
        self._offload.frame(offloaded=head is not None)
        if head is None:
            return self._local(frame)
        if decision.hedge:
            self._local_runs.start(frame.index, frame.tensors, expected_s=self._local_s())
        try:
            features, head_s = self._board.run(lambda: head.features(frame.tensors))
        except BackendError as error:
            self._heads.forget(head.cut.index)
            self._shunned.shun(head.cut.index, f"its head fails: {error}", now_s=self._now())
            return self._local(frame)
        if self._is_in_vain(head, decision):
            return self._local(frame)
        payload, release_s = self._board.run(lambda: head.release(features))
        known = self._profile[head.cut.index]
        self._load.observed(
            head_s + release_s, known.head_s + known.release_s, now_s=self._now(), beside=decision.hedge
        )
        if not self._account.charge(head.cut.index, frame.subject):
            self.counters.ledger_refused += 1
            return self._local(frame)
        request_id = self._submit(frame, head, payload)
        expected = next((p for p in decision.predictions if p.split == head.cut.index), None)
        parts = {"head_s": head_s, "release_s": release_s}
        return Sent(frame, head, request_id, expected, self._now(), parts)

    def _is_in_vain(self, head: Head, decision: Decision) -> bool:
        """Whether the link fell silent during the head, so that a local run will most likely be done first."""
        if self._planner.is_fixed or self._planner.objective == "throughput" or decision.seen is None:
            return False
        view = self._offload.view()
        if view.up and view.estimate.silent_s == 0.0:
            return False
        seen = replace(decision.seen, link=view.estimate, link_up=view.up, local_wait_s=self._local_runs.wait_s())
        local_s = 0.0 if decision.hedge else self._local_s()
        return is_too_doubtful(self._planner.profile(head.cut.index), seen, local_s=local_s)

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
        start_local_s = local_start_s(request, answer_by_s=answer_by_s, local_p95_s=self._local_runs.p95_s)
        while now_s < start_local_s:
            request = replace(request, silent=self._offload.view().estimate.silent_s > 0.0)
            local_s = self._local_runs.wait_s() + self._local_s()
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
        finishing = self._local_runs.start(sent.frame.index, sent.frame.tensors, expected_s=self._local_s())
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

    def _fall_back(self, sent: Sent) -> Result:
        frame = sent.frame
        outputs, _ = self._local_runs.finish(frame.index, frame.tensors, expected_s=self._local_s())
        result = Result(frame, "fallback", sent.head.cut.index, outputs, self._now() - frame.captured_s)
        result.payload_bytes = sent.head.release.payload_bytes
        return result

    def _local(self, frame: Frame) -> Result:
        if self._local_runs.has_started(frame.index):
            outputs, took_s = self._local_runs.finish(frame.index, frame.tensors, expected_s=self._local_s())
        else:
            outputs, took_s = self._local_runs.now(frame.tensors)
        latency_s = self._now() - frame.captured_s
        return Result(frame, "local", self._bundle.local, outputs, latency_s, parts={"head_s": took_s})

    def _took_local(self, took_s: float) -> None:
        self._load.observed(took_s, self._profile[self._bundle.local].head_s, now_s=self._now())
