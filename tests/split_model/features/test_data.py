"""DATA: folders of pictures and .npz files, and what is wrong with others."""

import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from PIL import Image

from split_model.bundle import ImagePreprocess, TensorSpec
from split_model.errors import BadInputError, MissingInputError
from split_model.features.data import BadSampleError, open_data, read_labels

PREPROCESS = ImagePreprocess(resize=4, crop=(4, 4))
SPEC = TensorSpec(name="image", shape=(1, 4, 4, 3), dtype="float32")
LABELS = ("tench", "great white shark", "cock")


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(path)


def test_a_folder_is_read_in_order_and_other_files_are_left_alone(tmp_path):
    for at, name in enumerate(["b.png", "a.jpg", "c.PNG"]):
        picture(tmp_path / name, at)
    (tmp_path / "README.md").write_text("no picture")
    (tmp_path / ".hidden.png").write_text("no picture")
    data = open_data(tmp_path, [SPEC], PREPROCESS)
    samples = list(data)
    assert len(data) == 3
    assert [sample.name for sample in samples] == ["a.jpg", "b.png", "c.PNG"]
    assert [sample.label for sample in samples] == [None] * 3
    assert samples[1].tensors[0].shape == (1, 4, 4, 3)
    assert samples[1].path == tmp_path / "b.png"


@pytest.mark.parametrize("name", ["a.jfif", "a.jpe", "a.gif", "a.avif", "a.heic", "a", "a.PNM", "a.mpo"])
def test_every_picture_that_can_be_decoded_is_read(tmp_path, name):
    kinds = {".gif": "GIF", ".avif": "AVIF", ".heic": "HEIF", ".pnm": "PPM"}
    if name.endswith("heic"):
        pytest.importorskip("pillow_heif").register_heif_opener()
    image = Image.new("RGB", (16, 16), (200, 10, 10))
    image.save(tmp_path / name, kinds.get((tmp_path / name).suffix.lower(), "JPEG"))
    (sample,) = open_data(tmp_path, [SPEC], PREPROCESS)
    assert sample.name == name
    assert np.abs(sample.tensors[0][0, 1, 1] - [200, 10, 10]).max() < 12


