"""Drives the scheduler: the threads, the models, the ledger and the link of one frame loop.

The thread that iterates over `Driver.run` plans, pays, sends and hands on results. Two threads do the board's work,
one heads and releases, one local runs; another one takes frames while something is under way. Under ``latency`` a
frame that is the only one under way crosses no thread: it is taken, planned, run and handed on in the one that
iterates.
"""

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
from edge_runtime.link.frame_link import FrameLink
from edge_runtime.loop.actions import Action, Ask, Emit, FreeLink, PayAndSend, Reserve, Run, Skip
from edge_runtime.loop.answers import unpack
from edge_runtime.loop.board_queue import Worker
from edge_runtime.loop.board_thread import BoardThread, Ended
from edge_runtime.loop.board_work import BoardWork, Held, Models
from edge_runtime.loop.capture_thread import CaptureThread
from edge_runtime.loop.counters import Counters
from edge_runtime.loop.decision_inputs import Model, Moment
from edge_runtime.loop.frame_decisions import FrameDecisions
from edge_runtime.loop.policies import policy_for
from edge_runtime.loop.results import Step
from edge_runtime.loop.scheduler import Scheduler
from edge_runtime.planner.planner import Planner
from edge_runtime.privacy.ledger import Paying
from edge_runtime.sources import Frame
from split_model.errors import BackendError
from split_model.protocol import messages as wire
from split_model.service.throttle import PER_FRAME

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outside:
    """What a frame loop acts on beside the models: the board, the ledger, the link, and who it is to the server.

    Args:
        watch: each piece of work in a thread is done within a ``watch()``.
        now: the clock; ``sleep`` waits for it.

    """

    board: Board
    account: Paying
    link: FrameLink
    boot_id: str
    watch: Callable[[], AbstractContextManager[None]] = nullcontext
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Settings:
    """What the config says of a frame loop; ``paced``: work on the board ends in slots."""

    answer_within_s: float
    may_hedge: bool = False
    paced: bool = False


@dataclass
class _Turn:
    """One `Driver.run`."""

    capture: CaptureThread
    steps: deque[Step] = field(default_factory=deque)


