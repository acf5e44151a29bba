"""Where a picture lies in a model's input: by hand, in general, and as pixels show it."""

from dataclasses import dataclass

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from split_model.bundle import ImagePreprocess, TensorSpec
from split_model.features.placement import Placement
from split_model.features.preprocess import load_placed, picture_tensor

BOX = ImagePreprocess(resize=96, crop=(96, 96), fit="letterbox", filter="bilinear")
CROP = msgspec.structs.replace(BOX, fit="crop", resize=110)
STRETCH = msgspec.structs.replace(BOX, fit="stretch")
INPUT = TensorSpec(name="x", shape=(1, 96, 96, 3), dtype="float32")


@dataclass
class Corner:
    """Where the picture's corners are in the input."""

    top_left: list
    bottom_right: list


@pytest.mark.parametrize(
    ("preprocess", "size", "expected"),
    [
        # 192 wide halved: 48 high, 24 above
        (BOX, (96, 192), Corner([0, 24], [96, 72])),
        (BOX, (192, 96), Corner([24, 0], [72, 96])),
        (STRETCH, (10, 200), Corner([0, 0], [96, 96])),
        # the shorter side of 110 fits; of 220 across, 124 are cut off, 62 each side
        (CROP, (110, 220), Corner([-62, -7], [158, 103])),
        (CROP, (55, 110), Corner([-62, -7], [158, 103])),
    ],
)
def test_by_hand(preprocess, size, expected):
    place = Placement.of(preprocess, *size)
    ends = np.array([[0.0, 0.0], [size[1], size[0]]])
    assert place.to_input(ends).tolist() == [expected.top_left, expected.bottom_right]
    assert place.to_picture(place.to_input(ends)) == pytest.approx(ends)


sides = st.integers(1, 4000)


@given(
    st.sampled_from([BOX, CROP, STRETCH]), sides, sides, st.tuples(st.floats(0, 1), st.floats(0, 1)),
)  # fmt: skip
def test_there_and_back(preprocess, height, width, at):
    place = Placement.of(preprocess, height, width)
    point = np.array([at[0] * width, at[1] * height])
    there = place.to_input(point)
    assert place.to_picture(there) == pytest.approx(point, abs=1e-6 * max(height, width))
    if preprocess.fit != "crop":  # the whole picture is in the input
        assert np.all(there >= -1e-6)
        assert np.all(there <= 96 + 1e-6)


def dot_in(tensor):
    """Where the bright dot is, as x and y."""
    bright = np.maximum(tensor[0, :, :, 0] - 100.0, 0.0)
    y, x = np.mgrid[:96, :96] + 0.5
    return np.array([(x * bright).sum(), (y * bright).sum()]) / bright.sum()


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([BOX, CROP, STRETCH]), st.integers(60, 400), st.integers(60, 400),
    st.tuples(st.floats(0.35, 0.65), st.floats(0.35, 0.65)),
)  # fmt: skip
def test_a_dot_is_found_where_it_was(preprocess, height, width, at):
    """Through the pixels: a dot's centre in the input, taken back, is where it was drawn, to less than a pixel."""
    place = Placement.of(preprocess, height, width)
    long, short = max(height, width), min(height, width)
    if preprocess.fit == "crop" and long > 1.5 * short:
        return  # it may be cut off
    picture = np.zeros((height, width, 3), np.uint8)
    radius = 6 + long // 30
    y, x = np.mgrid[:height, :width] + 0.5
    centre = np.array([at[0] * width, at[1] * height])
    picture[np.hypot(x - centre[0], y - centre[1]) < radius] = 255
    drawn = np.argwhere(picture[..., 0])[:, ::-1].mean(axis=0) + 0.5
    found = place.to_picture(dot_in(picture_tensor(picture, preprocess, INPUT)))
    assert np.abs(found - drawn).max() < 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("preprocess", [BOX, CROP, STRETCH])
def test_coordinates_are_of_the_upright_picture(tmp_path, orientation, preprocess):
    """Whatever a file's Exif note says, a dot that a viewer shows at a place is found there."""
    from PIL import ImageOps

    stored = Image.new("RGB", (120, 90))
    stored.paste((255, 255, 255), (50, 30, 66, 46))
    exif = stored.getexif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    stored.save(path, exif=exif)
    seen = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    tensor, place = load_placed(path, preprocess, INPUT)
    assert place.picture == seen.shape[:2]
    shown = np.argwhere(seen[..., 0] > 128)[:, ::-1].mean(axis=0) + 0.5
    assert np.abs(place.to_picture(dot_in(tensor)) - shown).max() < 1


def test_a_jpeg_that_is_decoded_at_a_part_of_its_size(tmp_path):
    """Coordinates are those of the whole picture, upright."""
    stored = Image.new("RGB", (5003, 4001))
    stored.paste((255, 255, 255), (2400, 1700, 2600, 1900))
    exif = stored.getexif()
    exif[0x0112] = 6  # a quarter turn
    path = tmp_path / "large.jpg"
    stored.save(path, exif=exif, quality=80)
    tensor, place = load_placed(path, BOX, INPUT)
    assert place.picture == (5003, 4001)
    found = place.to_picture(dot_in(tensor))
    assert found == pytest.approx([4001 - 1800, 2500], abs=5003 / 96 * 0.2)  # a fifth of a pixel of the input
