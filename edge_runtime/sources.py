"""Where frames come from: a folder of pictures or an ``.npz``, as fast as answers come or at a camera's pace."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from split_model.features.data import Data


@dataclass(frozen=True)
class Frame:
    """One input and when it was captured. ``tensors`` are the model's inputs."""

    index: int
    name: str
    tensors: tuple[NDArray[Any], ...]
    label: int | None
    captured_s: float


def frames(
    data: Data,
    *,
    repeat: int,
    interval_s: float,
    stopped: Callable[[], bool],
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Frame]:
    """The frames of a data set, ``repeat`` times over (0: until ``stopped``). None is ever dropped.

    With an interval, frame ``i`` is captured ``i`` intervals after the first, whether or not anybody is ready
    for it: one that has to wait is already that old. Decoding happens before the frame is due.
    """
    index = 0
    start_s: float | None = None
    round_ = 0
    while repeat == 0 or round_ < repeat:
        for sample in data:
            start_s = now() if start_s is None else start_s
            due_s = start_s + index * interval_s if interval_s else now()
            while not stopped() and (wait_s := due_s - now()) > 0:
                sleep(min(wait_s, 0.1))
            if stopped():
                return
            yield Frame(index, sample.name, sample.tensors, sample.label, due_s)
            index += 1
        round_ += 1