def test_what_is_passed_over_is_counted_and_told_once(tmp_path, caplog):
    picture(tmp_path / "a.png")
    for name in ("notes.txt", "b.cr2", "c.cr2", "d", "3/e.svg", "3/deeper/f.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("no picture")
    (tmp_path / ".hidden.txt").write_text("not told")
    data = open_data(tmp_path, [SPEC], PREPROCESS)
    for _ in range(2):
        assert len(list(data)) == 1
    assert len(data.passed_over) == 6
    (told,) = caplog.messages
    assert "6 passed over (2 without an ending, 2 .cr2, 1 .svg, 1 .txt; the first: 3/deeper)" in told


def test_a_folder_without_one_picture_says_what_is_in_it(tmp_path):
    (tmp_path / "a.mp4").write_text("no picture")
    with pytest.raises(BadInputError, match=r"holds no pictures .* 1 passed over \(1 \.mp4; the first: a\.mp4\)"):
        open_data(tmp_path, [SPEC], PREPROCESS)


def test_names_that_are_no_utf8_are_spelled_out(tmp_path):
    picture(tmp_path / "3\udcfc" / "a\udcff.png")
    (tmp_path / "z\udcff.png").write_bytes(b"damaged")
    data = open_data(tmp_path, [SPEC], PREPROCESS)
    samples = iter(data)
    sample = next(samples)
    assert sample.name == "3\\xfc/a\\xff.png"
    assert sample.path == data.paths[0] == tmp_path / "3\udcfc" / "a\udcff.png"
    with pytest.raises(BadSampleError) as raised:
        next(samples)
    assert raised.value.name == "z\\xff.png"
    np.savez(tmp_path / "rows.npz", inputs=np.zeros((1, 4, 4, 3), np.float32))
    path = (tmp_path / "rows.npz").rename(tmp_path / "\udc80ü.npz")
    assert [sample.name for sample in open_data(path, [SPEC], None)] == ["\\x80ü.npz[0]"]


def test_sub_folders_are_classes_by_index_or_by_label(tmp_path):
    picture(tmp_path / "2" / "x.png")
    picture(tmp_path / "Great White Shark" / "y.png")
    picture(tmp_path / "z.png")
    labels = {sample.name: sample.label for sample in open_data(tmp_path, [SPEC], PREPROCESS, LABELS)}
    assert labels == {"2/x.png": 2, "Great White Shark/y.png": 1, "z.png": None}
    assert [sample.label for sample in open_data(tmp_path, [SPEC], PREPROCESS)] == [2, None, None]


@pytest.mark.parametrize(("folder", "match"), [("whale", "not a class"), ("3", "0 to 2")])
def test_a_folder_of_no_class_is_refused(tmp_path, folder, match):
    picture(tmp_path / folder / "x.png")
    with pytest.raises(BadInputError, match=match):
        open_data(tmp_path, [SPEC], PREPROCESS, LABELS)


def test_pictures_are_read_only_when_they_are_asked_for(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"damaged")
    samples = iter(open_data(tmp_path, [SPEC], PREPROCESS))
    assert next(samples).name == "a.png"
    with pytest.raises(BadInputError, match=r"b\.png"):
        next(samples)


def test_folders_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(MissingInputError):
        open_data(tmp_path / "none", [SPEC], PREPROCESS)
    with pytest.raises(BadInputError, match="no pictures"):
        open_data(tmp_path, [SPEC], PREPROCESS)
    with pytest.raises(BadInputError, match="no pre-processing"):
        open_data(tmp_path, [SPEC], None)
    with pytest.raises(BadInputError, match="takes 2 inputs"):
        open_data(tmp_path, [SPEC, SPEC], PREPROCESS)


@pytest.mark.parametrize("batch", [(), (1,)])
def test_npz_rows_come_with_or_without_the_batch_axis(tmp_path, batch):
    inputs = np.random.default_rng(0).normal(size=(3, *batch, 4, 4, 3)).astype(np.float32)
    path = tmp_path / "data.npz"
    np.savez_compressed(path, inputs=inputs, labels=np.array([2, 0, 1]))
    data = open_data(path, [SPEC], None)
    samples = list(data)
    assert len(data) == len(samples) == 3
    assert [sample.label for sample in samples] == [2, 0, 1]
    for sample, row in zip(samples, inputs, strict=True):
        np.testing.assert_array_equal(sample.tensors[0], row.reshape(SPEC.shape))
    assert samples[0].tensors[0].flags.c_contiguous


def test_npz_without_labels_and_of_the_other_byte_order(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, inputs=np.ones((2, 4, 4, 3), ">f4"))
    sample = next(iter(open_data(path, [SPEC], None)))
    assert sample.label is None
    assert sample.tensors[0].dtype == np.float32
    assert sample.tensors[0].dtype.isnative
    assert (sample.tensors[0] == 1).all()


def test_real_values_are_quantised_for_a_quantised_model(tmp_path):
    path = tmp_path / "data.npz"
    spec = replace(SPEC, dtype="int8", scale=0.5, zero_point=3)
    np.savez(path, inputs=np.full((1, 4, 4, 3), 2.0, np.float32))
    assert (next(iter(open_data(path, [spec], None))).tensors[0] == 7).all()
    np.savez(path, inputs=np.full((1, 4, 4, 3), 9, np.int8))
    assert (next(iter(open_data(path, [spec], None))).tensors[0] == 9).all()


def test_a_model_of_two_inputs_takes_two_arrays(tmp_path):
    path = tmp_path / "data.npz"
    other = TensorSpec(name="more", shape=(1, 2), dtype="int32")
    np.savez(path, inputs_0=np.zeros((2, 4, 4, 3), np.float32), inputs_1=np.arange(4, dtype=np.int32).reshape(2, 2))
    samples = list(open_data(path, [SPEC, other], None))
    assert samples[1].tensors[1].tolist() == [[2, 3]]
    np.savez(path, inputs_0=np.zeros((2, 4, 4, 3), np.float32), inputs_1=np.zeros((3, 2), np.int32))
    with pytest.raises(BadInputError, match="different numbers"):
        open_data(path, [SPEC, other], None)


GOOD = np.zeros((2, 4, 4, 3), np.float32)
WRONG = {
    "shape": (
        {"inputs": np.zeros((2, 4, 4, 1), np.float32)},
        r"float32\[2, 4, 4, 1\], expected float32\[samples, 4",
    ),
    "one sample": ({"inputs": np.zeros((4, 4, 3), np.float32)}, r"expected float32\[samples, 4, 4, 3\]"),
    "dtype": ({"inputs": GOOD.astype(np.float64)}, "is float64"),
    "name": ({"photographs": GOOD}, "no array 'inputs', found photographs"),
    "none": ({"inputs": GOOD[:0]}, "no samples"),
    "objects": ({"inputs": np.array([None, None])}, "object"),
    "scalar": ({"inputs": np.float32(1)}, "rows of numbers"),
    "column-major": ({"inputs": np.asfortranarray(GOOD)}, "column-major"),
    "label count": ({"inputs": GOOD, "labels": np.zeros(3, int)}, "'labels' is"),
    "label dtype": ({"inputs": GOOD, "labels": np.zeros(2)}, "'labels' is float64"),
    "label range": ({"inputs": GOOD, "labels": np.array([0, -1])}, "number the classes from 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_npz_that_does_not_fit_names_what_was_expected(tmp_path, case):
    arrays, match = WRONG[case]
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    with pytest.raises(BadInputError, match=match) as caught:
        open_data(path, [SPEC], None)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def npz_of(path, header, body=b"", *, compression=zipfile.ZIP_DEFLATED, **more):
    """An ``.npz`` whose array of inputs has this text for a header."""
    raw = header if isinstance(header, bytes) else header.encode("latin1")
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("inputs.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw + body)
        for name, array in more.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array)
    return path


HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4, 4, 3), }\n"
HOSTILE = [
    HEADER.replace("(2,", "(-2,"),
    HEADER.replace("(2,", f"({1 << 70},"),
    HEADER.replace("(2,", f"({1 << 62},"),
    HEADER.replace("'<f4'", "',f4'"),
    HEADER.replace("'<f4'", "{'names': ['a'], 'formats': [1]}"),
    HEADER[:30],
    "(" * 5000,
    "[" * 3000 + "]" * 3000,
    "-" * 5000 + "1",
    "9" * 5000,
    "\0\0\0",
    "",
]


@pytest.mark.parametrize("header", HOSTILE)
def test_npz_with_a_hostile_header_is_refused_in_one_line(tmp_path, header):
    path = npz_of(tmp_path / "data.npz", header)
    with pytest.raises(BadInputError) as caught:
        list(open_data(path, [SPEC], None))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.integers(0, len(HEADER) - 1), st.binary(max_size=8), st.integers(0, 8))
