"""Takes frames from a source: in the caller's thread if it waits anyway, else in a second thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable

from edge_runtime.sources import Frame
from split_model.service.stoppable_thread import StoppableThread


class CaptureThread:
    """Takes the frames of a source; ``arrived`` is called for each that the thread took, and at the end.

    It takes a frame only on request: a frame of a live source that waits here would grow old while newer ones come.
    A source that is slow to read reads ahead in its own thread. The thread starts at its first use.
    """

    def __init__(self, frames: Iterable[Frame], arrived: Callable[[], None]) -> None:
        self._frames = iter(frames)
        self._arrived = arrived
        self._queue: queue.SimpleQueue[Frame | BaseException | None] = queue.SimpleQueue()
        self._wanted = threading.Semaphore(0)
        self._asked = False
        self._thread = StoppableThread("capture", self._capture, wake=self._wanted.release)
        self.ended = False
        self.error: BaseException | None = None

    @property
    def has_news(self) -> bool:
        """Whether the thread has a frame, or has found the end."""
        return not self._queue.empty()

    def take(self) -> Frame | None:
        """Wait for the next frame; None at the end (``ended``; ``error`` if the source raised)."""
        if self.ended:
            return None
        if self._asked:
            return self._told(self._queue.get())
        try:
            frame = next(self._frames, None)
        except BaseException as error:  # noqa: BLE001  whatever it is, the frame loop raises it
            return self._told(error)
        self.ended = frame is None
        return frame

    def poll(self) -> Frame | None:
        """Return the next frame if it is there; else let the thread wait for it, for a later `take` or `poll`."""
        if self.ended:
            return None
        if not self._asked:
            self._asked = True
            if self._thread.ident is None:
                self._thread.start()
            self._wanted.release()
        try:
            return self._told(self._queue.get_nowait())
        except queue.Empty:
            return None

    def close(self) -> None:
        """Let the thread end after its present frame, without waiting, as a source may be stuck."""
        self.ended = True
        self._thread.ask_to_stop()

    def _told(self, taken: Frame | BaseException | None) -> Frame | None:
        self._asked = False
        if isinstance(taken, BaseException):
            self.ended, self.error = True, taken
            return None
        self.ended = taken is None
        return taken

    def _next(self) -> Frame | BaseException | None:
        try:
            return next(self._frames, None)
        except BaseException as error:  # noqa: BLE001  whatever it is, the frame loop raises it
            return error

    def _capture(self) -> None:
        while True:
            self._wanted.acquire()
            if self._thread.stopping.is_set():
                return
            taken = self._next()
            self._queue.put(taken)
            self._arrived()
            if taken is None or isinstance(taken, BaseException):
                return
