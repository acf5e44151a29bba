"""Drives the scheduler: the threads, the models, the ledger and the link of one frame loop.

The thread that iterates over `Driver.run` plans, pays, sends and yields results. Two threads do the board's work:
one heads and releases, one local runs. Another thread takes frames while something is under way. Under ``latency``,
a frame that is alone under way stays in the iterating thread, from capture to result.
"""

# Over 300 lines: the loop, its threads and the actions of one scheduler.

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from edge_runtime.board.board import Board
from edge_runtime.board.cpu_load import LoadEstimator
from edge_runtime.inference.heads import Head
from edge_runtime.inference.profile import Profile
from edge_runtime.link.frame_link import FrameLink, Reservation
from edge_runtime.loop.actions import Action, Ask, Emit, FreeLink, PayAndSend, Reserve, Run, SendAgain
from edge_runtime.loop.board_queue import Worker
from edge_runtime.loop.board_thread import BoardThread, Ended
from edge_runtime.loop.board_work import BoardWork, Made, Models
from edge_runtime.loop.capture_thread import CaptureThread
from edge_runtime.loop.counters import Counters
from edge_runtime.loop.decision_inputs import Model, Moment
from edge_runtime.loop.frame_decisions import FrameDecisions
from edge_runtime.loop.policies import policy_for
from edge_runtime.loop.results import Step
from edge_runtime.loop.scheduler import Scheduler
from edge_runtime.loop.server_answers import unpack
from edge_runtime.planner.planner import Planner
from edge_runtime.privacy.ledger import Paying
from edge_runtime.sources import Frame
from split_model.errors import BackendError
from split_model.protocol import messages as wire
from split_model.service.throttle import PER_FRAME

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outside:
    """The parts around a frame loop, except its models: board, ledger, links, and identity.

    Args:
        links: one for each server.
        watch: each piece of work in a thread runs within a ``watch()``.
        now: the clock; ``sleep`` waits for it.

    """

    board: Board
    account: Paying
    links: tuple[FrameLink, ...]
    boot_id: str
    watch: Callable[[], AbstractContextManager[None]] = nullcontext
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Settings:
    """Settings of a frame loop from the config; ``paced``: work on the board ends in slots."""

    answer_within_s: float
    may_hedge: bool = False
    paced: bool = False


#: Local runs of the whole model.
_NOTHING_MADE = Made()


@dataclass
class _Turn:
    """The state of one `Driver.run`."""

    capture: CaptureThread
    steps: deque[Step] = field(default_factory=deque)