def test_npz_with_any_damage_in_its_header_is_data_or_refused(tmp_path_factory, at, put, cut):
    header = HEADER.encode("latin1")
    path = npz_of(tmp_path_factory.mktemp("npz") / "x.npz", header[:at] + put + header[at + cut :], bytes(384))
    try:
        data = open_data(path, [SPEC], None)
        assert len(list(data)) == len(data)
    except BadInputError:
        pass


def test_npz_compressed_in_a_way_that_numpy_never_does_is_refused(tmp_path):
    path = npz_of(tmp_path / "data.npz", HEADER, bytes(384), compression=zipfile.ZIP_LZMA)
    with pytest.raises(BadInputError, match="odd way"):
        open_data(path, [SPEC], None)


def test_npz_that_would_fill_the_memory_is_refused(tmp_path):
    """A file of a few bytes may claim pictures of any size."""
    path = tmp_path / "data.npz"
    npz_of(path, HEADER, bytes(384), pictures=np.zeros((1, 8193, 8193, 3), np.uint8))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(BadInputError, match="megapixels"):
        open_data(path, [SPEC], PREPROCESS)
    npz_of(path, HEADER, bytes(384), pictures=np.zeros((1, 6000, 6000, 3), np.uint8))
    with pytest.raises(BadInputError, match="6000 x 6000 take over 192 MiB"):
        open_data(path, [SPEC], PREPROCESS)


def test_npz_with_a_header_that_would_fill_the_memory_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "data.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("inputs.npy", "w", force_zip64=True) as file,
    ):
        file.write(b"\x93NUMPY\x02\x00" + (200 << 20).to_bytes(4, "little"))
        for _ in range(200):
            file.write(b" " * (1 << 20))
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(BadInputError, match="damaged"):
            open_data(path, [SPEC], None)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_labels_are_not_held_in_memory(tmp_path):
    count, byte = 20_000_000, TensorSpec(name="byte", shape=(1, 1), dtype="uint8")
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({count}, 1), }}\n"
    path = npz_of(tmp_path / "data.npz", header, bytes(count), labels=np.zeros(count, np.int8))
    tracemalloc.start()
    try:
        samples = iter(open_data(path, [byte], None))
        assert next(samples).label == 0
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_npz_with_values_that_are_not_finite_names_the_sample(tmp_path):
    path = tmp_path / "data.npz"
    inputs = GOOD.copy()
    inputs[1, 0, 0, 0] = np.nan
    np.savez(path, inputs=inputs)
    samples = iter(open_data(path, [SPEC], None))
    next(samples)
    with pytest.raises(BadInputError, match="sample 1"):
        next(samples)


def test_npz_goes_on_after_a_row_that_is_not_finite(tmp_path):
    path = tmp_path / "data.npz"
    first = np.arange(4, dtype=np.float32).reshape(4, 1)
    broken = first.copy()
    broken[1] = np.inf
    np.savez(path, inputs_0=broken, inputs_1=first, labels=np.arange(4))
    spec = TensorSpec(name="x", shape=(1, 1), dtype="float32")
    samples = iter(open_data(path, [spec, spec], None))
    found = []
    for _ in range(4):
        try:
            found.append(next(samples))
        except BadSampleError as error:  # noqa: PERF203
            found.append(error.name)
    assert next(samples, None) is None
    assert found[1] == "data.npz[1]"
    good = [found[index] for index in (0, 2, 3)]
    assert [sample.label for sample in good] == [0, 2, 3]
    assert [[tensor.item() for tensor in sample.tensors] for sample in good] == [[0, 0], [2, 2], [3, 3]]