class Driver:
    """See the module. Everything is called in the thread that iterates over `run`; `close` it at the end."""

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
        )
        self._scheduler = Scheduler(decisions, answer_within_s=settings.answer_within_s, counters=self.counters)
        self._models = models
        self._outside = outside
        self._link = outside.link
        self._work = BoardWork(models, outside.board, now=outside.now, sleep=outside.sleep)
        self._now = outside.now
        self._held: dict[int, Held] = {}
        self._runs: dict[int, Run] = {}  # the pieces of work that have not ended
        self._at_server: set[int] = set()  # the frames whose requests are not answered
        self._request_id = 0
        self._ended: deque[Ended] = deque()
        self._threads = {
            worker: BoardThread(name, self._piece_ended, watch=outside.watch)
            for worker, name in ((Worker.HEADS, "board"), (Worker.LOCAL_RUNS, "local"))
        }
        self._seen = Moment(self._now(), self._link.view())

    def run(self, frames: Iterable[Frame]) -> Iterator[Step]:
        """Work through the frames; yields for each as it is done.

        What the source raises is raised after the results of all frames that were taken before.
        """
        turn = _Turn(CaptureThread(frames, self._link.nudge))
        try:
            while True:
                self._hear(turn)
                while turn.steps:
                    yield turn.steps.popleft()
                if not self._next_frame(turn):
                    if turn.steps:
                        continue
                    if turn.capture.ended and not self._scheduler.under_way:
                        break
                    self._rest(turn)
            if turn.capture.error is not None:
                raise turn.capture.error
        finally:
            turn.capture.close()
            self._do(self._scheduler.abandon(self._seen), turn)
            self._held.clear()

    def close(self) -> None:
        """Wait for the work that is still under way on the board."""
        for thread in self._threads.values():
            thread.close()

    def _moment(self) -> Moment:
        """Now; raises what ended the link's thread."""
        self._seen = Moment(self._now(), self._link.view())
        return self._seen

    def _next_frame(self, turn: _Turn) -> bool:
        """Take the next frame if it is time for one, and it is there; False where there is none."""
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
        moment = self._moment()
        self._do(self._scheduler.frame_arrived(frame, moment), turn, frame=frame)
        return True

    def _hear(self, turn: _Turn) -> None:
        """Tell the scheduler all that has happened since."""
        while self._ended:
            ended = self._ended.popleft()
            self._do(self._end_of_piece(ended, self._moment()), turn)
        for key in sorted(self._at_server):
            outcome = self._held[key].link.wait(until_s=-math.inf)
            if outcome is None:
                continue
            self._at_server.discard(key)
            moment = self._moment()
            if outcome.answered is not None:
                outputs = unpack(outcome.answered, self._models.bundle.manifest.outputs)
                self._do(self._scheduler.answered(key, outputs, outcome.answered, moment), turn)
            elif outcome.refusal is not None:
                self._do(self._scheduler.refused(key, outcome.refusal, moment), turn)
        if self._at_server:
            acked_bytes = {key: self._held[key].link.acked_bytes for key in self._at_server}
            self._do(self._scheduler.time_passed(acked_bytes, self._moment()), turn)

    def _rest(self, turn: _Turn) -> None:
        """Wait until something can be done: work that ended, an outcome, a frame to take, a deadline to look at."""
        moment = self._moment()
        due_s = math.inf if turn.capture.ended else self._scheduler.frame_due_s(moment)
        wanted = due_s <= moment.now_s
        until_s = min(self._scheduler.wake_s(moment), math.inf if wanted else due_s, moment.now_s + 1.0)

        def awake() -> bool:
            return bool(
                self._ended
                or (wanted and turn.capture.has_news)
                or any(self._held[key].link.has_ended for key in self._at_server)
            )

        self._link.rest(until_s=until_s, unless=awake)

    def _do(self, actions: list[Action], turn: _Turn, *, frame: Frame | None = None) -> None:
        """Do what the scheduler says, and what it says to what comes of that. ``frame``: the one that arrived."""
        todo = deque(actions)
        while todo:
            action = todo.popleft()
            if isinstance(action, Run):
                todo.extend(self._run(action))
            elif isinstance(action, Reserve):
                assert frame is not None  # the link is reserved for a frame that arrives
                self._held[action.key] = Held(frame, self._link.reserve(offloaded=action.offloaded))
            elif isinstance(action, Ask):
                self._held[action.key].link.ask(self._models.bundle.identity, action.cut, due_in_s=action.due_in_s)
            elif isinstance(action, PayAndSend):
                todo.extend(self._pay_and_send(action))
            elif isinstance(action, FreeLink):
                self._free(action.key)
            elif isinstance(action, Skip):
                self._threads[action.worker].skip(action.piece)
            else:
                self._emit(action, turn)

    def _run(self, run: Run) -> list[Action]:
        self._runs[run.piece] = run
        work = self._work.piece(run, self._held[run.key])
        if not run.alone:
            self._threads[run.work.worker].do(run.piece, work, first=run.first)
            return []
        try:
            ended = Ended(run.piece, work())
        except BackendError as error:
            ended = Ended(run.piece, error=error)
        # What a local run took says nothing of the link, and looking at it takes time.
        fresh = run.work.worker is Worker.HEADS
        return self._end_of_piece(ended, self._moment() if fresh else Moment(self._now(), self._seen.link))

    def _piece_ended(self, ended: Ended) -> None:
        """In the board's threads."""
        self._ended.append(ended)
        self._link.nudge()

    def _end_of_piece(self, ended: Ended, moment: Moment) -> list[Action]:
        run = self._runs.pop(ended.piece)
        if ended.skipped:
            return self._scheduler.work_skipped(ended.piece)
        if ended.error is None:
            return self._scheduler.work_done(ended.piece, ended.value, moment)
        if not isinstance(ended.error, BackendError):
            raise ended.error
        self._models.failed(run, ended.error)
        return self._scheduler.work_failed(ended.piece, str(ended.error), moment)

    def _pay_and_send(self, action: PayAndSend) -> list[Action]:
        """Charge the ledger, and send only then."""
        held, head = self._held[action.key], action.head
        assert isinstance(head, Head)
        assert held.payload is not None
        if not self._outside.account.charge(action.cut, held.frame.subject):
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
            total_bytes=len(held.payload),
            due_in_s=max(0.0, action.due_at_s - self._now()),
        )
        held.link.send(request, held.payload, due_at_s=action.due_at_s)
        self._at_server.add(action.key)
        return self._scheduler.sent(action.key, self._moment())

    def _free(self, key: int) -> None:
        """Give back a frame's reservation, and forget its request."""
        self._at_server.discard(key)
        if (held := self._held.get(key)) is not None:
            held.link.release()

    def _emit(self, emit: Emit, turn: _Turn) -> None:
        self._held.pop(emit.key, None)
        result = emit.step.result
        if result.error:
            name = result.frame.name or f"frame {result.frame.index}"
            log.error("%s: %s", name, result.error, extra=PER_FRAME)
        turn.steps.append(emit.step)
