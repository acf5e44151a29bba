"""A stranger's model: how its pictures are taken is declared, or read from the model and said, or asked for."""

import json

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from PIL import Image

from split_model.bundle import Bundle
from split_model.cli import main
from split_model.features.data import open_data


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for at in range(3):
        Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).save(folder / f"{at}.png")
    return folder


def model_of(build, shape, *, signature=None, **grid):
    """A model that adds one thing to its input."""
    given = build.tensor(shape, name="image", signature=signature, **grid)
    if grid:
        return build.build([given], [build.op("DEQUANTIZE", [given], build.tensor(shape, signature=signature))])
    half = build.tensor([1], np.array([0.5], np.float32))
    return build.build([given], [build.op("MUL", [given, half], build.tensor(shape, signature=signature))])


def prepare(tmp_path, model, *options):
    path = tmp_path / "net.tflite"
    path.write_bytes(model)
    code = main(["prepare", str(path), "-o", str(tmp_path / "b"), "--force", *map(str, options)])
    return code, Bundle.open(tmp_path / "b") if code == 0 else None


def test_flags_declare_all_of_it(tmp_path, pictures, builder):
    options = ["--letterbox", "--pad", 114, "--mean", "123,116,103", "--std", 58, "--channels", "bgr"]
    code, bundle = prepare(tmp_path, model_of(builder(), [1, 8, 8, 3]), *options)
    made = bundle.manifest.preprocess
    assert (code, made.fit, made.pad, made.colour, made.layout) == (0, "letterbox", 114, "bgr", "nhwc")
    assert (made.crop, made.mean, made.scale) == ((8, 8), (123, 116, 103), (58,))


def test_a_picture_that_is_higher_than_wide_fits_a_wide_input(tmp_path, builder):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (20, 60), (200, number, 0)).save(folder / f"{number}.png")
    model = model_of(builder(), [1, 8, 24, 3])
    code, bundle = prepare(tmp_path, model, "--mean", 0, "--std", 255, "--calibration", folder)
    assert (code, bundle.manifest.preprocess.fit) == (0, "letterbox")
    code, bundle = prepare(tmp_path, model, "--mean", 0, "--std", 255, "--resize", 80, "--calibration", folder)
    assert (code, bundle.manifest.preprocess.fit) == (0, "crop")


def test_flags_win_over_the_file(tmp_path, builder):
    declared = tmp_path / "pp.json"
    declared.write_text(json.dumps({"resize": 8, "crop": [8, 8], "mean": [1], "scale": [2]}))
    model = model_of(builder(), [1, 3, 8, 8])
    _, bundle = prepare(tmp_path, model, "--preprocess", declared, "--layout", "nchw", "--resize", 10)
    made = bundle.manifest.preprocess
    assert (made.layout, made.resize, made.crop, made.mean) == ("nchw", 10, (8, 8), (1,))


@pytest.mark.parametrize("shape", [[1, 3, 8, 8], [1, 1, 8, 10], [1, 8, 10, 3], [1, 8, 8, 1]])
def test_layout_size_and_colour_follow_from_the_shape_and_are_told(tmp_path, pictures, builder, capsys, shape):
    options = ["--mean", 0, "--std", 255, "--calibration", pictures]
    code, bundle = prepare(tmp_path, model_of(builder(), shape), *options)
    assert code == 0
    assert list(bundle.manifest.preprocess.shape) == shape
    assert "pictures taken as" in capsys.readouterr().err
    sample = next(iter(open_data(pictures, bundle.manifest.inputs, bundle.manifest.preprocess)))
    assert sample.tensors[0].shape == tuple(shape)


def test_a_declaration_without_the_layout_names_the_cause(tmp_path, pictures, builder, capsys):
    declared = tmp_path / "pp.json"
    declared.write_text(json.dumps({"resize": 8, "crop": [8, 8]}))
    code, _ = prepare(tmp_path, model_of(builder(), [1, 3, 8, 8]), "--preprocess", declared)
    assert code == 65
    assert "its channels come first: declare --layout nchw" in capsys.readouterr().err


