"""The frame loop for the objective ``throughput``: capture, head and release, and the link work at the same time.

A thread of its own captures; this one runs heads and hands releases to the link thread without waiting for their
answers, up to a window of frames; the rules are those of `runtime`: each frame gets exactly one answer, from here
in time if the server's does not come, and all counters add up. Answers come in the order in which they are done,
each with its frame's index: to hold back one that is there for one that is not would help nobody who can sort.
"""

from __future__ import annotations

import math
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from edge_runtime.deadline import InFlight, is_stalled, local_start_s
from edge_runtime.offload import LinkView
from edge_runtime.planner import Decision
from edge_runtime.prediction import Prediction
from edge_runtime.runtime import Runtime
from edge_runtime.sources import Frame
from edge_runtime.steps import Result, Sent, Step
from split_model.errors import BackendError

#: Frames under way at the server at the same time, least and most; see also `Admitted`.
WINDOW = (2, 6)
#: A server that was busy may have room again: one more frame is tried each time so long after. Each try may cost
#: a release that is refused.
_ROOM_EVERY_S = 60.0
_CHECK_EVERY_S = 0.04


def window_for(prediction: Prediction) -> int:
    """Frames to have under way so that the slowest stage never waits: what fits into one frame's time, and one."""
    least, most = WINDOW
    if prediction.bottleneck_s <= 0 or math.isinf(prediction.total_s):
        return least
    return max(least, min(most, math.ceil(prediction.total_s / prediction.bottleneck_s - 1e-9) + 1))


class Admitted:
    """How many frames the server takes at a time, from what it refuses as busy. Pure.

    Servers say nothing of it beforehand, and what they refuse was released for nothing. A frame that is refused
    behind ``ahead`` others says that there is room for so many, or for one.
    """

    def __init__(self) -> None:
        self._frames = WINDOW[1]
        self._busy_s = 0.0

    def busy(self, *, ahead: int, now_s: float) -> None:
        """A frame with so many others under way before it was refused."""
        self._frames = max(1, min(self.frames(now_s), ahead))
        self._busy_s = now_s

    def frames(self, now_s: float) -> int:
        """How many to have under way at most."""
        if self._frames == WINDOW[1]:
            return self._frames
        return min(WINDOW[1], self._frames + int((now_s - self._busy_s) / _ROOM_EVERY_S))


@dataclass
class _Flying:
    """What is on its way, ``ahead`` others before it. ``first_s``: since when none is."""

    sent: Sent
    decision: Decision
    view: LinkView
    ahead: int
    first_s: float | None = None


class Captured:
    """Takes frames from a source in a thread of its own; ``arrived`` hears of each and of the end.

    None is taken before it is asked for: of a live source, what waits here would grow old while newer ones come.
    What is dear to read is read ahead by the source's own thread.
    """

    def __init__(self, frames: Iterable[Frame], arrived: Callable[[], None]) -> None:
        self._frames = frames
        self._arrived = arrived
        self._queue: queue.SimpleQueue[Frame | BaseException | None] = queue.SimpleQueue()
        self._wanted = threading.Semaphore(0)
        self._asked = False
        self._closed = False
        self.ended = False
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._capture, name="capture", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> bool:
        """Whether `take` would give something at once, be it the news that there is no more."""
        return not self._queue.empty()

    def take(self, *, wait: bool) -> Frame | None:
        """The next frame; None if there is none yet, or no more (``ended``, by ``error`` if the source raised)."""
        if self.ended:
            return None
        if not self._asked:
            self._asked = True
            self._wanted.release()
        try:
            taken = self._queue.get(block=wait)
        except queue.Empty:
            return None
        self._asked = False
        if isinstance(taken, BaseException):
            self.ended, self.error = True, taken
            return None
        self.ended = taken is None
        return taken

    def close(self) -> None:
        """Let the thread end after the frame it is at."""
        self._closed = self.ended = True
        self._wanted.release()

    def _capture(self) -> None:
        frames = iter(self._frames)
        while True:
            self._wanted.acquire()
            if self._closed:
                return
            taken: Frame | BaseException | None = None
            try:
                taken = next(frames, None)
            except BaseException as error:  # noqa: BLE001  whatever it is, the frame loop raises it
                taken = error
            self._queue.put(taken)
            self._arrived()
            if taken is None or isinstance(taken, BaseException):
                return