def test_files_that_are_no_npz_are_refused(tmp_path):
    path = tmp_path / "data.npz"
    for content in (b"", b"junk" * 100):
        path.write_bytes(content)
        with pytest.raises(BadInputError, match=r"not an \.npz"):
            open_data(path, [SPEC], None)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inputs.npy", b"\x93NUMPY but then nothing")
    with pytest.raises(BadInputError, match="damaged"):
        open_data(path, [SPEC], None)
    other = tmp_path / "data.csv"
    other.write_text("1,2")
    with pytest.raises(BadInputError, match=r"folder of pictures, or an \.npz"):
        open_data(other, [SPEC], None)


def test_a_cut_or_flipped_npz_never_gives_anything_but_our_error(tmp_path):
    whole = tmp_path / "whole.npz"
    np.savez_compressed(whole, inputs=np.random.default_rng(0).normal(size=GOOD.shape).astype(np.float32))
    raw = whole.read_bytes()
    rng = np.random.default_rng(1)
    path = tmp_path / "data.npz"
    errors = []
    for trial in range(300):
        damaged = bytearray(raw)
        for at in rng.integers(0, len(raw), 3):
            damaged[at] ^= 1 << rng.integers(0, 8)
        path.write_bytes(bytes(damaged[: rng.integers(1, len(raw))] if trial % 3 == 0 else damaged))
        try:
            list(open_data(path, [SPEC], None))
        except BadInputError as error:
            errors.append(str(error))
    assert len(errors) > 200
    assert not any("\n" in error for error in errors)


def test_a_header_that_promises_too_much_is_not_believed(tmp_path):
    """Terabytes by the header, nothing behind it: refused at the first row, without the memory."""
    path = tmp_path / "data.npz"
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 4, 4, 3), }"
    head += b" " * (118 - len(head) - 1) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inputs.npy", b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head)
    with pytest.raises(BadInputError, match="cut short"):
        next(iter(open_data(path, [SPEC], None)))


def test_labels_are_lines(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("tench\ngoldfish\n")
    assert read_labels(path) == ("tench", "goldfish")
    with pytest.raises(MissingInputError):
        read_labels(tmp_path / "none.txt")
    for content in (b"", b"\xff\xfe\x00"):
        path.write_bytes(content)
        with pytest.raises(BadInputError):
            read_labels(path)


def test_pictures_in_an_npz_are_pre_processed_like_files(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), np.uint8)
    for at, one in enumerate(pixels):
        Image.fromarray(one).save(tmp_path / f"{at}.png")
    np.savez(tmp_path / "all.npz", pictures=pixels, labels=np.array([2, 0, 1]))
    preprocess = replace(PREPROCESS, mean=(100.0,), scale=(50.0,))
    files = list(open_data(tmp_path, [SPEC], preprocess))
    rows = list(open_data(tmp_path / "all.npz", [SPEC], preprocess))
    assert [row.label for row in rows] == [2, 0, 1]
    for file, row in zip(files, rows, strict=True):
        np.testing.assert_array_equal(file.tensors[0], row.tensors[0])


def test_grey_pictures_in_an_npz_need_no_axis_of_channels(tmp_path):
    pixels = np.arange(2 * 16, dtype=np.uint8).reshape(2, 4, 4)
    np.savez(tmp_path / "grey.npz", pictures=pixels)
    spec = TensorSpec(name="image", shape=(1, 4, 4, 1), dtype="float32")
    rows = list(open_data(tmp_path / "grey.npz", [spec], replace(PREPROCESS, colour="grey")))
    np.testing.assert_array_equal([row.tensors[0][0, :, :, 0] for row in rows], pixels.astype(np.float32))


@pytest.mark.parametrize(
    ("pixels", "preprocess", "match"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), PREPROCESS, "expected uint8"),
        (np.zeros((2, 4, 4), np.uint8), PREPROCESS, "expected uint8"),
        (np.zeros((2, 4, 0, 3), np.uint8), PREPROCESS, "expected uint8"),
        (np.zeros((2, 4, 4, 3), np.uint8), None, "no pre-processing"),
    ],
)
def test_pictures_in_an_npz_that_do_not_fit_are_refused(tmp_path, pixels, preprocess, match):
    np.savez(tmp_path / "bad.npz", pictures=pixels)
    with pytest.raises(BadInputError, match=match):
        open_data(tmp_path / "bad.npz", [SPEC], preprocess)
