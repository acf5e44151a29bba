"""Odd but honest files are read; damaged ones are refused with one line, never a traceback."""

from __future__ import annotations

import struct

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

from split_model.errors import BadModelError, MissingInputError, SplitModelError
from split_model.prepare.inspection import inspect_model, render
from split_model.prepare.tflite.cuts import find_cuts
from split_model.prepare.tflite.reading import parse_model, read_model
from tests.split_model.prepare.sides import slice_model


def test_old_files_have_only_the_deprecated_code(residual, builder):
    build = builder()
    image = build.tensor([1, 4, 4, 2])
    data = build.build([image], [build.conv(image, 3)], old_codes=True)
    assert [op.name for op in parse_model(data).graph.ops] == ["CONV_2D"]


def test_new_ops_have_only_the_new_code(builder):
    build = builder()
    image = build.tensor([1, 4])
    data = build.build([image], [build.op("GELU", [image], [1, 4])])
    assert [op.name for op in parse_model(data).graph.ops] == ["GELU"]


def test_custom_op_is_named(builder):
    build = builder()
    image = build.tensor([1, 4])
    data = build.build([image], [build.op("CUSTOM", [image], [1, 4], code=b"MyOp")])
    assert [op.name for op in parse_model(data).graph.ops] == ["CUSTOM:MyOp"]


def test_weights_behind_the_flatbuffer_are_the_same_weights(residual):
    inside, outside = parse_model(residual()), parse_model(residual(external=True))
    assert [buffer.tobytes() for buffer in inside.buffers] == [buffer.tobytes() for buffer in outside.buffers]


def test_a_buffer_beyond_the_file_is_refused(residual):
    data = residual(external=True)
    with pytest.raises(BadModelError, match="a buffer ends at byte"):
        parse_model(data[:-16])


@pytest.mark.parametrize("data", [b"", b"TFL3", b"\x1c\0\0\0TFL3", b"PK\3\4" + bytes(100), b"\x89PNG" * 30])
def test_what_is_no_model_at_all(data, tmp_path):
    path = tmp_path / "x.tflite"
    path.write_bytes(data)
    with pytest.raises(BadModelError, match=r"x\.tflite"):
        read_model(path)


def test_no_file_and_a_folder(tmp_path):
    for path in (tmp_path / "none.tflite", tmp_path):
        with pytest.raises(MissingInputError, match=str(path)):
            read_model(path)


def test_a_million_references_to_one_table_are_counted_before_they_are_followed(residual):
    """A vector length is a number in the file: it must not decide how long we work."""
    model = schema.Model.GetRootAs(residual(), 0)
    graph = model.Subgraphs(0)
    field = graph._tab.Pos + graph._tab.Offset(4)  # the tensors vector
    data = bytearray(residual())
    start = field + struct.unpack_from("<I", data, field)[0]
    struct.pack_into("<I", data, start, 0x0FFFFFFF)
    with pytest.raises(BadModelError, match="268435455 tensors"):
        parse_model(bytes(data))


def _overlapping(count, size):
    """``count`` buffers whose tables all point to the same ``size`` bytes."""
    builder = flatbuffers.Builder(1024)
    data = builder.CreateNumpyVector(np.zeros(size, np.uint8))
    schema.BufferStart(builder)
    schema.BufferAddData(builder, data)
    buffer = schema.BufferEnd(builder)
    schema.ModelStartBuffersVector(builder, count)
    for _ in range(count):
        builder.PrependUOffsetTRelative(buffer)
    buffers = builder.EndVector()
    schema.ModelStart(builder)
    schema.ModelAddBuffers(builder, buffers)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    return bytes(builder.Output())


def test_overlapping_buffers_run_into_the_budget():
    with pytest.raises(BadModelError, match="overlap"):
        parse_model(_overlapping(1000, 1 << 20))


def test_absurd_shape(builder):
    build = builder()
    image = build.tensor([2**31 - 1] * 6)
    with pytest.raises(BadModelError, match="absurd shape"):
        parse_model(build.build([image], [build.op("RELU", [image], [1])]))