@pytest.mark.parametrize(
    "signature", [[-1, -1, -1, 3], [1, -1, -1, 3], [-1, -1, 8, 3], [1, 8, -1, 3], [-1, 3, -1, -1]]
)
def test_an_open_input_is_settled_or_refused(tmp_path, builder, capsys, signature):
    """Never a bundle for pictures of 1 x 1."""
    stored = [1 if side == -1 else side for side in signature]
    wanted = [1 if side == -1 and at == 0 else 8 if side == -1 else side for at, side in enumerate(signature)]
    model = model_of(builder(), stored, signature=signature)
    code, _ = prepare(tmp_path, model, "--mean", 0, "--std", 255)
    assert code == 65
    said = capsys.readouterr().err
    assert "is open" in said
    assert "--input-shape 1," in said
    code, bundle = prepare(tmp_path, model, "--mean", 0, "--std", 255, "--input-shape", ",".join(map(str, wanted)))
    assert code == 0
    assert list(bundle.manifest.inputs[0].shape) == wanted == list(bundle.manifest.preprocess.shape)
    assert list(bundle.manifest.outputs[0].shape) == wanted
    assert main(["verify", str(bundle.root), "--all-cuts"]) == 0


@pytest.mark.parametrize("text", ["1,8,8,4", "8,8,3", "1,0,8,3", "2,8,8,3"])
def test_an_input_shape_that_contradicts_the_model_is_refused(tmp_path, builder, capsys, text):
    model = model_of(builder(), [1, 1, 1, 3], signature=[1, -1, -1, 3])
    code, _ = prepare(tmp_path, model, "--input-shape", text)
    assert code == 65
    assert "does not fit the input [1, ?, ?, 3]" in capsys.readouterr().err


def test_an_open_batch_alone_is_no_trouble(tmp_path, builder):
    code, bundle = prepare(tmp_path, model_of(builder(), [1, 8, 8, 3], signature=[-1, 8, 8, 3]))
    assert (code, bundle.manifest.inputs[0].shape) == (0, (1, 8, 8, 3))


@pytest.mark.parametrize(
    ("grid", "pixel", "expected"),
    [
        ({"dtype": "uint8", "scale": [1 / 255]}, 200, 200),
        ({"dtype": "uint8", "scale": [0.0078125], "zero_point": [128]}, 200, 200),
        ({"dtype": "int8", "scale": [1 / 255], "zero_point": [-128]}, 200, 72),
        ({"dtype": "int8", "scale": [0.0078125], "zero_point": [-1]}, 0, -128),
    ],
)
def test_a_quantised_input_takes_the_pixels_as_codes(tmp_path, builder, grid, pixel, expected):
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (8, 8), (pixel,) * 3).save(folder / "a.png")
    code, bundle = prepare(tmp_path, model_of(builder(), [1, 8, 8, 3], **grid), "--calibration", folder)
    assert code == 0
    (sample,) = open_data(folder, bundle.manifest.inputs, bundle.manifest.preprocess)
    assert np.unique(sample.tensors[0]).tolist() == [expected]


def test_a_float_input_that_does_not_say_its_range_is_asked_for(tmp_path, pictures, builder, capsys):
    code, _ = prepare(tmp_path, model_of(builder(), [1, 8, 8, 3]), "--calibration", pictures)
    assert code == 65
    assert "--mean 0 --std 255 for 0..1, --mean 127.5 --std 127.5 for -1..1" in capsys.readouterr().err


def test_whole_numbers_of_16_bits_are_refused_without_advice_that_cannot_help(tmp_path, pictures, builder, capsys):
    model = model_of(builder(), [1, 8, 8, 3], dtype="int16", scale=[1 / 32768])
    assert prepare(tmp_path, model, "--calibration", pictures)[0] == 65
    said = capsys.readouterr().err
    assert "takes int16 pictures; pictures go into float or 8-bit inputs" in said
    assert "--mean" not in said


