"""Pictures become the tensors that the bundle declares; what is no picture is refused in one line."""

import warnings
from dataclasses import dataclass

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from PIL import Image

from split_model.bundle import ImagePreprocess, TensorSpec
from split_model.errors import BadInputError, MissingInputError, SplitModelError
from split_model.features import picture_files as module
from split_model.features.picture_files import open_picture
from split_model.features.preprocess import load_tensor, picture_tensor, to_real, to_stored

RGB = ImagePreprocess(resize=8, crop=(6, 6), mean=(127.0,), scale=(128.0,))
FLOAT = TensorSpec(name="image", shape=(1, 6, 6, 3), dtype="float32")
INT8 = TensorSpec(name="image", shape=(1, 6, 6, 3), dtype="int8", scale=0.0078125, zero_point=-1)


def gradient(height, width, channels=3):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def test_the_centre_is_cut_out_and_normalised():
    picture = gradient(8, 12)
    tensor = picture_tensor(picture, RGB, FLOAT)
    assert (tensor.shape, tensor.dtype) == ((1, 6, 6, 3), np.float32)
    np.testing.assert_allclose(tensor[0], (picture[1:7, 3:9].astype(np.float32) - 127) / 128)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 40), (40, 16), (5, 9)])
def test_the_shorter_side_is_scaled_and_the_proportions_stay(height, width):
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2] = 200  # an upright edge in the middle stays there
    tensor = picture_tensor(pixels, replace(RGB, filter="nearest", mean=(0.0,), scale=(1.0,)), FLOAT)[0, :, :, 0]
    assert (tensor[:, 0] == 200).all()
    assert (tensor[:, -1] == 0).all()