def test_name_that_is_not_text(builder):
    build = builder()
    image = build.tensor([1], name=b"\xff\xfe")
    with pytest.raises(BadModelError, match="not UTF-8"):
        parse_model(build.build([image], [build.op("RELU", [image], [1])]))


def exercise(data):
    """Everything that is done with a foreign file before a backend sees it."""
    message = "-"
    try:
        model = parse_model(data)
        render(inspect_model(model.graph))
        for cut in find_cuts(model.graph).legal:
            slice_model(model, cut)
    except SplitModelError as error:
        message = str(error)
    assert message.isprintable()


@pytest.fixture(scope="session")
def seeds(residual, builder):
    build = builder()
    image = build.tensor([1, 4, 4, 2], name="image")
    left, right = build.tensor([1, 4, 4, 1]), build.tensor([1, 4, 4, 1])
    build.op("SPLIT", [build.tensor([], np.int32(3), dtype="int32"), image], [left, right])
    quantised = build.op("QUANTIZE", [left], build.tensor([1, 4, 4, 1], dtype="int8", scale=[0.1], zero_point=[3]))
    rich = build.build(
        [image],
        [quantised, right],
        signature=({"in": image}, {"q": quantised, "r": right}),
        metadata=["reduced_precision_support", "other"],
    )
    return [residual(), residual(half=True), residual(external=True), rich]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutated_files_raise_nothing_but_our_errors(seeds, data):
    mutant = bytearray(data.draw(st.sampled_from(seeds)))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(mutant) - 4))
        how = data.draw(st.sampled_from(("bit", "word", "offset")))
        if how == "bit":
            mutant[at] ^= 1 << data.draw(st.integers(0, 7))
        elif how == "word":
            struct.pack_into("<I", mutant, at & ~3, data.draw(st.sampled_from((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 64))))
        else:
            struct.pack_into("<I", mutant, at & ~3, data.draw(st.integers(0, len(mutant))))
    exercise(bytes(mutant[: data.draw(st.sampled_from((len(mutant), len(mutant) // 2, at + 1)))]))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_but_our_errors(noise):
    exercise(noise)
    exercise(noise[:4] + b"TFL3" + noise[4:])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tensors: setattr(tensors[2], "shape", np.array([3, 1, 999, 2], np.int32)), "op 0 DEQUANTIZE makes"),
        (lambda tensors: setattr(tensors[0], "shape", np.array([1, 2**28, 4, 2], np.int32)), "absurd shape"),
        (
            lambda tensors: setattr(
                tensors[0],
                "quantization",
                schema.QuantizationParametersT(scale=np.array([np.nan], np.float32), zeroPoint=np.array([0])),
            ),
            "scale that is negative or no number",
        ),
    ],
)
def test_values_that_crash_a_backend_are_refused(builder, change, reason):
    build = builder()
    image = build.tensor([1, 4, 4, 2])
    answer = build.conv(image, 3, half=True)
    change(build.graph.tensors)
    with pytest.raises(BadModelError, match=reason):
        parse_model(build.build([image], [answer]))


def test_a_zero_point_outside_its_type_is_refused(builder):
    build = builder()
    image = build.tensor([1, 4])
    codes = build.op("QUANTIZE", [image], build.tensor([1, 4], dtype="int8", scale=[0.1], zero_point=[4194307]))
    with pytest.raises(BadModelError, match="a zero point that int8 does not hold"):
        parse_model(build.build([image], [codes]))


@pytest.mark.parametrize("twice", [True, False])
def test_a_split_must_have_the_outputs_that_it_says(builder, twice):
    build = builder()
    image = build.tensor([1, 4, 4, 2])
    parts = [build.tensor([1, 4, 4, 1]) for _ in range(3)]
    axis = build.tensor([], np.int32(3), dtype="int32")
    build.op("SPLIT", [axis, image], [parts[0], parts[0]] if twice else parts)
    with pytest.raises(BadModelError, match="has a value already" if twice else "options say otherwise"):
        parse_model(build.build([image], [parts[0]]))
