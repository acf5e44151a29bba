"""AVIF files whose boxes lie: the decoder obeys the streams in them, and so does the bound on memory."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from split_model.bundle import ImagePreprocess
from split_model.errors import BadInputError
from split_model.features.avif_size import UnreadableSizeError, coded_pixels
from split_model.features.picture_files import open_picture

RGB = ImagePreprocess(resize=224, crop=(224, 224))


def saved(path: Path, mode: str, size: tuple[int, int], **options: Any) -> Path:
    Image.new(mode, size).save(path, "AVIF", speed=10, **options)
    return path


def states(path: Path, width: int, height: int) -> Path:
    """The same file, with another size in its boxes."""
    content = path.read_bytes()
    for at in [at for at in range(len(content)) if content.startswith(b"ispe", at)]:
        sides = width.to_bytes(4, "big") + height.to_bytes(4, "big")
        content = content[: at + 8] + sides + content[at + 16 :]
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("mode", "streams"), [("RGB", 1), ("RGBA", 2), ("L", 1)])
def test_the_streams_are_counted(tmp_path: Path, mode: str, streams: int) -> None:
    path = saved(tmp_path / "a.avif", mode, (641, 479))
    assert coded_pixels(path) == streams * 641 * 479
    assert coded_pixels(states(path, 16, 16)) == streams * 641 * 479


def test_of_a_moving_picture_the_first_frame_counts(tmp_path: Path) -> None:
    """Its frames may be as large as the bits for it allow."""
    more = [Image.new("RGB", (300, 200), (shade, 0, 0)) for shade in (50, 100)]
    path = saved(tmp_path / "a.avif", "RGB", (300, 200), save_all=True, append_images=more)
    assert coded_pixels(path) == 512 * 256
    assert open_picture(path, RGB).shape == (200, 300, 3)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_file_that_states_less_than_it_holds_is_refused_before_it_is_decoded(tmp_path: Path, mode: str) -> None:
    path = states(saved(tmp_path / "bomb.avif", mode, (8000, 6000)), 640, 480)
    with pytest.raises(BadInputError, match=r"48\.0 megapixels.* MiB to decode"):
        open_picture(path, RGB)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), max_size=8), st.integers(0, 600))
def test_damaged_files_end_in_a_number_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], cut: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    if not (folder / "whole.avif").exists():
        saved(folder / "whole.avif", "RGBA", (320, 240))
    content = bytearray((folder / "whole.avif").read_bytes())
    for at, value in changes:
        content[at % len(content)] = value
    (folder / "damaged.avif").write_bytes(content[: len(content) - cut])
    with contextlib.suppress(UnreadableSizeError):
        assert coded_pixels(folder / "damaged.avif") > 0
