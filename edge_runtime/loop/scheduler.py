"""The frame loop without I/O: events in, actions out; a driver has the threads, the link and the models.

Every accepted frame gets exactly one result. Its split is decided when it arrives, and again when its head is done.
If its server does not answer as expected, the same bytes are sent to another server, if that one is expected to be
sooner than this board. A frame that no server answers in time is finished here. The first answer counts, from a
server or from this board. All transitions of a frame are in `frame_states.TRANSITIONS`.

Frames may overlap: while one is at the server, the next one's head runs, if that delays no frame (see
`frame_due_s`). Results come in the order of completion or, if the policy says so, in the order of capture.
"""

# Over 300 lines: every event of a frame, as one state machine that is read with its table.

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edge_runtime.link.link_view import LinkView
from edge_runtime.loop.actions import Action, Ask, Done, Emit, FreeLink, PayAndSend, Reserve, Run, SendAgain, Skip
from edge_runtime.loop.board_queue import BoardQueue, Piece, Work, Worker, end_piece
from edge_runtime.loop.counters import Counters, Outcome
from edge_runtime.loop.decision_inputs import NO_WAITS, BoardWaits, Moment
from edge_runtime.loop.frame_decisions import FrameDecisions
from edge_runtime.loop.frame_states import Input, Sent, State, UnderWay
from edge_runtime.loop.in_flight_limit import IN_FLIGHT, Admitted, limit_for
from edge_runtime.loop.pacing import board_due_s, overlap_due_s
from edge_runtime.loop.result_order import ResultOrder
from edge_runtime.loop.results import Result, Step
from edge_runtime.loop.server_wait import (
    CHECK_EVERY_S,
    ServerWait,
    by_server,
    doubted,
    note_progress,
    uplink_busy_s,
)
from edge_runtime.planner.prediction import Prediction
from edge_runtime.planner.questions import Question
from edge_runtime.sources import Frame
from split_model.protocol.device import Answered, Refused