def metadata(mean, std):
    """ModelMetadata as TFLite's tools write it, with one NormalizationOptions."""
    build = flatbuffers.Builder(256)

    def floats(values):
        build.StartVector(4, len(values), 4)
        for value in reversed(values):
            build.PrependFloat32(value)
        return build.EndVector()

    def tables(*offsets):
        build.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            build.PrependUOffsetTRelative(offset)
        return build.EndVector()

    def table(fields, **slots):
        build.StartObject(fields)
        for name, value in slots.items():
            build.PrependUOffsetTRelativeSlot(int(name[1:]), value, 0)
        return build.EndObject()

    means, stds = floats(mean), floats(std)
    options = table(2, f0=means, f1=stds)
    build.StartObject(2)
    build.PrependUint8Slot(0, 1, 0)
    build.PrependUOffsetTRelativeSlot(1, options, 0)
    unit = build.EndObject()
    tensor = table(7, f4=tables(unit))
    graph = table(8, f2=tables(tensor))
    root = table(8, f3=tables(graph))
    build.Finish(root, b"M001")
    return bytes(build.Output())


def with_metadata(model, raw):
    parsed = schema.ModelT.InitFromPackedBuf(model, 0)
    parsed.metadata = [schema.MetadataT(name=b"TFLITE_METADATA", buffer=len(parsed.buffers))]
    parsed.buffers.append(schema.BufferT(data=np.frombuffer(raw, np.uint8)))
    build = flatbuffers.Builder(1024)
    build.Finish(parsed.Pack(build), b"TFL3")
    return bytes(build.Output())


@pytest.mark.parametrize(
    ("mean", "std"), [([127.5], [127.5]), ([0.0], [255.0]), ([123.0, 116.0, 103.0], [58.0, 57.0, 56.0])]
)
def test_the_normalisation_of_the_metadata_is_taken_and_told(tmp_path, builder, capsys, mean, std):
    code, bundle = prepare(tmp_path, with_metadata(model_of(builder(), [1, 8, 8, 3]), metadata(mean, std)))
    assert code == 0
    assert (list(bundle.manifest.preprocess.mean), list(bundle.manifest.preprocess.scale)) == (mean, std)
    assert "by its TFLite metadata" in capsys.readouterr().err


def test_flags_win_over_metadata(tmp_path, builder):
    model = with_metadata(model_of(builder(), [1, 8, 8, 3]), metadata([0.0], [255.0]))
    _, bundle = prepare(tmp_path, model, "--mean", 1, "--std", 2)
    assert (bundle.manifest.preprocess.mean, bundle.manifest.preprocess.scale) == ((1,), (2,))


def test_damaged_metadata_counts_as_none(tmp_path, builder):
    whole = metadata([127.5], [127.5])
    rng = np.random.default_rng(0)
    model = model_of(builder(), [1, 8, 8, 3])
    for trial in range(25):
        raw = bytearray(whole[: rng.integers(0, len(whole))] if trial % 2 else whole)
        for at in rng.integers(0, len(raw), 6) if raw else ():
            raw[at] ^= 1 << rng.integers(0, 8)
        code, _ = prepare(tmp_path, with_metadata(model, bytes(raw)))
        assert code in (0, 65)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"size": 8, "crop": [8, 8]}', "valid keys: resize, crop, mean, scale, colour (rgb, bgr, grey), filter"),
        ('{"resize": 8, "crop": [8, 8], "colour": "RGB"}', "colour (rgb, bgr, grey)"),
        ('{"resize": 8, "crop": [8, 8], "fit": "pad"}', "fit (crop, letterbox, stretch)"),
        ('{"resize": 8, "crop": [8, 8], "layout": "chw"}', "layout (nhwc, nchw)"),
        ('{"resize": "8", "crop": [8, 8]}', "$.resize"),
    ],
)
def test_a_wrong_declaration_lists_the_valid_keys_and_values(tmp_path, builder, capsys, text, match):
    declared = tmp_path / "pp.json"
    declared.write_text(text)
    code, _ = prepare(tmp_path, model_of(builder(), [1, 8, 8, 3]), "--preprocess", declared)
    assert code == 65
    assert match in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--mean", 1], "--mean and --std go together"),
        (["--mean", "a", "--std", 1], "not numbers"),
        (["--letterbox", "--resize", 9, "--mean", 0, "--std", 1], "leave --resize out"),
        (["--letterbox", "--stretch"], "not allowed with"),
        (["--input-shape", "1x8x8x3"], "not a shape"),
    ],
)
def test_wrong_flags_are_usage_errors(tmp_path, builder, capsys, options, match):
    code, _ = prepare(tmp_path, model_of(builder(), [1, 8, 8, 3]), *options)
    assert code == 64
    assert match in capsys.readouterr().err
