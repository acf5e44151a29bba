"""The frames of a source, taken in a thread of its own, so that nobody has to wait for one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable

from edge_runtime.sources import Frame


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