class Scheduler:
    """The state machine of one frame loop; see the module.

    Report each event, and do the returned actions in order before the next event.
    """

    def __init__(self, decisions: FrameDecisions, *, answer_within_s: float, counters: Counters) -> None:
        self.counters = counters
        self._decisions = decisions
        self._policy = decisions.policy
        self._answer_within_s = answer_within_s
        self._under_way: dict[int, UnderWay] = {}
        self._order: ResultOrder[tuple[UnderWay, Result]] = ResultOrder(in_order=decisions.policy.in_order)
        self._sent: list[int] = []  # the keys of frames that were sent, in the order of their latest requests
        self._queues = {worker: BoardQueue() for worker in Worker}
        self._alone: Piece | None = None  # the piece that runs alone, in no queue
        self._admitted = [Admitted() for _ in range(decisions.servers.count)]
        self._fitting = IN_FLIGHT[0]
        self._keys = self._pieces = 0
        self._counted: tuple[LinkView, ...] = ()  # the links whose counts were taken over last
        self._waiting = ServerWait(decisions, self._queues[Worker.LOCAL_RUNS], answer_within_s=answer_within_s)

    @property
    def under_way(self) -> int:
        """Number of frames without a result."""
        if not self._under_way:
            return 0  # a held result waits for a frame that is under way
        return len(self._under_way) + self._order.held

    @property
    def _at_server(self) -> list[UnderWay]:
        """The frames that a server may still answer, in the order in which they were sent."""
        if not self._sent:
            return []
        return [self._under_way[key] for key in self._sent if self._under_way[key].on_the_link]

    def frame_due_s(self, moment: Moment) -> float:
        """Time to take the next frame, in seconds of the loop's clock; infinite while there is no room."""
        now_s = moment.now_s
        if not self._under_way:
            return now_s
        server = self._decisions.servers.in_use
        if self.under_way >= min(self._policy.most, self._fitting, self._admitted[server].frames(now_s)):
            return math.inf
        if self._policy.plans_ahead:
            is_local = self._decisions.planner.split == self._decisions.local
            return board_due_s(self._queues, is_local=is_local, now_s=now_s)
        return overlap_due_s(list(self._under_way.values()), self._queues, self._waiting, self._decisions, moment)

    def wake_s(self, moment: Moment) -> float:
        """Time to call `time_passed` next, unless another event comes first."""
        if not (at_server := self._at_server):
            return math.inf
        away = [one for one in at_server if one.state is State.AWAY]
        return min(moment.now_s + CHECK_EVERY_S, self._waiting.first_local_start_s(away, moment.now_s))

    def frame_arrived(self, frame: Frame, moment: Moment) -> list[Action]:
        """Handle a new frame from the source."""
        self.counters.frames_in += 1
        plan = self._decisions.plan(frame, moment, self._waits(moment))
        if plan.decision.moved_from is not None:
            self.counters.moves += 1
        self._keys += 1
        link = moment.links[plan.server]
        one = UnderWay(self._keys, frame, plan, link, server=plan.server, unpaid=plan.unpaid)
        self._under_way[one.key] = one
        if frame.error:
            one.step(Input.FAILED)
            return self._fail(one, frame.error, moment)
        asked = [] if plan.question is None else self._ask(one, plan.question)
        if plan.head is None:
            one.step(Input.STAYS)
            run = self._run(one, Work.WHOLE_MODEL, self._decisions.local_s, moment)
            one.local_piece = run.piece
            return [Reserve(one.key, offloaded=False, server=one.server), *asked, run] if asked else [run]
        one.step(Input.BEGINS)
        one.keeps_features = self._decisions.loaded.has_local_tail(one.split)
        late = self._decisions.decides_after_head
        work = Work.HEAD if late else Work.HEAD_AND_RELEASE
        run = self._run(one, work, self._decisions.head_s(one.split), moment)
        return [Reserve(one.key, offloaded=not plan.was_local, server=one.server), *asked, run]

    def _ask(self, one: UnderWay, question: Question) -> list[Action]:
        """The action that sends a frame's question to a server."""
        return [Ask(one.key, question.cut, min(question.due_in_s, self._answer_within_s), server=one.plan.asks)]

    def work_done(self, piece: int, done: Done, moment: Moment) -> list[Action]:
        """Handle a finished piece of work."""
        ended, one = self._end_piece(piece)
        if one is None:
            return []
        if ended.work is Work.HEAD:
            return self._head_done(one, done.took_s, moment)
        if ended.work.worker is Worker.HEADS:
            if ended.work is Work.HEAD_AND_RELEASE:
                one.head_s = done.took_s
                one.server, after = self._decisions.after_head(one.plan, moment, self._waits(moment))
                one.expected, one.hedge = after.expected, after.hedge
            return self._released(one, done, moment)
        one.step(Input.RAN)
        one.local_piece = None
        if len(self._under_way) == 1:
            self._queues[Worker.LOCAL_RUNS].all_done()
        if one.sent:
            return self._end(one, self._result(one, "fallback", list(done.outputs), one.parts), moment)
        parts = {"head_s": one.head_s + done.took_s}
        return self._end(one, self._result(one, "local", list(done.outputs), parts), moment)

    def work_failed(self, piece: int, error: str, moment: Moment) -> list[Action]:
        """Handle a piece of work that raised a `BackendError`."""
        ended, one = self._end_piece(piece)
        if one is None:
            return []
        if ended.work.worker is Worker.HEADS:
            self._decisions.head_failed(one.split, error, now_s=moment.now_s)
            one.keeps_features = False
            one.step(Input.STAYS)
            return [FreeLink(one.key), self._run_here(one, moment, first=True)]
        one.local_piece = None
        if ended.work is Work.LOCAL_TAIL:
            one.keeps_features = False
            return [self._run_here(one, moment, first=True)]
        one.step(Input.FAILED)
        return self._fail(one, error, moment)

    def work_skipped(self, piece: int) -> list[Action]:
        """Handle a piece of work that was skipped on request."""
        self._end_piece(piece)
        return []

    def sent(self, key: int, moment: Moment) -> list[Action]:
        """Handle a release that was paid for and is on its way to its server."""
        one = self._under_way[key]
        sent = self._request(one.server, one.expected, moment)
        one.step(Input.SENT)
        self._sent.append(key)
        one.sent.append(sent)
        self._fitting = IN_FLIGHT[0] if one.expected is None else limit_for(one.expected)
        if not one.hedge or not self._waiting.goes_on_behind_head(one):
            return []
        one.hedged = True
        one.step(Input.OVERDUE)
        return [self._run_here(one, moment)]

    def unpaid(self, key: int, moment: Moment) -> list[Action]:
        """Handle a release that the ledger refused: nothing of it leaves, the frame is finished here."""
        one = self._under_way[key]
        one.unpaid, one.release_s = True, None
        one.step(Input.UNPAID)
        return [FreeLink(key), self._run_here(one, moment, first=True)]

    def answered(
        self, key: int, outputs: list[Any] | None, answered: Answered, moment: Moment, *, server: int = 0
    ) -> list[Action]:
        """Handle a server's answer; ``outputs``: None if they are not the model's."""
        if (one := self._under_way.get(key)) is None or not one.on_the_link:
            return []
        servers, answer = self._decisions.servers, answered.answer
        if outputs is None:
            servers.answered_nonsense(server, one.split, now_s=moment.now_s)
            return self._refused(one, server, moment)
        servers.answered(server, one.split, answer.tail_s, now_s=moment.now_s, load=answer.load)
        one.step(Input.ANSWERED)
        parts = {"offload_s": answered.elapsed_s, "queue_s": answer.queue_s, "tail_s": answer.tail_s}
        result = self._result(one, "offloaded", outputs, parts | one.parts)
        result.server = server
        return self._end(one, result, moment)

    def refused(self, key: int, refusal: Refused, moment: Moment, *, server: int = 0) -> list[Action]:
        """Handle a server's refusal."""
        if (one := self._under_way.get(key)) is None or not one.on_the_link:
            return []
        if refusal.code == "busy":
            ahead = next((sent.ahead for sent in one.sent if sent.server == server), 0)
            self._admitted[server].busy(ahead=ahead, now_s=moment.now_s)
        self._decisions.servers.refused(server, one.split, refusal, now_s=moment.now_s)
        return self._refused(one, server, moment)

    def time_passed(self, acked_bytes: Mapping[tuple[int, int], int], moment: Moment) -> list[Action]:
        """Check the frames at the servers: which of them stall, and which are overdue.

        Args:
            acked_bytes: Acknowledged bytes of each request, by frame key and server.
            moment: The present moment.

        Returns:
            The actions to do.

        """
        note_progress(self._under_way, acked_bytes, now_s=moment.now_s)
        self._waiting.note_oldest(self._at_server, moment.now_s)
        actions = self._fail_over(moment)
        for one in self._waiting.overdue(self._at_server, moment):
            one.step(Input.OVERDUE)
            actions.append(self._run_here(one, moment, first=True))
        return actions

    def abandon(self, moment: Moment) -> list[Action]:
        """Give up the frames under way: free the link, and begin no work for them."""
        actions: list[Action] = [FreeLink(key) for key, one in self._under_way.items() if one.reserves_link]
        if self._alone is not None:
            actions.append(Skip(self._alone.number, self._alone.work.worker))
        for worker, queue in self._queues.items():
            for number in queue.pieces():
                queue.cancel(number, now_s=moment.now_s)
                actions.append(Skip(number, worker))
        self._under_way.clear()
        self._order.clear()
        self._sent.clear()
        return actions

    def _head_done(self, one: UnderWay, took_s: float, moment: Moment) -> list[Action]:
        one.head_s = took_s
        one.server, after = self._decisions.after_head(one.plan, moment, self._waits(moment))
        if not after.send:
            one.step(Input.STAYS)
            return [FreeLink(one.key), self._run_here(one, moment, first=True)]
        one.expected, one.hedge = after.expected, after.hedge
        one.unpaid = False  # if it is done anyway, the driver reports it
        one.step(Input.RELEASES)
        expected_s = self._decisions.timing(one.split).release_s * self._decisions.load.factor
        return [self._run(one, Work.RELEASE, expected_s, moment, first=True)]

    def _released(self, one: UnderWay, done: Done, moment: Moment) -> list[Action]:
        one.release_s, one.payload_bytes = done.release_s, done.payload_bytes
        one.step(Input.RELEASED)
        # A frame that had to wait may be late already, but its answer is still wanted.
        one.due_at_s = max(one.frame.captured_s, moment.now_s) + self._answer_within_s
        assert one.plan.head is not None
        return [PayAndSend(one.key, one.frame.subject, one.plan.head, one.split, one.due_at_s, server=one.server)]

    def _request(self, server: int, expected: Prediction | None, moment: Moment) -> Sent:
        """A request that is sent to a server now, after those that are there."""
        ahead = len(by_server(self._at_server).get(server, ()))
        return Sent(server, moment.now_s, expected, ahead, first_s=-math.inf if ahead else moment.now_s)

    def _fail_over(self, moment: Moment) -> list[Action]:
        """Send the requests at a server that does not respond, or is not reachable, to another one.

        This moves all of them, as they are on the same connection.
        """
        if self._decisions.servers.count == 1:
            return []
        actions: list[Action] = []
        for ones in by_server(self._at_server).values():
            found = self._elsewhere(ones[0], moment)
            if found is not None and self._waiting.is_unheard(ones[0], moment, other_s=found[1].total_s):
                actions += [action for one in ones for action in self._send_again(one, moment)]
        return actions

    def _elsewhere(self, one: UnderWay, moment: Moment) -> tuple[int, Prediction] | None:
        """Another server that can take this release, with the prediction for it; None if there is none."""
        tried = [sent.server for sent in one.sent]
        return self._decisions.servers.elsewhere(one.split, tried=tried, moment=moment, waits=self._waits(moment))

    def _send_again(self, one: UnderWay, moment: Moment) -> list[Action]:
        """Send the same bytes to another server too, if that is expected to help; not a second release."""
        found = self._elsewhere(one, moment)
        if found is None or not self._waiting.is_worth_sending(one, found[1].total_s, moment.now_s):
            return []
        server, expected = found
        one.sent.append(self._request(server, expected, moment))
        self._sent.remove(one.key)
        self._sent.append(one.key)
        self.counters.failovers += 1
        return [SendAgain(one.key, server)]

    def _refused(self, one: UnderWay, server: int, moment: Moment) -> list[Action]:
        """Handle a server that will not answer: send to another one, wait for another one, or finish here."""
        goes_on = one.refused_by(server)
        if (again := self._send_again(one, moment)) or goes_on:
            return again
        racing = one.state is State.RACING
        one.step(Input.REFUSED)
        free = FreeLink(one.key)
        return [free] if racing else [free, self._run_here(one, moment, first=True)]

    def _run_here(self, one: UnderWay, moment: Moment, *, first: bool = False) -> Run:
        """Finish a frame on this board: with the local tail after its head, or with the whole model."""
        if one.keeps_features and self._waiting.goes_on_behind_head(one):
            left_s = self._decisions.left_s(one.split, has_tail=True)
            run = self._run(one, Work.LOCAL_TAIL, left_s, moment, first=first)
        else:
            run = self._run(one, Work.WHOLE_MODEL, self._decisions.local_s, moment, first=first)
        one.local_piece = run.piece
        return run

    def _run(self, one: UnderWay, work: Work, expected_s: float, moment: Moment, *, first: bool = False) -> Run:
        queue = self._queues[work.worker]
        others = len(self._under_way) > 1 or queue.busy or (one.sent and one.on_the_link)
        alone = not (others or self._policy.plans_ahead)
        self._pieces += 1
        piece = Piece(self._pieces, one.key, work, expected_s)
        if alone:  # it runs before any other event, so it needs no queue
            self._alone = piece
        else:
            queue.put(piece, now_s=moment.now_s, first=first)
        keep = one.keeps_features and work in (Work.HEAD, Work.HEAD_AND_RELEASE)
        slot_s = expected_s if self._policy.paced else 0.0
        return Run(
            piece.number,
            one.key,
            one.frame,
            work,
            one.plan.head,
            first=first,
            alone=alone,
            keep=keep,
            slot_s=slot_s,
        )

    def _end_piece(self, number: int) -> tuple[Piece, UnderWay | None]:
        """Remove a piece that ended, in any way; returns it and its frame, None if that already has its result."""
        piece = self._alone
        if piece is None or piece.number != number:
            piece = end_piece(self._queues, number)
        else:
            self._alone = None
        one = self._under_way.get(piece.key)
        if one is None or (piece.work.worker is Worker.LOCAL_RUNS and one.local_piece != piece.number):
            return piece, None
        return piece, one

    def _waits(self, moment: Moment) -> BoardWaits:
        local_runs = self._queues[Worker.LOCAL_RUNS]
        if not self._sent and not local_runs.expects_work:
            return NO_WAITS
        # A board usually has one uplink: a transfer to one server delays a transfer to another.
        sending = [one for one in self._at_server if moment.links[one.latest.server].up]
        busy_s = tuple(uplink_busy_s(sending, link.estimate) for link in moment.links)
        return BoardWaits(local_runs.wait_s(moment.now_s), busy_s, doubted(self._under_way.values()))

    def _fail(self, one: UnderWay, why: str, moment: Moment) -> list[Action]:
        result = self._result(one, "failed", [], {})
        result.error = why
        return self._end(one, result, moment)

    def _result(self, one: UnderWay, outcome: Outcome, outputs: list[Any], parts: dict[str, float]) -> Result:
        """Make the result of a frame; its latency is set when it is yielded."""
        if outcome == "local":
            split = self._decisions.local
        elif outcome == "failed":
            split = one.plan.decision.split
        else:
            split = one.split
        result = Result(one.frame, outcome, split, outputs, 0.0, hedged=one.hedged, parts=parts)
        if one.sent:
            result.payload_bytes = one.payload_bytes
            result.servers = tuple(sent.server for sent in one.sent)
        return result

    def _end(self, one: UnderWay, result: Result, moment: Moment) -> list[Action]:
        """Yield the result of a frame, and cancel the rest of its work."""
        del self._under_way[one.key]
        if one.sent:
            self._sent.remove(one.key)
        actions: list[Action] = [FreeLink(one.key)] if one.reserves_link else []
        if one.local_piece is not None:
            self._queues[Worker.LOCAL_RUNS].cancel(one.local_piece, now_s=moment.now_s)
            actions.append(Skip(one.local_piece, Worker.LOCAL_RUNS))
        if moment.links is not self._counted:  # a link that anything happened on has another view
            self._counted = moment.links
            self.counters.links(moment.links)
        for held, of in self._order.ended(one.key, (one, result), oldest=min(self._under_way, default=None)):
            actions.append(self._emit(held, of, moment))
        return actions

    def _emit(self, one: UnderWay, result: Result, moment: Moment) -> Emit:
        result.latency_s = moment.now_s - one.frame.captured_s
        self.counters.ended(result.outcome)
        self.counters.ledger_refused += one.unpaid
        load = self._decisions.load
        return Emit(one.key, Step(result, one.plan.decision, one.link, load.factor, load.cpu_load))
