"""Passes the source's frames to one frame loop after another, and watches for frames that are late."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from edge_runtime.sources import Frame
from split_model.service.heartbeats import Heartbeats


class FrameStream:
    """The stream of frames: give `until` to a frame loop, and call `answered` for each frame in the sink.

    ``within_s()``: the seconds that a frame may take once a loop has taken it.
    """

    def __init__(self, source: Iterator[Frame], beats: Heartbeats, *, within_s: Callable[[], float]) -> None:
        self.ended = False
        self._source = source
        self._beats = beats
        self._within_s = within_s
        self._held: Frame | None = None
        self._under_way: set[int] = set()

    @property
    def under_way(self) -> int:
        """Number of frames that a loop has taken and that are not answered."""
        return len(self._under_way)

    def until(self, over: Callable[[], bool]) -> Iterator[Frame]:
        """Yield frames until the source ends or ``over`` holds; a frame that waits then is for the next loop."""
        while True:
            if self._held is None:
                self._held = next(self._source, None)
            if self._held is None:
                self.ended = True
                return
            if over():
                return
            frame, self._held = self._held, None
            self._under_way.add(frame.index)
            self._beats.expect(_name(frame), within_s=self._within_s())
            yield frame

    def answered(self, frame: Frame) -> None:
        """Note that a frame's answer has reached the sinks."""
        self._under_way.discard(frame.index)
        self._beats.done(_name(frame))


def _name(frame: Frame) -> str:
    return f"the answer of frame {frame.index}"
