"""The frame loop for the objective ``latency``: one frame at a time, from its plan to its answer.

It runs the head, releases, offloads, and finishes here what the server does not answer in time. Whether the
features are sent or the board goes on from them is decided when the head is done.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import replace

from edge_runtime.inference.heads import Head
from edge_runtime.inference.local_runs import Model, Run
from edge_runtime.link.frame_link import Reservation
from edge_runtime.link.view import Outcome
from edge_runtime.loop.frame_loop import CHECK_EVERY_S, FrameLoop, expected_at
from edge_runtime.loop.results import Result, Sent, Step
from edge_runtime.planner.deadline import is_stalled, local_start_s
from edge_runtime.planner.planner import Decision, Seam
from edge_runtime.sources import Frame
from split_model.errors import BackendError


class Runtime(FrameLoop):
    """See the module. Threads: this one, which runs the heads, the link's, one that finishes locally."""

    _through: Head | None = None  # the one that ran last

    def run(self, frames: Iterable[Frame]) -> Iterable[Step]:
        """Work through the frames, one at a time; yields after each."""
        for frame in frames:
            self.counters.frames_in += 1
            view = self._link.view()
            decision = self._decide(view, frame)
            result = self._failed(frame, decision, frame.error) if frame.error else self._answer(frame, decision)
            self.counters.ledger_refused += self._unpaid
            yield self._step(result, decision, view)

    def _answer(self, frame: Frame, decision: Decision) -> Result:
        try:
            result = self._one(frame, decision)
        except BackendError as error:
            return self._failed(frame, decision, str(error))
        self._used(result.split)
        return result

    def _one(self, frame: Frame, decision: Decision) -> Result:
        head = self._head_for(decision.split)
        reservation = self._link.reserve(offloaded=head is not None)
        try:
            sent = self._launch(frame, decision, head, reservation)
            if isinstance(sent, Result):
                return sent
            result = self._await(sent)
        finally:
            reservation.release()
        result.parts |= sent.parts
        result.hedged = sent.hedged
        return result

    def _launch(
        self, frame: Frame, decision: Decision, head: Head | None, reservation: Reservation
    ) -> Result | Sent:
        """Run the head and send its release, or answer here: a release that is likely for nothing is not made.

        Where the frame stays, the link is given back before it is answered.
        """
        was_local = head is None
        if head is None and (head := self._on_the_way(decision)) is None:
            return self._local(frame)
        beside = self._local_runs.wait_s() > 0.0
        try:
            features, head_s = self._board.run(lambda: head.features(frame.tensors))
        except BackendError as error:
            self._head_failed(head, error)
            self._through = None
            reservation.release()
            return self._local(frame)
        seam = self._at_seam(head, decision, was_local=was_local)
        if not seam.send:
            known_s = self._profile[head.cut.index].head_s
            self._load.observed(head_s, known_s, now_s=self._now(), beside=beside)
            reservation.release()
            return self._local(frame, behind=head, head_s=head_s)
        self._unpaid = False  # if it is, `_send` says so
        payload, release_s = self._board.run(lambda: head.release(features))
        parts = {"head_s": head_s, "release_s": release_s}
        sent = self._send(
            frame, head, payload, parts, reservation=reservation, expected=seam.expected, beside=beside
        )
        if sent is None:
            reservation.release()
            return self._local(frame, behind=head, head_s=head_s)
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
            return Seam(send=True, expected=expected_at(decision, cut))
        now_s, view = self._now(), self._link.view()
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
            request = replace(request, silent=self._link.view().estimate.silent_s > 0.0)
            local_s = self._local_runs.wait_s() + self._left_s(sent.head)
            if not self._planner.is_fixed and is_stalled(request, now_s=now_s, local_s=local_s):
                break
            until_s = min(start_local_s, now_s + CHECK_EVERY_S)
            outcome = sent.reservation.wait(until_s=until_s)
            if outcome is not None:
                return outcome
            now_s = self._now()
            acked_bytes = sent.reservation.acked_bytes
            if acked_bytes > request.acked_bytes:
                request = replace(request, acked_bytes=acked_bytes, progress_s=now_s)
        return None

    def _race(self, sent: Sent) -> Outcome | None:
        """Run the frame here and keep listening: whichever is done first is the answer."""
        finishing = self._start_here(sent)
        finishing.add_done_callback(lambda _: self._link.nudge())
        return sent.reservation.wait(until_s=math.inf, unless=finishing.done)

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
            outputs, took_s = self._local_runs.finish(frame.index, frame.tensors, expected_s=self._local_s())
        except BackendError as error:
            outputs, took_s = self._whole_instead(frame, sent.head, error)
        return self._here(frame, outputs, took_s, sent=sent)

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
        return self._here(frame, outputs, head_s + took_s, sent=None)

    def _whole_instead(self, frame: Frame, head: Head, error: BackendError) -> Run:
        """Run the whole model because what is left behind this head failed, if it was that."""
        if self._rests is None or self._behind(head) is None:
            raise error
        self._rests.failed(head.cut.index, error)
        return self._local_runs.now(frame.tensors)
