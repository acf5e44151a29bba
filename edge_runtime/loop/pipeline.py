"""The frame loop for the objective ``throughput``: capture, head and release, and the link work at the same time.

A thread of its own captures, the board thread runs heads and releases (and whole models), the link thread sends
and receives; this one plans, pays, hands over and writes down, beside them. While the board works on a frame the
next one is taken and planned, so that the board never waits for either. The rules are those of `frame_loop`: each
frame gets exactly one answer, from here in time if the server's does not come, and all counters add up. Answers
come in the order in which they are done, each with its frame's index: to hold back one that is there for one that
is not would help nobody who can sort.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from edge_runtime.inference.heads import Head
from edge_runtime.inference.local_runs import Run
from edge_runtime.link.frame_link import Reservation
from edge_runtime.link.view import LinkView
from edge_runtime.loop.board_thread import BoardThread
from edge_runtime.loop.capture_thread import Captured
from edge_runtime.loop.frame_loop import CHECK_EVERY_S, FrameLoop, expected_at
from edge_runtime.loop.in_flight_limit import WINDOW, Admitted, window_for
from edge_runtime.loop.results import Result, Sent, Step
from edge_runtime.planner.deadline import InFlight, is_stalled, local_start_s
from edge_runtime.planner.planner import Decision
from edge_runtime.sources import Frame
from split_model.errors import BackendError

#: The next frame is taken when what the board works on is expected to take so much longer: at least, and as a share
#: of that work. Taken earlier it would only grow old, later the board would wait for it.
_AHEAD_S = 0.02
_AHEAD = 0.5

#: A release, and the seconds that its head and it took.
_Made = tuple[memoryview, float, float]


@dataclass(eq=False)
class _UnderWay:
    """A frame and where it is: ``made`` by the board until it is ``sent``, or ``local``, the whole model here.

    Both of the last two where the server is overdue; ``refused`` once only the local run can answer. ``ahead``
    others were on their way to the server before it; ``first_s``: since when none is.
    """

    frame: Frame
    decision: Decision
    view: LinkView
    reservation: Reservation
    head: Head | None = None
    made: Future[_Made] | None = None
    sent: Sent | None = None
    local: Future[Run] | None = None
    refused: bool = False
    ahead: int = 0
    first_s: float | None = None


@dataclass
class _Work:
    """What one `Pipeline.run` has in hand; ``fitting`` frames under way keep every stage busy."""

    source: Captured
    board: BoardThread
    under_way: list[_UnderWay] = field(default_factory=list)
    admitted: Admitted = field(default_factory=Admitted)
    fitting: int = WINDOW[0]

    def on_the_link(self) -> list[_UnderWay]:
        """What the server may still answer, oldest first."""
        return [one for one in self.under_way if one.sent is not None and not one.refused]


class Pipeline(FrameLoop):
    """See the module."""

    def run(self, frames: Iterable[Frame]) -> Iterator[Step]:
        """Work through the frames, several at a time; yields as they are done.

        What the source raises is raised after the answers of all frames that were captured before.
        """
        nudge = self._link.nudge
        work = _Work(Captured(frames, nudge), BoardThread(nudge, now=self._now, watch=self._watch))
        try:
            while work.under_way or not work.source.ended:
                self._send_made(work)
                frame = self._next_frame(work)
                step = self._next_ended(work) if frame is None else self._accept(frame, work)
                if step is not None:
                    yield step
                elif frame is None and work.under_way:
                    self._rest(work)
            if work.source.error is not None:
                raise work.source.error
        finally:
            for one in work.under_way:
                one.reservation.release()
            work.source.close()
            work.board.close()

    def _next_frame(self, work: _Work) -> Frame | None:
        """The next frame if it is time for one and it is there; waits for it where there is nothing else to do."""
        if not work.under_way:
            return work.source.take(wait=True)
        return work.source.take(wait=False) if self._takes_s(work) <= self._now() else None

    def _takes_s(self, work: _Work) -> float:
        """When to take the next frame; infinite while there is no room for it."""
        now_s = self._now()
        if len(work.under_way) >= min(work.fitting, work.admitted.frames(now_s)) or work.board.waiting:
            return math.inf
        left_s, whole_s = work.board.left_s()
        return now_s + left_s - max(_AHEAD_S, _AHEAD * whole_s)

    def _accept(self, frame: Frame, work: _Work) -> Step | None:
        """Plan a frame and hand it to the board; the step of one that cannot be worked on."""
        self.counters.frames_in += 1
        view = self._link.view()
        decision = self._decide(view, frame)
        self.counters.ledger_refused += self._unpaid
        if frame.error:
            return self._step(self._failed(frame, decision, frame.error), decision, view)
        head = self._head_for(decision.split)
        one = _UnderWay(frame, decision, view, self._link.reserve(offloaded=head is not None), head)
        work.under_way.append(one)
        self._used(self._bundle.local if one.head is None else one.head.cut.index)
        if one.head is None:
            self._run_here(one, work)
            return None
        head, known = one.head, self._profile[one.head.cut.index]
        expected_s = (known.head_s + known.release_s) * self._load.factor
        one.made = work.board.do(lambda: self._make(head, frame), expected_s=expected_s)
        return None

    def _make(self, head: Head, frame: Frame) -> _Made:
        """In the board thread: head and release."""
        features, head_s = self._board.run(lambda: head.features(frame.tensors))
        payload, release_s = self._board.run(lambda: head.release(features))
        return payload, head_s, release_s

    def _run_here(self, one: _UnderWay, work: _Work, *, first: bool = False) -> None:
        """Let the board run the whole model on a frame, with ``first`` before those that wait for it."""
        tensors = one.frame.tensors
        one.local = work.board.do(lambda: self._local_runs.run(tensors), expected_s=self._local_s(), first=first)

    def _send_made(self, work: _Work) -> None:
        """Pay for what the board has made, and send it; what cannot be made or paid for is finished here."""
        for one in work.under_way:
            if one.made is None or not one.made.done():
                continue
            assert one.head is not None  # it made this
            made, one.made = one.made, None
            try:
                payload, head_s, release_s = made.result()
            except BackendError as error:
                self._head_failed(one.head, error)
            else:
                ahead, parts = len(work.on_the_link()), {"head_s": head_s, "release_s": release_s}
                expected = expected_at(one.decision, one.head.cut.index)
                one.sent = self._send(
                    one.frame, one.head, payload, parts, reservation=one.reservation, expected=expected
                )
                one.ahead = ahead
            if one.sent is None:
                one.reservation.release()
                self._run_here(one, work, first=True)
                continue
            work.fitting = WINDOW[0] if one.sent.expected is None else window_for(one.sent.expected)

    def _next_ended(self, work: _Work) -> Step | None:
        """The step of a frame that has its answer, the oldest first; what is better finished here is begun."""
        for one in work.under_way:
            if one.made is None and (result := self._ended(one, work)) is not None:
                work.under_way.remove(one)
                return self._step(result, one.decision, one.view)
        return None

    def _ended(self, one: _UnderWay, work: _Work) -> Result | None:
        """The first answer there is, the server's or from here."""
        sent = one.sent
        result = None if sent is None or one.refused else self._answered(one, sent, work)
        if result is None and one.local is not None and one.local.done():
            result = self._finished(one, one.local)
        if result is None:
            if sent is not None and one.local is None and (one.refused or self._is_due(one, sent, work)):
                self._run_here(one, work, first=True)
            return None
        one.reservation.release()
        if sent is not None:
            result.parts |= sent.parts
            if one.local is not None:
                one.local.cancel()
        return result

    def _answered(self, one: _UnderWay, sent: Sent, work: _Work) -> Result | None:
        """The server's answer, None if there is none yet or, ``refused`` from then on, none to be had."""
        outcome = sent.reservation.wait(until_s=-math.inf)
        if outcome is None:
            return None
        if outcome.refusal is not None and outcome.refusal.code == "busy":
            work.admitted.busy(ahead=one.ahead, now_s=self._now())
        result = self._take(sent, outcome)
        one.refused = result is None
        return result

    def _finished(self, one: _UnderWay, local: Future[Run]) -> Result:
        try:
            outputs, took_s = local.result()
        except BackendError as error:
            return self._failed(one.frame, one.decision, str(error))
        self._local_runs.ran(took_s)
        return self._here(one.frame, outputs, took_s, sent=one.sent)

    def _is_due(self, one: _UnderWay, sent: Sent, work: _Work) -> bool:
        """Whether to finish this frame here: it would be late, or it is the first on the link and that is stuck."""
        now_s = self._now()
        oldest = one is work.on_the_link()[0]
        request = self._in_flight(one, sent, now_s) if oldest else _queued(one, sent)
        wait_s, _ = work.board.left_s()
        answer_by_s = one.frame.captured_s + self._answer_within_s
        local_p95_s = self._local_runs.p95_s + wait_s
        if now_s >= local_start_s(request, answer_by_s=answer_by_s, local_p95_s=local_p95_s):
            return True
        if self._planner.is_fixed or not oldest:
            return False
        return is_stalled(request, now_s=now_s, local_s=wait_s + self._local_s())

    def _in_flight(self, one: _UnderWay, sent: Sent, now_s: float) -> InFlight:
        """The first on the link: from the moment on that it was, it has the link for itself."""
        if one.first_s is None:
            one.first_s = now_s if one.ahead else sent.submitted_s
        request = sent.in_flight(one.first_s, sent.reservation.acked_bytes)
        return replace(request, transfer_s=math.inf)  # when its acknowledgements came is not noted

    def _rest(self, work: _Work) -> None:
        """Wait until something can be done: an answer, a frame to take, a deadline to look at."""
        self._link.view()  # raises what ended the link thread: nothing would be waited for any more
        now_s, takes_s = self._now(), self._takes_s(work)
        wanted = takes_s <= now_s
        until_s = now_s + CHECK_EVERY_S if wanted else min(takes_s, now_s + CHECK_EVERY_S)

        def awake() -> bool:
            return (wanted and work.source.waiting) or any(self._has_news(one) for one in work.under_way)

        self._link.rest(until_s=until_s, unless=awake)

    def _has_news(self, one: _UnderWay) -> bool:
        if any(future is not None and future.done() for future in (one.made, one.local)):
            return True
        return one.sent is not None and one.sent.reservation.has_ended


def _queued(one: _UnderWay, sent: Sent) -> InFlight:
    """One behind others: it is expected to wait for them."""
    request, expected = sent.in_flight(sent.submitted_s), sent.expected
    ahead_s = 0.0 if expected is None else one.ahead * expected.bottleneck_s
    return replace(request, expected_s=request.expected_s + ahead_s)
