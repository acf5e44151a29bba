"""All sources as one stream of frames: a thread each, and the rule by which a source's frames wait or give way.

Sources take turns: one that is always ready does not keep another one waiting for more than a frame. When the
program is told to stop, or a source fails, what has been accepted by then is still handed out; a source that does
not end then, as a camera whose driver hangs, is left behind.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from msgspec.structs import replace

from edge_runtime.sources.source import Answer, Frame, Source
from split_model.service.stoppable_thread import STOP_S, StoppableThread

log = logging.getLogger(__name__)

#: A source whose thread has not ended and gives nothing for this long after the stop is stuck.
_STUCK_AFTER_S = 5.0
#: How often a wait for the next frame looks whether it is to end.
_LOOK_EVERY_S = 0.5


class _Lane:
    """One source and its waiting frames; its ``thread``, once that runs."""

    def __init__(self, name: str, source: Source, subject: str) -> None:
        self.name = name
        self.source = source
        self.subject = subject
        self.waiting: deque[Frame | Callable[[], Frame]] = deque()
        self.frames = 0
        self.dropped = 0
        self.ended = False
        self.is_stuck = False
        self.thread: StoppableThread | None = None


class Multiplexer:
    """Iterate over it in one thread. Ends when every source has ended; then raises what a source raised, if any.

    ``sources``: by name, with their subjects. ``stopped``: whether no more is to be accepted. ``ahead``: a single
    source whose frames come on demand is read ahead as well, in a thread; else it is read when it is wanted.
    """

    def __init__(
        self,
        sources: Mapping[str, tuple[Source, str]],
        *,
        stopped: Callable[[], bool],
        ahead: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lanes = {name: _Lane(name, source, subject) for name, (source, subject) in sources.items()}
        self._stopped = stopped
        self._ahead = ahead
        self._now = now
        self._changed = threading.Condition()
        self._turn: deque[_Lane] = deque(self._lanes.values())
        self._error: BaseException | None = None
        self._closed = False
        self._index = 0

    @property
    def dropped(self) -> int:
        """Frames that gave way to later ones, of all sources."""
        with self._changed:
            return sum(lane.dropped for lane in self._lanes.values())

    def counters_by_source(self) -> dict[str, dict[str, int]]:
        """``frames`` that a source gave, those of them ``dropped``, and its own counters."""
        with self._changed:
            return {
                name: {"frames": lane.frames, "dropped": lane.dropped} | lane.source.counters()
                for name, lane in self._lanes.items()
            }

    def answered(self, answer: Answer) -> None:
        """Tell a frame's source how it ended."""
        self._lanes[answer.frame.source].source.answered(answer)

    def __iter__(self) -> Iterator[Frame]:
        """Start the sources, and hand out their frames as they come."""
        lanes = list(self._lanes.values())
        if len(lanes) == 1 and lanes[0].source.on_demand and not self._ahead:
            yield from self._straight(lanes[0])
            return
        for lane in lanes:
            lane.thread = StoppableThread(f"source-{lane.name}", partial(self._run, lane))
            lane.thread.start()
        while (taken := self._take()) is not None:
            yield self._finished(*taken)
        if self._error is not None:
            raise self._error

    def close(self, timeout_s: float = STOP_S) -> None:
        """End the threads, whatever still waits, and close the sources, but for those whose thread hangs."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        deadline_s = time.monotonic() + timeout_s
        for lane in self._lanes.values():
            ended = not lane.is_stuck
            if lane.thread is not None and ended:
                ended = lane.thread.stop(deadline_s - time.monotonic())
            if ended:  # else its thread still uses it
                lane.source.close()

    def _straight(self, lane: _Lane) -> Iterator[Frame]:
        for item in lane.source.frames(self._must_end):
            lane.frames += 1
            yield self._finished(lane, item)

    def _finished(self, lane: _Lane, item: Frame | Callable[[], Frame]) -> Frame:
        frame = item() if callable(item) else item
        captured_s = self._now() if lane.source.on_demand else frame.captured_s
        self._index += 1
        return replace(frame, index=self._index - 1, source=lane.name, subject=lane.subject, captured_s=captured_s)

    def _must_end(self) -> bool:
        return self._stopped() or self._closed or self._error is not None

    def _run(self, lane: _Lane) -> None:
        error: BaseException | None = None
        try:
            for item in lane.source.frames(self._must_end):
                if not self._put(lane, item):
                    break
        except BaseException as raised:  # noqa: BLE001  whatever it is, the frame loop raises it
            error = raised
        with self._changed:
            lane.ended = True
            self._error = self._error or error
            self._changed.notify_all()

    def _put(self, lane: _Lane, item: Frame | Callable[[], Frame]) -> bool:
        with self._changed:
            if lane.source.policy == "latest" and lane.waiting:
                lane.waiting.clear()
                lane.dropped += 1
            while len(lane.waiting) >= lane.source.queue_frames and not self._closed:
                self._changed.wait()
            if self._closed:
                return False
            lane.frames += 1
            lane.waiting.append(item)
            self._changed.notify_all()
            return True

    def _take(self) -> tuple[_Lane, Frame | Callable[[], Frame]] | None:
        ending_s: float | None = None  # since when nothing has come although all sources are to end
        with self._changed:
            while True:
                for lane in self._turn:
                    if lane.waiting:
                        self._turn.remove(lane)
                        self._turn.append(lane)
                        self._changed.notify_all()
                        return lane, lane.waiting.popleft()
                if self._closed or all(lane.ended for lane in self._turn):
                    return None
                if self._must_end():
                    ending_s = self._now() if ending_s is None else ending_s
                    if self._now() - ending_s >= _STUCK_AFTER_S:
                        for lane in self._turn:
                            if not lane.ended:
                                self._leave_behind(lane)
                        continue
                self._changed.wait(_LOOK_EVERY_S)

    def _leave_behind(self, lane: _Lane) -> None:
        log.error("source %s does not stop: going on without it", lane.name)
        lane.ended = lane.is_stuck = True
