"""The kind ``files``: a folder of pictures or an ``.npz``, read as fast as answers come or at a fixed rate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from edge_runtime.sources.source import Frame, Source, SourceTable, Wanted
from split_model.errors import BadInputError
from split_model.features.data import BadSampleError, Data, Sample, open_data, spelled


class FilesTable(SourceTable, frozen=True, tag="files"):
    """``path`` is a folder of pictures or an ``.npz``; it is read ``repeat`` times, 0: without end.

    ``interval_s``: seconds between two frames, as of a camera; 0: the next frame as soon as the last is answered.
    """

    path: Path
    repeat: Annotated[int, msgspec.Meta(ge=0)] = 1
    interval_s: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0

    def check(self, wanted: Wanted) -> None:
        """Open the files and read their headers."""
        self.open(wanted)

    def open(self, wanted: Wanted) -> Files:
        """Open the files; `BadInputError` or `MissingInputError` if they do not fit the model."""
        data = open_data(self.path, wanted.inputs, wanted.preprocess, wanted.labels)
        return Files(data, repeat=self.repeat, interval_s=self.interval_s)


class Files(Source):
    """Frames of a data set; none is ever dropped."""

    def __init__(self, data: Data, *, repeat: int, interval_s: float) -> None:
        self.on_demand = interval_s == 0.0
        self._data = data
        self._repeat = repeat
        self._interval_s = interval_s

    def frames(self, stopped: Callable[[], bool]) -> Iterator[Frame]:
        """See `frames`."""
        return frames(self._data, repeat=self._repeat, interval_s=self._interval_s, stopped=stopped)

    def counters(self) -> dict[str, int]:
        """``passed_over``: number of files in the folder that are not readable pictures; the log names them."""
        return {"passed_over": len(self._data.passed_over)} if self._data.passed_over else {}


def frames(
    data: Data,
    *,
    repeat: int,
    interval_s: float,
    stopped: Callable[[], bool],
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Frame]:
    """Yield the frames of a data set ``repeat`` times (0: until ``stopped``). None is ever dropped.

    With an interval, frame ``i`` counts as captured ``i`` intervals after the first, even if it has to wait: its
    age then includes the wait. It is decoded before it is due. A sample that cannot be read is a frame with an
    ``error``. Raises `BadInputError` if no sample of a whole round could be read, as more rounds would only repeat
    that.
    """
    index = 0
    start_s: float | None = None
    round_ = 0
    while repeat == 0 or round_ < repeat:
        good = 0
        for sample in _samples(data):
            start_s = now() if start_s is None else start_s
            due_s = start_s + index * interval_s if interval_s else now()
            while not stopped() and (wait_s := due_s - now()) > 0:
                sleep(min(wait_s, 0.1))
            if stopped():
                return
            if isinstance(sample, BadInputError):
                name = sample.name if isinstance(sample, BadSampleError) else ""
                yield Frame(index, name, (), None, due_s, error=spelled(str(sample)))
            else:
                good += 1
                yield Frame(index, sample.name, sample.tensors, sample.label, due_s, placement=sample.placement)
            index += 1
        if not good:
            raise BadInputError("not one sample of the source could be read", remedy="see the errors above")
        round_ += 1


def _samples(data: Data) -> Iterator[Sample | BadInputError]:
    """Yield the samples, and an error for each one that cannot be read; the data decide whether more follow."""
    samples = iter(data)
    while True:
        try:
            yield next(samples)
        except StopIteration:  # noqa: PERF203  the one way to go on with the same iterator
            return
        except BadInputError as error:
            yield error