class Driver:
    """The I/O side of a frame loop; see the module. Use it from the thread that iterates over `run`."""

    def __init__(
        self,
        models: Models,
        outside: Outside,
        *,
        planner: Planner,
        profile: Profile,
        load: LoadEstimator,
        settings: Settings,
        counters: Counters | None = None,
    ) -> None:
        self.counters = counters or Counters()
        decisions = FrameDecisions(
            Model.of(models.bundle, profile),
            planner,
            policy=policy_for(planner.objective, paced=settings.paced),
            loaded=models,
            account=outside.account,
            load=load,
            may_hedge=settings.may_hedge,
            servers=[link.address for link in outside.links] if len(outside.links) > 1 else [""],
        )
        self._decisions = decisions
        self._scheduler = Scheduler(decisions, answer_within_s=settings.answer_within_s, counters=self.counters)
        self._models = models
        self._outside = outside
        self._links = outside.links
        self._work = BoardWork(models, outside.board, now=outside.now, sleep=outside.sleep)
        self._now = outside.now
        self._made: dict[int, Made] = {}
        self._reservations: dict[int, tuple[Reservation, ...]] = {}  # of each frame: one reservation for each link
        self._requests: dict[int, tuple[wire.Request, float]] = {}  # as they were sent first, and when they are due
        self._runs: dict[int, Run] = {}  # the pieces of work that have not ended
        self._at_server: set[tuple[int, int]] = set()  # the requests that are not answered: frame and server
        self._request_id = 0
        self._ended: deque[Ended] = deque()
        self._threads = {
            worker: BoardThread(name, self._piece_ended, watch=outside.watch)
            for worker, name in ((Worker.HEADS, "board"), (Worker.LOCAL_RUNS, "local"))
        }
        self._seen = Moment(self._now(), tuple(link.view() for link in outside.links))

    @property
    def server(self) -> int:
        """Number of the server that frames are sent to now."""
        return self._decisions.servers.in_use

    def run(self, frames: Iterable[Frame]) -> Iterator[Step]:
        """Process the frames; yields a step for each when it is done.

        An error of the source is raised after the results of all frames that were taken before it.
        """
        turn = _Turn(CaptureThread(frames, self._links[0].nudge))
        try:
            while True:
                if self._ended or self._at_server:
                    self._hear(turn)
                while turn.steps:
                    yield turn.steps.popleft()
                if not self._next_frame(turn):
                    if turn.steps:
                        continue
                    if turn.capture.ended and not self._scheduler.under_way:
                        break
                    self._wait_for_news(turn)
            if turn.capture.error is not None:
                raise turn.capture.error
        finally:
            turn.capture.close()
            self._do(self._scheduler.abandon(self._seen), turn)
            self._reservations.clear()
            self._requests.clear()
            self._made.clear()

    def close(self) -> None:
        """Wait for the work that is still under way on the board; call it at the end."""
        for thread in self._threads.values():
            thread.close()

    def _moment(self, *, frame: bool = False) -> Moment:
        """The present moment; ``frame``: a frame begins. Raises the error that ended a link's thread."""
        now_s, links = self._now(), self._seen.links
        for server, link in enumerate(self._links):
            view = link.view(frame=frame)
            if view is not links[server]:  # else the tuple stays the same object
                links = (*links[:server], view, *links[server + 1 :])
        self._seen = Moment(now_s, links)
        return self._seen

    def _next_frame(self, turn: _Turn) -> bool:
        """Take the next frame if it is due and available; returns whether one was taken."""
        if turn.capture.ended:
            return False
        if not self._scheduler.under_way:
            frame = turn.capture.take()
        elif self._scheduler.frame_due_s(self._moment()) <= self._now():
            frame = turn.capture.poll()
        else:
            return False
        if frame is None:
            return False
        self._do(self._scheduler.frame_arrived(frame, self._moment(frame=True)), turn)
        return True

    def _hear(self, turn: _Turn) -> None:
        """Report all new events to the scheduler."""
        while self._ended:
            ended = self._ended.popleft()
            self._do(self._end_of_piece(ended, self._moment()), turn)
        if not self._at_server:
            return
        for key, server in sorted(self._at_server):
            if (key, server) not in self._at_server:  # another server has answered this frame meanwhile
                continue
            outcome = self._reservations[key][server].wait(until_s=-math.inf)
            if outcome is None:
                continue
            self._at_server.discard((key, server))
            moment, scheduler = self._moment(), self._scheduler
            if outcome.answered is not None:
                outputs = unpack(outcome.answered, self._models.bundle.manifest.outputs)
                self._do(scheduler.answered(key, outputs, outcome.answered, moment, server=server), turn)
            elif outcome.refusal is not None:
                self._do(scheduler.refused(key, outcome.refusal, moment, server=server), turn)
        if self._at_server:
            acked_bytes = {
                (key, server): self._reservations[key][server].acked_bytes for key, server in self._at_server
            }
            self._do(self._scheduler.time_passed(acked_bytes, self._moment()), turn)

    def _wait_for_news(self, turn: _Turn) -> None:
        """Wait for an event: ended work, an outcome, a frame to take, or a deadline."""
        moment = self._moment()
        due_s = math.inf if turn.capture.ended else self._scheduler.frame_due_s(moment)
        wanted = due_s <= moment.now_s
        until_s = min(self._scheduler.wake_s(moment), math.inf if wanted else due_s, moment.now_s + 1.0)

        def awake() -> bool:
            return bool(
                self._ended
                or (wanted and turn.capture.has_news)
                or any(self._reservations[key][server].has_ended for key, server in self._at_server)
            )

        self._links[0].wait_for_news(until_s=until_s, unless=awake)

    def _do(self, actions: list[Action], turn: _Turn) -> None:
        """Execute the scheduler's actions, and those that follow from them."""
        todo = [*actions]
        for action in todo:  # the list grows meanwhile
            if isinstance(action, Run):
                todo += self._run(action)
            elif isinstance(action, Emit):
                self._emit(action, turn)
            elif isinstance(action, Reserve):
                self._reserve(action)
            elif isinstance(action, Ask):
                bundle, reserved = self._models.bundle.identity, self._reservations[action.key]
                reserved[action.server].ask(bundle, action.cut, due_in_s=action.due_in_s)
            elif isinstance(action, PayAndSend):
                todo += self._pay_and_send(action)
            elif isinstance(action, SendAgain):
                self._send(action.key, action.server)
            elif isinstance(action, FreeLink):
                self._free(action.key)
            else:
                self._threads[action.worker].skip(action.piece)

    def _run(self, run: Run) -> list[Action]:
        work = self._work.piece(run, self._made.get(run.key, _NOTHING_MADE))
        if not run.alone:
            self._runs[run.piece] = run
            self._threads[run.work.worker].do(run.piece, work, first=run.first)
            return []
        try:
            done = work()
        except BackendError as error:
            return self._piece_failed(run, error, self._moment())
        # A local run needs no view of the link, which takes time to get.
        fresh = run.work.worker is Worker.HEADS
        moment = self._moment() if fresh else Moment(self._now(), self._seen.links)
        return self._scheduler.work_done(run.piece, done, moment)

    def _piece_ended(self, ended: Ended) -> None:
        """Queue the end of a piece of work; called in the board's threads."""
        self._ended.append(ended)
        self._links[0].nudge()

    def _end_of_piece(self, ended: Ended, moment: Moment) -> list[Action]:
        run = self._runs.pop(ended.piece)
        if ended.skipped:
            return self._scheduler.work_skipped(ended.piece)
        if ended.error is None:
            return self._scheduler.work_done(ended.piece, ended.value, moment)
        if not isinstance(ended.error, BackendError):
            raise ended.error
        return self._piece_failed(run, ended.error, moment)

    def _piece_failed(self, run: Run, error: BackendError, moment: Moment) -> list[Action]:
        self._models.failed(run, error)
        return self._scheduler.work_failed(run.piece, str(error), moment)

    def _reserve(self, action: Reserve) -> None:
        """Reserve every link for a frame, as its server may fail."""
        self._reservations[action.key] = tuple(
            link.reserve(
                offloaded=action.offloaded and server == action.server,
                elsewhere=action.offloaded and server != action.server,
            )
            for server, link in enumerate(self._links)
        )
        self._made[action.key] = Made()

    def _pay_and_send(self, action: PayAndSend) -> list[Action]:
        """Charge the ledger, then send; send nothing if the charge fails."""
        payload, head = self._made[action.key].payload, action.head
        assert isinstance(head, Head)
        assert payload is not None
        if not self._outside.account.charge(action.cut, action.subject):
            return self._scheduler.unpaid(action.key, self._moment())
        release = head.release
        self.counters.released(
            protected=release.protected,
            whole_input_epsilon=release.whole_input_epsilon,
            per_value_epsilon_max=release.per_value_epsilon_max,
        )
        self._request_id += 1
        request = wire.Request(
            request_id=self._request_id,
            boot_id=self._outside.boot_id,
            version=wire.VERSIONS[0],
            bundle=self._models.bundle.identity,
            cut=action.cut,
            release=release.descriptor,
            total_bytes=len(payload),
            due_in_s=max(0.0, action.due_at_s - self._now()),
        )
        self._requests[action.key] = request, action.due_at_s
        self._send(action.key, action.server)
        return self._scheduler.sent(action.key, self._moment())

    def _send(self, key: int, server: int) -> None:
        """Send a paid release; the bytes are the same for every server."""
        payload, (request, due_at_s) = self._made[key].payload, self._requests[key]
        assert payload is not None
        self._reservations[key][server].send(request, payload, due_at_s=due_at_s)
        self._at_server.add((key, server))

    def _free(self, key: int) -> None:
        """Release a frame's reservations, and drop its requests."""
        for server, reservation in enumerate(self._reservations[key]):
            self._at_server.discard((key, server))
            reservation.release()

    def _emit(self, emit: Emit, turn: _Turn) -> None:
        if emit.key in self._reservations:
            del self._reservations[emit.key], self._made[emit.key]
            self._requests.pop(emit.key, None)
        result = emit.step.result
        if result.error:
            name = result.frame.name or f"frame {result.frame.index}"
            log.error("%s: %s", name, result.error, extra=PER_FRAME)
        turn.steps.append(emit.step)