def test_a_file_and_its_pixels_give_the_same_tensor(tmp_path):
    pixels = gradient(20, 30)
    path = save(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(load_tensor(path, RGB, FLOAT), picture_tensor(pixels, RGB, FLOAT))


def test_colours_channels_and_per_channel_means(tmp_path):
    pixels = np.full((8, 8, 3), (10, 20, 30), np.uint8)
    plain = replace(RGB, mean=(0.0,), scale=(1.0,))
    assert picture_tensor(pixels, plain, FLOAT)[0, 0, 0].tolist() == [10, 20, 30]
    assert picture_tensor(pixels, replace(plain, colour="bgr"), FLOAT)[0, 0, 0].tolist() == [30, 20, 10]
    each = replace(plain, mean=(1.0, 2.0, 3.0), scale=(1.0, 2.0, 3.0))
    assert picture_tensor(pixels, each, FLOAT)[0, 0, 0].tolist() == [9, 9, 9]
    grey, grey_spec = replace(plain, colour="grey"), replace(FLOAT, shape=(1, 6, 6, 1))
    path = save(tmp_path / "grey.png", np.full((8, 8), 77, np.uint8))
    assert load_tensor(path, grey, grey_spec).ravel().tolist() == [77] * 36
    assert load_tensor(path, plain, FLOAT)[0, 0, 0].tolist() == [77, 77, 77]
    assert picture_tensor(np.full((8, 8), 5, np.uint8), grey, grey_spec).shape == (1, 6, 6, 1)


def test_a_quantised_input_holds_the_nearest_steps():
    picture = gradient(8, 8)
    real = picture_tensor(picture, RGB, FLOAT)
    stored = picture_tensor(picture, RGB, INT8)
    assert stored.dtype == np.int8
    assert np.abs(to_real(stored, INT8) - real).max() <= INT8.scale / 2 + 1e-6


@given(st.integers(-128, 127), st.floats(1e-4, 10), st.integers(-128, 127))
def test_stored_values_survive_the_way_to_real_ones_and_back(value, scale, zero_point):
    spec = replace(INT8, scale=scale, zero_point=zero_point)
    stored = np.array([value], np.int8)
    assert to_stored(to_real(stored, spec), spec) == stored


def test_values_beyond_the_grid_saturate():
    assert to_stored(np.array([-9.0, 9.0], np.float32), INT8).tolist() == [-128, 127]
    bytes_in = TensorSpec(name="image", shape=(1, 6, 6, 3), dtype="uint8")
    assert to_stored(np.array([-1.0, 3.4, 300.0], np.float32), bytes_in).tolist() == [0, 3, 255]


def test_exif_orientation_turns_the_picture_upright(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255  # bright on top as stored
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: bright at the right
    path = save(tmp_path / "turned.png", pixels, exif=exif)
    upright = open_picture(path, RGB)
    assert upright[:, -1].min() == 255
    assert upright[:, 0].max() == 0


def test_old_bundles_mean_what_they_meant():
    """A declaration without the newer keys: shorter side, centre, channels last, pixel for pixel."""
    old = msgspec.json.decode(b'{"resize":8,"crop":[6,6],"mean":[127],"scale":[128]}', type=ImagePreprocess)
    assert old == RGB
    picture = gradient(20, 30)
    whole = np.asarray(Image.fromarray(picture).resize((12, 8), Image.Resampling.BICUBIC))[1:7, 3:9]
    expected = (whole.astype(np.float32) - np.float32(127)) / np.float32(128)
    np.testing.assert_array_equal(picture_tensor(picture, old, FLOAT)[0], expected)


@pytest.mark.parametrize("size", [(10, 20), (20, 10), (6, 6), (3, 3), (1, 50), (100, 7)])
def test_a_letterbox_holds_the_whole_picture_in_its_proportions(size):
    box = replace(RGB, fit="letterbox", pad=99, mean=(0.0,), scale=(1.0,), filter="nearest")
    found = picture_tensor(np.full((*size, 3), 200, np.uint8), box, FLOAT)[0, :, :, 0]
    rows, columns = (found == 200).any(1), (found == 200).any(0)
    factor = min(6 / size[0], 6 / size[1])
    assert (rows.sum(), columns.sum()) == tuple(max(1, round(side * factor)) for side in size)
    assert set(np.unique(found)) <= {99.0, 200.0}
    for filled in (rows, columns):  # in the middle
        before, after = filled.argmax(), filled[::-1].argmax()
        assert abs(int(before) - int(after)) <= 1


def test_stretching_uses_the_whole_picture():
    wide = np.zeros((6, 24, 3), np.uint8)
    wide[:, 12:] = 200
    found = picture_tensor(wide, replace(RGB, fit="stretch", mean=(0.0,), scale=(1.0,), filter="nearest"), FLOAT)
    assert found[0, 0, :, 0].tolist() == [0, 0, 0, 200, 200, 200]


@pytest.mark.parametrize("fit", ["crop", "letterbox", "stretch"])
@pytest.mark.parametrize("colour", ["rgb", "bgr", "grey"])
def test_channels_first_are_the_same_values_in_another_order(tmp_path, fit, colour):
    pixels = gradient(20, 30)
    path = save(tmp_path / "a.png", pixels)
    last = replace(RGB, fit=fit, colour=colour, mean=(10.0,) if colour == "grey" else (10.0, 20.0, 30.0))
    first = replace(last, layout="nchw")
    found = load_tensor(path, last, replace(FLOAT, shape=last.shape))
    turned = load_tensor(path, first, replace(FLOAT, shape=first.shape))
    np.testing.assert_array_equal(turned, found.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("layout", "shape", "match"),
    [("nhwc", (1, 3, 6, 6), "--layout nchw"), ("nchw", (1, 6, 6, 3), "--layout nhwc")],
)
def test_the_wrong_layout_is_named(layout, shape, match):
    with pytest.raises(BadInputError, match=match):
        picture_tensor(gradient(8, 8), replace(RGB, layout=layout), replace(FLOAT, shape=shape))


@dataclass
class Bad:
    name: str
    content: bytes
    match: str


def png(pixels):
    import io

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


WHOLE = png(gradient(64, 64))


@pytest.mark.parametrize(
    "bad",
    [
        Bad("empty.png", b"", "not a picture"),
        Bad("text.jpg", b"this is no picture at all", "not a picture"),
        Bad("short.png", WHOLE[: len(WHOLE) // 2], "damaged"),
        Bad("flipped.png", WHOLE[:600] + b"\0\1\2\3" * 40 + WHOLE[760:], "damaged"),
        Bad("sixteen.png", b"", "a viewer shows dark"),
    ],
    ids=lambda bad: bad.name,
)
def test_what_is_no_picture_is_one_line_with_the_path(tmp_path, bad):
    path = tmp_path / bad.name
    path.write_bytes(bad.content)
    if bad.name == "sixteen.png":
        Image.fromarray(np.full((9, 9), 4095, np.uint16)).save(path)
    with pytest.raises(BadInputError, match=bad.match) as caught:
        load_tensor(path, RGB, FLOAT)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_picture_says_so(tmp_path):
    with pytest.raises(MissingInputError, match="no such picture"):
        load_tensor(tmp_path / "none.png", RGB, FLOAT)


@pytest.mark.parametrize("limit", [1000, None])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch, limit):
    """A file of a few hundred bytes whose header claims 40 000 x 40 000 pixels; our limit, and Pillow's own."""
    if limit:
        monkeypatch.setattr(module, "MAX_PIXELS", limit)
        path = save(tmp_path / "bomb.png", gradient(40, 40))
    else:
        raw = bytearray(png(np.zeros((1, 1, 3), np.uint8)))
        raw[16:24] = (40_000).to_bytes(4, "big") * 2
        import zlib

        raw[29:33] = zlib.crc32(bytes(raw[12:29])).to_bytes(4, "big")
        path = tmp_path / "bomb.png"
        path.write_bytes(bytes(raw))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadInputError, match="megapixels"):
            load_tensor(path, RGB, FLOAT)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_bit_flips_give_a_tensor_or_one_of_our_errors(tmp_path, data):
    kind = data.draw(st.sampled_from(["png", "jpg", "webp", "tiff", "bmp"]))
    path = save(tmp_path / f"a.{kind}", gradient(24, 24))
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(raw))
    said, shape = "", FLOAT.shape
    try:
        shape = load_tensor(path, RGB, FLOAT).shape
    except SplitModelError as error:
        said = str(error)
    assert shape == FLOAT.shape
    assert "\n" not in said


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"crop": (5, 6)}, r"\[1, 5, 6, 3\]"),
        ({"colour": "grey"}, r"\[1, 6, 6, 1\]"),
        ({"scale": (0.0,)}, "scale is 0"),
        ({"mean": (1.0, 2.0)}, "mean"),
        ({"resize": 0}, "positive"),
        ({"resize": 4}, "smaller than the crop"),
    ],
)
def test_a_declaration_that_does_not_fit_the_model_is_refused(change, match):
    with pytest.raises(BadInputError, match=match):
        picture_tensor(gradient(16, 16), replace(RGB, **change), FLOAT)


