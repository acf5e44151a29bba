"""Frames at a camera's pace, and what cannot be read among what can. Time is the test's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from PIL import Image

from edge_runtime.sources import Frame, Wanted
from edge_runtime.sources.files import FilesTable, frames
from split_model.bundle import ImagePreprocess, TensorSpec
from split_model.errors import BadInputError
from split_model.features.data import BadSampleError, Sample


class Clock:
    now_s = 100.0

    def now(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= 0.1, "a longer sleep would keep SIGTERM waiting"
        self.now_s += seconds


def sample(name: str) -> Sample:
    return Sample(name, (np.zeros(1),), 3, Path(name))


def make(
    data: Any, clock: Clock, *, repeat: int = 1, interval_s: float = 0.0, stopped: Any = None
) -> Iterator[Frame]:
    stop = stopped or (lambda: False)
    return frames(
        cast("Any", data), repeat=repeat, interval_s=interval_s, stopped=stop, now=clock.now, sleep=clock.sleep
    )


def test_pace_does_not_depend_on_who_takes_the_frames() -> None:
    clock = Clock()
    captured = []
    for frame in make([sample("a"), sample("b")], clock, repeat=3, interval_s=0.5):
        captured.append(frame.captured_s)
        clock.now_s += 1.3 if frame.index == 1 else 0.1  # the second one takes longer than two intervals
    assert captured == pytest.approx([100.0, 100.5, 101.0, 101.5, 102.0, 102.5])


def test_without_a_pace_frames_are_captured_when_asked_for() -> None:
    clock = Clock()
    captured = []
    for frame in make([sample("a")], clock, repeat=3):
        captured.append(frame.captured_s)
        clock.now_s += 1.0
    assert captured == [100.0, 101.0, 102.0]


def test_stop_ends_the_wait_for_the_next_frame() -> None:
    clock = Clock()
    found = list(make([sample("a")], clock, repeat=0, interval_s=60.0, stopped=lambda: clock.now_s > 103.0))
    assert len(found) == 1
    assert clock.now_s < 103.5


class Broken:
    """Every name but those in ``good`` cannot be read; goes on after that, as a folder does."""

    def __init__(self, names: str, good: str) -> None:
        self.names, self.good = names, good

    def __iter__(self) -> Iterator[Sample]:
        return map(self.read, self.names)

    def read(self, name: str) -> Sample:
        if name not in self.good:
            raise BadSampleError(f"{name}: not a picture", name=name)
        return sample(name)


def test_what_cannot_be_read_is_a_frame_with_its_error() -> None:
    found = list(make(Broken("abcd", good="bd"), Clock(), repeat=2))
    assert [frame.name for frame in found] == list("abcdabcd")
    assert [frame.index for frame in found] == list(range(8))
    assert [frame.error for frame in found][:4] == ["a: not a picture", "", "c: not a picture", ""]


def test_a_round_without_anything_to_read_is_the_last() -> None:
    found = []
    with pytest.raises(BadInputError, match="not one sample"):
        found.extend(frame.name for frame in make(Broken("abc", good=""), Clock(), repeat=0))
    assert found == ["a", "b", "c"]


def test_names_that_are_no_utf8_can_be_written_into_records(tmp_path: Path) -> None:
    (tmp_path / "a\udcff.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "b\udcff.png")
    spec = TensorSpec(name="in", shape=(1, 8, 8, 3), dtype="float32")
    wanted = Wanted((spec,), preprocess=ImagePreprocess(resize=8, crop=(8, 8)))
    bad, good = FilesTable(path=tmp_path).open(wanted).frames(lambda: False)
    assert (bad.name, good.name) == ("a\\xff.png", "b\\xff.png")
    assert "a\\xff.png: not a picture" in bad.error
    msgspec.json.encode([bad.name, bad.error, good.name])
