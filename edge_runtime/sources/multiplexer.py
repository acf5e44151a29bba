"""Merges all sources into one stream of frames, with one thread for each source.

Sources take turns: one that is always ready delays another by one frame at most. A source that hangs or fails is
reopened (`supply`), and the others go on meanwhile. At a stop, frames that were accepted before it are still
yielded; a source that does not end then, for example because its driver hangs, is abandoned.
"""

# Over 300 lines: one lock guards sources that come, go, hang and end; a cut through it would share that lock.

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial

from msgspec.structs import replace

from edge_runtime.sources.source import Answer, Frame, Source
from edge_runtime.sources.supply import Lane, Supply, Turn
from split_model.service.stoppable_thread import STOP_S, StoppableThread

log = logging.getLogger(__name__)

#: Seconds after the stop without a frame, after which a source whose thread has not ended counts as stuck.
_STUCK_AFTER_S = 5.0
#: Seconds between two checks, during a wait for a frame, for the stop and for sources that hang.
_LOOK_EVERY_S = 0.5


class Multiplexer:
    """The merged stream; iterate in one thread. At the end of all sources it raises the first error of one.

    Args:
        sources: By name.
        stopped: Returns whether to accept no more frames.
        ahead: Also read a single on-demand source ahead in a thread; otherwise it is read when a frame is
                wanted.
        persistent: Retry failed sources although no other one works; otherwise that ends the stream.

    """

    def __init__(
        self,
        sources: Mapping[str, Supply],
        *,
        stopped: Callable[[], bool],
        ahead: bool = False,
        persistent: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lanes = {name: Lane(name, supply, source=supply.opened) for name, supply in sources.items()}
        self._stopped = stopped
        self._ahead = ahead
        self._persistent = persistent
        self._now = now
        self._changed = threading.Condition()
        self._order: deque[Lane] = deque(self._lanes.values())
        self._under_way: dict[int, Source] = {}
        self._leaving: list[Lane] = []
        self._closing: list[StoppableThread] = []
        self._dropped_before = 0  # by sources that were removed
        self._closed = False
        self._index = 0
        for lane in self._lanes.values():
            if lane.supply.fault is not None:
                lane.failed(lane.supply.fault, now())

    @property
    def dropped(self) -> int:
        """Number of frames of all sources that were replaced by later ones."""
        with self._changed:
            return self._dropped_before + sum(lane.dropped for lane in self._order)

    def counters_by_source(self) -> dict[str, dict[str, int]]:
        """Counters of each source: ``frames``, ``dropped``, ``restarts`` if any, and its own."""
        with self._changed:
            return {
                name: {"frames": lane.frames, "dropped": lane.dropped}
                | ({"restarts": lane.restarts} if lane.restarts else {})
                | ({} if lane.source is None else lane.source.counters())
                for name, lane in self._lanes.items()
            }

    def trouble_by_source(self) -> dict[str, str]:
        """The present faults of sources that give no frames, by name. From any thread."""
        now_s = self._now()
        with self._changed:
            told = {name: lane.trouble(now_s) for name, lane in self._lanes.items()}
        return {name: trouble for name, trouble in told.items() if trouble}

    def change(self, supplies: Mapping[str, Supply], *, gone: Collection[str]) -> None:
        """Close some sources and open others, while the rest goes on. From any thread.

        Accepted frames of a closed source are still yielded. The others open when it is closed, as they may need
        the same socket, port or folder.

        Args:
            supplies: The new sources by name, which may also be in ``gone``.
            gone: Names of the sources to close.

        """
        with self._changed:
            for name in gone:
                lane = self._lanes.pop(name)
                lane.leaves(self._now())
                self._leaving.append(lane)
            for name, supply in supplies.items():
                self._lanes[name] = Lane(name, supply)
                self._order.append(self._lanes[name])
            self._changed.notify_all()

    def answered(self, answer: Answer, *, kept: bool = True) -> None:
        """Give a frame's outcome to its source; ``kept``: whether the answer is stored."""
        source = self._under_way.pop(answer.frame.index, None)
        if source is None:
            return
        if kept or not source.waits_for_sinks:
            source.answered(answer)
        else:
            source.unkept(answer)

    def __iter__(self) -> Iterator[Frame]:
        """Start the sources, and yield their frames as they come."""
        lanes = list(self._lanes.values())
        source = lanes[0].source
        alone = len(lanes) == 1 and source is not None and source.on_demand and not source.waits_for_sinks
        if alone and not self._ahead:
            yield from self._straight(lanes[0])
        while (taken := self._take()) is not None:
            yield self._finished(*taken)
        error = next((lane.error for lane in self._lanes.values() if lane.error is not None), None)
        if error is not None and not self._stopped():
            raise error

    def close(self, timeout_s: float = STOP_S) -> None:
        """End the threads, drop waiting frames, and close all sources except those whose thread hangs."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        deadline_s = time.monotonic() + timeout_s
        for lane in (*self._lanes.values(), *self._leaving):
            turn = lane.turn or Turn(None if lane.restarts else lane.supply.opened)
            if turn.left_behind or not self._has_ended(turn, deadline_s):
                continue  # its thread still uses it
            if turn.source is not None:
                closing = StoppableThread(f"close-{lane.name}", turn.source.close)
                closing.start()
                closing.stop(deadline_s - time.monotonic())

    def _has_ended(self, turn: Turn, deadline_s: float) -> bool:
        return turn.thread is None or turn.thread.stop(deadline_s - time.monotonic())

    def _straight(self, lane: Lane) -> Iterator[Frame]:
        source = lane.source
        assert source is not None
        turn = lane.turn = Turn(source, since_s=self._now())
        turn.items = iter(source.frames(partial(self._must_end, turn)))
        for item in turn.items:
            turn.since_s = None
            lane.frames += 1
            yield self._finished(lane, turn, item)
            turn.since_s = self._now()
            if len(self._order) > 1:  # other sources were added: it goes on in its own thread
                turn.thread = StoppableThread(f"source-{lane.name}", partial(self._run, lane, turn, None))
                turn.thread.start()
                return
        turn.since_s = None
        lane.ended = True

    def _finished(self, lane: Lane, turn: Turn, item: Frame | Callable[[], Frame]) -> Frame:
        frame = item() if callable(item) else item
        source = turn.source
        assert source is not None
        captured_s = self._now() if source.on_demand else frame.captured_s
        index = self._index
        self._index += 1
        self._under_way[index] = source
        return replace(frame, index=index, source=lane.name, subject=lane.supply.subject, captured_s=captured_s)

    def _must_end(self, turn: Turn) -> bool:
        """Whether a source must end. Sources call this all the time, which shows that they are alive."""
        if turn.since_s is not None:
            turn.since_s = self._now()
        return turn.told_to_end or turn.left_behind or self._closed or self._stopped()

    def _begin(self, lane: Lane) -> None:
        """Begin a turn. Call it under the lock."""
        opened = lane.supply.opened if not lane.restarts else None
        old = lane.source if lane.restarts else None
        turn = lane.turn = Turn(opened, since_s=self._now())
        turn.thread = StoppableThread(f"source-{lane.name}", partial(self._run, lane, turn, old))
        turn.thread.start()

    def _run(self, lane: Lane, turn: Turn, old: Source | None) -> None:
        error: BaseException | None = None
        try:
            if turn.source is None:
                turn.source = (old.renewed() if old is not None else None) or lane.supply.open()
                with self._changed:
                    if lane.turn is turn:
                        lane.source = turn.source
                        lane.works(self._now())
            for item in turn.items or turn.source.frames(partial(self._must_end, turn)):
                if not self._put(lane, turn, item):
                    break
        except BaseException as raised:  # noqa: BLE001  whatever it is, it is one source's trouble
            error = raised
        with self._changed:
            ends = lane.turn is turn and (error is None or self._closed or self._stopped() or turn.told_to_end)
            turn.since_s = self._now()
        if turn.source is not None and not ends:  # it may be slow, or hang as well
            with contextlib.suppress(OSError, RuntimeError):
                turn.source.close()
        with self._changed:
            turn.since_s = None
            if lane.turn is turn:
                if ends:
                    lane.ended = True
                else:
                    lane.failed(error or RuntimeError("ended"), self._now())
            self._changed.notify_all()

    def _put(self, lane: Lane, turn: Turn, item: Frame | Callable[[], Frame]) -> bool:
        source = turn.source
        assert source is not None
        with self._changed:
            turn.since_s = None
            if lane.turn is not turn:
                return False
            if source.policy == "latest" and lane.waiting:
                lane.waiting.clear()
                lane.dropped += 1
            while len(lane.waiting) >= source.queue_frames and not self._closed:
                self._changed.wait()
            if self._closed:
                return False
            lane.works(self._now(), gave=True)
            lane.waiting.append((turn, item))
            self._changed.notify_all()
            turn.since_s = self._now()
            return True

    def _take(self) -> tuple[Lane, Turn, Frame | Callable[[], Frame]] | None:
        ending_s: float | None = None  # the time since when nothing has come although all sources must end
        with self._changed:
            while True:
                self._look_after()
                for lane in self._order:
                    if lane.waiting:
                        self._order.remove(lane)
                        self._order.append(lane)
                        self._changed.notify_all()
                        return (lane, *lane.waiting.popleft())
                if self._closed or all(lane.ended or self._is_lost(lane) for lane in self._order):
                    return None
                if self._stopped():
                    ending_s = self._now() if ending_s is None else ending_s
                    if self._now() - ending_s >= _STUCK_AFTER_S:
                        for lane in self._order:
                            if not lane.ended:
                                self._give_up(lane)
                        continue
                self._changed.wait(_LOOK_EVERY_S)

    def _is_lost(self, lane: Lane) -> bool:
        """Whether not to wait for a lane without a turn: all sources must end, or it failed for good."""
        if lane.turn is not None:
            return False
        return self._stopped() or (lane.is_broken and not self._persistent)

    def _look_after(self) -> None:
        """Begin turns, and abandon those that hang. Call it under the lock."""
        if self._closed or self._stopped():
            return
        now_s = self._now()
        for lane in [lane for lane in self._leaving if self._has_left(lane, now_s)]:
            self._let_go(lane)
        self._closing = [thread for thread in self._closing if thread.is_alive()]
        if self._leaving or self._closing:
            return  # the next sources may need their devices
        for lane in self._order:
            if lane.hangs_for_good(now_s):
                lane.leave_behind(now_s)
            if lane.begins(now_s):
                self._begin(lane)

    def _has_left(self, lane: Lane, now_s: float) -> bool:
        """Whether a removed source has ended or hangs, and all of its frames are answered."""
        assert lane.left_s is not None
        hangs = now_s - lane.left_s >= _STUCK_AFTER_S and not lane.ended
        if hangs and lane.turn is not None:
            lane.turn.left_behind = True
        under_way = any(source is lane.source for source in list(self._under_way.values()))
        return (lane.ended or hangs) and not lane.waiting and not under_way

    def _let_go(self, lane: Lane) -> None:
        """Close a removed source; if that hangs, the wait is bounded."""
        self._leaving.remove(lane)
        self._order.remove(lane)
        self._dropped_before += lane.dropped
        log.info("source %s: closed, as the config no longer names it", lane.name)
        if lane.source is not None and not (lane.turn is not None and lane.turn.left_behind):
            thread = StoppableThread(f"close-{lane.name}", lane.source.close)
            thread.start()
            self._closing.append(thread)

    def _give_up(self, lane: Lane) -> None:
        log.error("source %s does not stop: going on without it", lane.name)
        lane.ended = True
        if lane.turn is not None:
            lane.turn.left_behind = True