@pytest.mark.parametrize(
    "picture", [np.zeros((8, 8, 3), np.float32), np.zeros((8, 8, 4), np.uint8), np.zeros((0, 8, 3), np.uint8)]
)
def test_arrays_that_are_no_pictures_are_refused(picture):
    with pytest.raises(BadInputError, match="picture"):
        picture_tensor(picture, RGB, FLOAT)


@pytest.mark.parametrize("shape", [(1, 100_000, 3), (100_000, 1, 3), (2, 4_000_000, 3)])
def test_a_strip_is_refused_before_it_is_scaled(shape):
    """Scaling its shorter side to 224 would take gigabytes."""
    strip = np.zeros(shape, np.uint8)
    with pytest.raises(BadInputError, match=f"{shape[0]} x {shape[1]} scaled .* 64 megapixels"):
        picture_tensor(strip, replace(RGB, resize=224), FLOAT)


def test_long_pictures_that_fit_are_scaled_as_before():
    strip = gradient(2, 3000)
    tensor = picture_tensor(strip, replace(RGB, mean=(0.0,), scale=(1.0,)), FLOAT)[0]
    whole = np.asarray(Image.fromarray(strip).resize((12_000, 8), Image.Resampling[RGB.filter.upper()]))
    np.testing.assert_array_equal(tensor, whole[1:7, 5997:6003])


def test_pillow_is_not_needed_for_arrays_of_the_right_size(monkeypatch):
    import importlib

    def refuse(name, *arguments):
        assert not name.startswith("PIL"), name
        return real(name, *arguments)

    real = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", refuse)
    assert picture_tensor(gradient(8, 12), RGB, FLOAT).shape == FLOAT.shape