class Pipeline(Runtime):
    """See the module. Everything but capturing happens in the thread that iterates over `run`."""

    def run(self, frames: Iterable[Frame]) -> Iterator[Step]:
        """Work through the frames, several at a time; yields as they are done.

        What the source raises is raised after the answers of all frames that were captured before.
        """
        flying: deque[_Flying] = deque()
        source = Captured(frames, self._offload.nudge)
        admitted = Admitted()
        fitting = WINDOW[0]
        try:
            while flying or not source.ended:
                yield from self._collect(flying, admitted)
                window = min(fitting, admitted.frames(self._now()))
                if len(flying) < window and (frame := source.take(wait=not flying)) is not None:
                    started = self._accept(frame, ahead=len(flying))
                    if isinstance(started, Step):
                        yield started
                    else:
                        flying.append(started)
                        expected = started.sent.expected
                        fitting = WINDOW[0] if expected is None else window_for(expected)
                elif flying:
                    self._rest(flying, source, window)
            if source.error is not None:
                raise source.error
        finally:
            source.close()

    def _accept(self, frame: Frame, *, ahead: int) -> Step | _Flying:
        """Start a frame: the step it ended with, or what is now on its way."""
        self.counters.frames_in += 1
        view = self._offload.view()
        decision = self._decide(view, frame)
        if frame.error:
            return self._step(self._failed(frame, decision, frame.error), decision, view)
        try:
            started = self._launch(frame, decision)
        except BackendError as error:
            started = self._failed(frame, decision, str(error))
        self._moved(started.head.cut.index if isinstance(started, Sent) else started.split)
        if isinstance(started, Sent):
            return _Flying(started, decision, view, ahead)
        return self._step(started, decision, view)

    def _collect(self, flying: deque[_Flying], admitted: Admitted) -> Iterator[Step]:
        """Every frame that is answered, refused, or better finished here, oldest first."""
        for one in list(flying):
            sent = one.sent
            outcome = self._offload.wait(sent.request_id, until_s=-math.inf)
            if outcome is None and not self._is_due(one, oldest=one is flying[0]):
                continue
            flying.remove(one)
            self._offload.cancel(sent.request_id)
            if outcome is not None and outcome.refusal is not None and outcome.refusal.code == "busy":
                admitted.busy(ahead=one.ahead, now_s=self._now())
            result = None if outcome is None else self._take(sent, outcome)
            if result is None:
                try:
                    result = self._fall_back(sent)
                except BackendError as error:
                    result = self._failed(sent.frame, one.decision, str(error))
            result.parts |= sent.parts
            yield self._step(result, one.decision, one.view)

    def _is_due(self, one: _Flying, *, oldest: bool) -> bool:
        """Whether to finish this frame here: it would be late, or it is the first on the link and that is stuck."""
        now_s = self._now()
        request = self._in_flight(one, now_s) if oldest else self._queued(one)
        answer_by_s = one.sent.frame.captured_s + self._answer_within_s
        if now_s >= local_start_s(request, answer_by_s=answer_by_s, local_p95_s=self._local_runs.p95_s):
            return True
        if self._planner.is_fixed or not oldest:
            return False
        return is_stalled(request, now_s=now_s, local_s=self._local_runs.wait_s() + self._local_s())

    def _in_flight(self, one: _Flying, now_s: float) -> InFlight:
        """The first on the link: from the moment on that it was, it has the link for itself."""
        if one.first_s is None:
            one.first_s = now_s if one.ahead else one.sent.submitted_s
        acked_bytes = self._offload.acked_bytes(one.sent.request_id)
        request = one.sent.in_flight(one.first_s, acked_bytes)
        return replace(request, transfer_s=math.inf)  # when its acknowledgements came is not noted

    def _queued(self, one: _Flying) -> InFlight:
        """One behind others: it is expected to wait for them."""
        request, expected = one.sent.in_flight(one.sent.submitted_s), one.sent.expected
        ahead_s = 0.0 if expected is None else one.ahead * expected.bottleneck_s
        return replace(request, expected_s=request.expected_s + ahead_s)

    def _rest(self, flying: deque[_Flying], source: Captured, window: int) -> None:
        """Wait until something can be done: an answer, a frame to start, a deadline to look at."""

        def awake() -> bool:
            if len(flying) < window and source.waiting:
                return True
            return any(self._offload.has_ended(one.sent.request_id) for one in flying)

        self._offload.view()  # raises what ended the link thread: nothing would be waited for any more
        self._offload.rest(until_s=self._now() + _CHECK_EVERY_S, unless=awake)

    def _moved(self, split: int) -> None:
        if self._last_split is not None and split != self._last_split:
            self.counters.moves += 1
        self._last_split = split

    def _step(self, result: Result, decision: Decision, view: LinkView) -> Step:
        self.counters.ended(result.how)
        self.counters.link(late=view.late, reconnects=view.reconnects)
        return Step(result, decision, view, self._load.factor, self._load.cpu_load)
