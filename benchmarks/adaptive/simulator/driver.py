"""Drives the product's scheduler in virtual time, as `edge_runtime.loop.driver` does with threads."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator

from benchmarks.adaptive.simulator.board import VirtualBoard
from benchmarks.adaptive.simulator.clock import Clock
from benchmarks.adaptive.simulator.link import VirtualLink
from benchmarks.adaptive.simulator.scene import LOOP_S, Scene
from edge_runtime.inference.profile import SplitTiming
from edge_runtime.link.frame_link import Reservation
from edge_runtime.loop.actions import Action, Ask, Done, Emit, FreeLink, PayAndSend, Reserve, Run, Skip
from edge_runtime.loop.board_queue import Work, Worker
from edge_runtime.loop.decision_inputs import Moment
from edge_runtime.loop.results import Step
from edge_runtime.loop.scheduler import Scheduler
from edge_runtime.sources import Frame
from split_model.protocol import messages as wire


class VirtualDriver:
    """Iterate over `run`: virtual time passes as far as the next result. ``background_runs``: beside a transfer."""

    def __init__(
        self, scheduler: Scheduler, scene: Scene, *, clock: Clock, board: VirtualBoard, link: VirtualLink
    ) -> None:
        self.background_runs = 0
        self.woken: Callable[[], None] = lambda: None  # called when a piece of work has ended
        self._scheduler = scheduler
        self._scene = scene
        self._clock = clock
        self._board = board
        self._link = link
        self._timings: dict[int, SplitTiming] = {timing.split: timing for timing in scene.profile.splits}
        self._reservations: dict[int, Reservation] = {}
        self._at_server: set[int] = set()
        self._request_id = 0
        self._index = 0
        self._ended: deque[tuple[Run, tuple[float, ...] | None]] = deque()
        self._arriving: deque[Frame] = deque()
        self._arrives_s: float | None = None
        self._steps: deque[Step] = deque()

    def run(self) -> Iterator[Step]:
        """Play all frames of the scene: one per interval, or back-to-back whenever the scheduler accepts one."""
        while True:
            until_s = self.turn()
            yield from self.done()
            if until_s is None:
                return
            self._clock.run_until(until_s, self._has_news)

    def turn(self) -> float | None:
        """Do all work that is due now. Returns the latest time of the next turn, or None after the last frame."""
        self._hear()
        while (due_s := self._next_due_s()) <= self._clock.now_s:
            self._take()
            self._hear()
        idle = not self._scheduler.under_way and self._arrives_s is None
        if due_s == math.inf and idle:  # an idle loop has room, so there are no more frames
            return None
        return min(due_s, self._scheduler.wake_s(self._moment()), self._arrives_s or math.inf)

    def done(self) -> Iterator[Step]:
        """Return the results since the last call."""
        while self._steps:
            yield self._steps.popleft()

    def _captured_s(self) -> float:
        """Return the time at which the next frame is captured."""
        if not self._scene.interval_s:
            return self._clock.now_s
        return self._scene.first_s + self._index * self._scene.interval_s

    def _next_due_s(self) -> float:
        """Return when the next frame can start, as known now; infinite if there is none, or no room."""
        captured_s = self._captured_s()
        if self._arrives_s is not None or captured_s >= self._scene.end_s or self._clock.now_s >= self._scene.end_s:
            return math.inf
        return max(captured_s, self._scheduler.frame_due_s(self._moment()))

    def _take(self) -> None:
        """Start a frame; the time of the loop's own work passes until it is planned."""
        self._arriving.append(Frame(self._index, "frame", (), None, self._captured_s()))
        self._index += 1
        self._arrives_s = self._clock.now_s + LOOP_S

    def _has_news(self) -> bool:
        return bool(self._ended) or any(self._reservations[key].has_ended for key in self._at_server)

    def _moment(self, *, frame: bool = False) -> Moment:
        return Moment(self._clock.now_s, (self._link.view(frame=frame),))

    def _hear(self) -> None:
        while self._ended:
            run, took = self._ended.popleft()
            if took is None:
                self._do(self._scheduler.work_skipped(run.piece))
                continue
            payload_bytes = 0 if run.work.worker is Worker.LOCAL_RUNS else self._timing(run).payload_bytes
            done = Done(took[0], release_s=took[-1], payload_bytes=payload_bytes)
            self._do(self._scheduler.work_done(run.piece, done, self._moment()))
        for key in sorted(self._at_server):
            outcome = self._reservations[key].wait(until_s=-math.inf)
            if outcome is None:
                continue
            self._at_server.discard(key)
            if outcome.answered is not None:
                self._do(self._scheduler.answered(key, [], outcome.answered, self._moment()))
            elif outcome.refusal is not None:
                self._do(self._scheduler.refused(key, outcome.refusal, self._moment()))
        if self._at_server:
            acked_bytes = {(key, 0): self._reservations[key].acked_bytes for key in self._at_server}
            self._do(self._scheduler.time_passed(acked_bytes, self._moment()))
        if self._arrives_s is not None and self._clock.now_s >= self._arrives_s:
            self._arrives_s = None
            self._do(self._scheduler.frame_arrived(self._arriving.popleft(), self._moment(frame=True)))

    def _do(self, actions: list[Action]) -> None:
        todo = deque(actions)
        while todo:
            action = todo.popleft()
            if isinstance(action, Run):
                self._run(action)
            elif isinstance(action, Reserve):
                self._reservations[action.key] = self._link.reserve(offloaded=action.offloaded)
            elif isinstance(action, Ask):
                identity = self._scene.profile.bundle
                self._reservations[action.key].ask(identity, action.cut, due_in_s=action.due_in_s)
            elif isinstance(action, PayAndSend):
                todo.extend(self._send(action))
            elif isinstance(action, FreeLink):
                self._at_server.discard(action.key)
                self._reservations[action.key].release()
            elif isinstance(action, Skip):
                self._board.skip(action.piece)
            elif isinstance(action, Emit):
                self._emit(action)
            else:
                raise TypeError(f"{action}: there is one server here")

    def _timing(self, run: Run) -> SplitTiming:
        return self._timings[self._scene.local if run.head is None else int(str(run.head))]

    def _run(self, run: Run) -> None:
        timing, whole_s = self._timing(run), self._scene.profile.local.head_s
        work_s = {
            Work.HEAD: (timing.head_s,),
            Work.RELEASE: (timing.release_s,),
            Work.HEAD_AND_RELEASE: (timing.head_s, timing.release_s),
            Work.LOCAL_TAIL: (max(0.0, whole_s - timing.head_s),),
            Work.WHOLE_MODEL: (whole_s,),
        }[run.work]
        self.background_runs += run.work.worker is Worker.LOCAL_RUNS and not run.alone
        work_s = tuple(part_s * self._scene.content for part_s in work_s)
        self._board.do(run, work_s=work_s, ended=lambda took: self._piece_ended(run, took))

    def _piece_ended(self, run: Run, took: tuple[float, ...] | None) -> None:
        self._ended.append((run, took))
        self.woken()

    def _send(self, action: PayAndSend) -> list[Action]:
        self._request_id += 1
        payload = memoryview(bytes(self._timings[action.cut].payload_bytes))
        request = wire.Request(
            request_id=self._request_id,
            boot_id="1" * 32,
            version=wire.VERSIONS[0],
            bundle=self._scene.profile.bundle,
            cut=action.cut,
            release=wire.NoRelease(),
            total_bytes=len(payload),
            due_in_s=max(0.0, action.due_at_s - self._clock.now_s),
        )
        self._reservations[action.key].send(request, payload, due_at_s=action.due_at_s)
        self._at_server.add(action.key)
        return self._scheduler.sent(action.key, self._moment())

    def _emit(self, emit: Emit) -> None:
        self._reservations.pop(emit.key, None)
        self._steps.append(emit.step)
