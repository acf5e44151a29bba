"""All sources as one stream of frames: a thread each, and the rule by which a source's frames wait or give way.

Sources take turns: one that is always ready does not keep another one waiting for more than a frame. One that hangs
or fails is opened again (`supply`), and the others go on meanwhile. When the program is told to stop, what has been
accepted by then is still handed out; a source that does not end then, as one whose driver hangs, is left behind.
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

#: A source whose thread has not ended and gives nothing for this long after the stop is stuck.
_STUCK_AFTER_S = 5.0
#: How often a wait for the next frame looks whether it is to end, and after sources that hang.
_LOOK_EVERY_S = 0.5


class Multiplexer:
    """Iterate over it in one thread. Ends when every source has ended; then raises what a source raised, if any.

    Args:
        sources: By name.
        stopped: Whether no more is to be accepted.
        ahead: A single source whose frames come on demand is read ahead as well, in a thread; else it is read when
            it is wanted.
        persistent: Sources that have failed are tried again although no other one works; else that ends it.

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
        self._dropped_before = 0  # by sources that have left
        self._closed = False
        self._index = 0
        for lane in self._lanes.values():
            if lane.supply.fault is not None:
                lane.failed(lane.supply.fault, now())

    @property
    def dropped(self) -> int:
        """Frames that gave way to later ones, of all sources."""
        with self._changed:
            return self._dropped_before + sum(lane.dropped for lane in self._order)

    def counters_by_source(self) -> dict[str, dict[str, int]]:
        """``frames`` that a source gave, those ``dropped``, its ``restarts`` if any, and its own counters."""
        with self._changed:
            return {
                name: {"frames": lane.frames, "dropped": lane.dropped}
                | ({"restarts": lane.restarts} if lane.restarts else {})
                | ({} if lane.source is None else lane.source.counters())
                for name, lane in self._lanes.items()
            }

    def trouble_by_source(self) -> dict[str, str]:
        """What is wrong now with those that give no frames, in a few words. From any thread."""
        now_s = self._now()
        with self._changed:
            told = {name: lane.trouble(now_s) for name, lane in self._lanes.items()}
        return {name: trouble for name, trouble in told.items() if trouble}

    def change(self, supplies: Mapping[str, Supply], *, gone: Collection[str]) -> None:
        """Close some sources, and open others, while the rest goes on. From any thread.

        What a source that goes has accepted is still handed out. Others open when it is closed: they may want the
        same socket, port or folder.

        Args:
            supplies: By name, which may be one of ``gone``.
            gone: Names of sources.

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
        """Tell a frame's source how it ended, and whether every sink has ``kept`` the answer."""
        source = self._under_way.pop(answer.frame.index, None)
        if source is None:
            return
        if kept or not source.waits_for_sinks:
            source.answered(answer)
        else:
            source.unkept(answer)

    def __iter__(self) -> Iterator[Frame]:
        """Start the sources, and hand out their frames as they come."""
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
        """End the threads, whatever still waits, and close the sources, but for those whose thread hangs."""
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
            if len(self._order) > 1:  # others came: it goes on in a thread of its own
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
        """A source asks this all the time, so that it is known to be alive."""
        if turn.since_s is not None:
            turn.since_s = self._now()
        return turn.told_to_end or turn.left_behind or self._closed or self._stopped()

    def _begin(self, lane: Lane) -> None:
        """Begin a turn. Under the lock."""
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
        if turn.source is not None and not ends:  # may take its time, or hang as well
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
        ending_s: float | None = None  # since when nothing has come although all sources are to end
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
        """Whether a lane without a turn is not waited for: all are to end, or it failed for good."""
        if lane.turn is not None:
            return False
        return self._stopped() or (lane.is_broken and not self._persistent)

    def _look_after(self) -> None:
        """Begin turns, and give up those that hang. Under the lock."""
        if self._closed or self._stopped():
            return
        now_s = self._now()
        for lane in [lane for lane in self._leaving if self._has_left(lane, now_s)]:
            self._let_go(lane)
        self._closing = [thread for thread in self._closing if thread.is_alive()]
        if self._leaving or self._closing:
            return  # their successors may need the devices they hold
        for lane in self._order:
            if lane.hangs_for_good(now_s):
                lane.leave_behind(now_s)
            if lane.begins(now_s):
                self._begin(lane)

    def _has_left(self, lane: Lane, now_s: float) -> bool:
        """Whether a source that leaves has ended or hangs, and all of its frames are answered."""
        assert lane.left_s is not None
        hangs = now_s - lane.left_s >= _STUCK_AFTER_S and not lane.ended
        if hangs and lane.turn is not None:
            lane.turn.left_behind = True
        under_way = any(source is lane.source for source in list(self._under_way.values()))
        return (lane.ended or hangs) and not lane.waiting and not under_way

    def _let_go(self, lane: Lane) -> None:
        """Close a source that has left; what hangs while it is closed holds up nobody for long."""
        self._leaving.remove(lane)
        self._order.remove(lane)
        self._dropped_before += lane.dropped
        log.info("source %s: closed, the config names it no more", lane.name)
        if lane.source is not None and not (lane.turn is not None and lane.turn.left_behind):
            thread = StoppableThread(f"close-{lane.name}", lane.source.close)
            thread.start()
            self._closing.append(thread)

    def _give_up(self, lane: Lane) -> None:
        log.error("source %s does not stop: going on without it", lane.name)
        lane.ended = True
        if lane.turn is not None:
            lane.turn.left_behind = True
