"""Takes the frames of a source: in the caller's thread where it waits anyway, else in a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable

from edge_runtime.sources import Frame
from split_model.service.stoppable_thread import StoppableThread


class CaptureThread:
    """The frames of a source; ``arrived`` hears of each that the thread has taken, and of the end.

    None is taken before it is asked for: of a live source, a frame that waits here would grow old while newer ones
    come. A source that takes long to read reads ahead in its own thread. The thread starts when it is needed first.
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
        """Whether the thread has a frame, or the news that there is no more."""
        return not self._queue.empty()

    def take(self) -> Frame | None:
        """The next frame, waited for; None if there is no more (``ended``, by ``error`` if the source raised)."""
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
        """The next frame if it is there; else the thread waits for it, and `take` or `poll` get it later."""
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
        """Let the thread end after the frame it is at; not waited for, as a source may be stuck."""
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
