"""Head then tail is the whole model, bit for bit, and each carries only what it needs."""

from __future__ import annotations

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

from split_model.interpreter import open_interpreter
from split_model.prepare.tflite.cuts import find_cuts
from split_model.prepare.tflite.reading import parse_model
from tests.split_model.prepare.sides import slice_model


def unpack(data):
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))


def halves(data, index):
    model = parse_model(data)
    cut = next(cut for cut in find_cuts(model.graph).legal if cut.index == index)
    return slice_model(model, cut)


def assert_every_cut_is_identical(data, seed=0):
    """Returns the number of cuts tried."""
    model = parse_model(data)
    whole = open_interpreter(data)
    rng = np.random.default_rng(seed)
    inputs = [rng.uniform(-1, 1, spec.shape).astype(spec.dtype) for spec in whole.inputs]
    expected = [array.tobytes() for array in whole.run(inputs)]
    cuts = find_cuts(model.graph).legal
    for cut in cuts:
        head, tail = slice_model(model, cut)
        features = inputs if head is None else open_interpreter(head).run(inputs)
        answer = open_interpreter(tail).run(features)
        assert [array.tobytes() for array in answer] == expected, f"cut {cut.index}"
    return len(cuts)


@pytest.mark.parametrize("weights", [{}, {"half": True}, {"external": True}, {"half": True, "external": True}])
def test_residual(residual, weights):
    assert assert_every_cut_is_identical(residual(**weights)) == 4


def test_outputs_inputs_and_skips_that_pass_through_a_half(builder):
    """A live model input is an input and an output of the head; an early answer, of the tail."""
    build = builder()
    image, mask = build.tensor([1, 4, 4, 2]), build.tensor([1, 4, 4, 3])
    early = build.conv(image, 3)
    middle = build.conv(early, 3, size=3)
    masked = build.op("MUL", [middle, mask], [1, 4, 4, 3])
    both = build.op("ADD", [masked, early], [1, 4, 4, 3])
    data = build.build([mask, image], [build.conv(both, 1), early, masked])
    assert assert_every_cut_is_identical(data) == 5


def test_ops_with_several_outputs(builder):
    build = builder()
    image = build.tensor([1, 4, 4, 2])
    left, right = build.tensor([1, 4, 4, 1]), build.tensor([1, 4, 4, 1])
    build.op("SPLIT", [build.tensor([], np.int32(3), dtype="int32"), image], [left, right])
    data = build.build([image], [build.op("ADD", [build.conv(left, 1), right], [1, 4, 4, 1])])
    assert assert_every_cut_is_identical(data) == 3


def test_constant_answer_is_made_by_the_tail(builder):
    build = builder()
    image = build.tensor([1, 4, 4, 2])
    constant = build.op("RELU", [build.weights([3])], [3])
    data = build.build([image], [build.conv(build.conv(image, 3), 1), constant])
    assert assert_every_cut_is_identical(data) == 2


def test_int8_and_mixed_types_keep_their_quantisation(builder):
    build = builder()
    image = build.tensor([1, 4, 4, 2])
    quantised = build.op(
        "QUANTIZE", [image], build.tensor([1, 4, 4, 2], dtype="int8", scale=[0.01], zero_point=[-3], name="q")
    )
    kernel = build.tensor(
        [3, 1, 1, 2],
        build.rng.integers(-127, 127, (3, 1, 1, 2)).astype(np.int8),
        dtype="int8",
        scale=[0.01, 0.02, 0.03],
    )
    bias = build.tensor([3], np.array([5, -5, 9], np.int32), dtype="int32", scale=[0.0001, 0.0002, 0.0003])
    conv = build.op(
        "CONV_2D", [quantised, kernel, bias], build.tensor([1, 4, 4, 3], dtype="int8", scale=[0.02], zero_point=[7])
    )
    data = build.build([image], [build.op("DEQUANTIZE", [conv], [1, 4, 4, 3])])
    assert assert_every_cut_is_identical(data) == 3
    head, tail = halves(data, 1)
    for spec in (open_interpreter(head).outputs[0], open_interpreter(tail).inputs[0]):
        assert (spec.name, spec.dtype, spec.zero_point) == ("q", "int8", -3)
        assert spec.scale == pytest.approx(0.01)


@st.composite
def networks(draw, make):
    """A random small network of convolutions, sums, concatenations; some outputs in the middle."""
    build = make(draw(st.integers(0, 2**16)))
    inputs = [build.tensor([1, 4, 4, draw(st.integers(1, 3))]) for _ in range(draw(st.integers(1, 2)))]
    tensors = list(inputs)
    for _ in range(draw(st.integers(1, 7))):
        source = draw(st.sampled_from(tensors))
        shape = [int(side) for side in build.graph.tensors[source].shape]
        alike = [other for other in tensors if list(build.graph.tensors[other].shape) == shape]
        kind = draw(st.sampled_from(("conv", "conv", "depthwise", "ADD", "MUL", "RELU", "CONCATENATION")))
        half = draw(st.booleans())
        if kind == "conv":
            made = build.conv(source, draw(st.integers(1, 3)), size=draw(st.sampled_from((1, 3))), half=half)
        elif kind == "depthwise":
            kernel, bias = build.weights([1, 3, 3, shape[3]], half=half), build.weights([shape[3]])
            made = build.op("DEPTHWISE_CONV_2D", [source, kernel, bias], shape)
        elif kind == "RELU":
            made = build.op("RELU", [source], shape)
        else:
            other = draw(st.sampled_from(alike))
            out = [*shape[:3], 2 * shape[3]] if kind == "CONCATENATION" else shape
            made = build.op(kind, [source, other], out)
        tensors.append(made)
    answers = draw(st.lists(st.sampled_from(tensors[len(inputs) :]), min_size=1, max_size=3, unique=True))
    return build.build(inputs, answers)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_every_cut_of_any_small_network_is_identical(builder, data):
    assert_every_cut_is_identical(data.draw(networks(builder)), seed=1)


def test_halves_share_the_weights_between_them(builder):
    build = builder()
    image = build.tensor([1, 4, 4, 64])
    data = build.build([image], [build.conv(build.conv(build.op("RELU", [image], [1, 4, 4, 64]), 64, size=3), 64)])
    head, tail = halves(data, 2)
    assert len(head) < 64 * 64 * 9 * 4 + 4000
    assert len(tail) < 64 * 64 * 4 + 4000
    assert [code.builtinCode for code in unpack(tail).operatorCodes] == [schema.BuiltinOperator.CONV_2D]


def test_weights_are_inside_and_aligned(residual):
    for half in halves(residual(external=True), 2):
        model = schema.Model.GetRootAs(half, 0)
        found = [model.Buffers(index) for index in range(model.BuffersLength())]
        assert all(buffer.Offset() == 0 for buffer in found)
        filled = [buffer for buffer in found if buffer.DataLength()]
        assert len(filled) in (2, 4)
        assert all(buffer._tab.Vector(buffer._tab.Offset(4)) % 16 == 0 for buffer in filled)


def test_same_model_same_bytes(residual):
    assert halves(residual(), 2) == halves(residual(), 2)


def test_metadata_is_dropped_but_for_what_changes_the_arithmetic(builder):
    build = builder()
    image = build.tensor([1, 4, 4, 2])
    answer = build.conv(build.conv(image, 2), 2)
    data = build.build([image], [answer], metadata=["TFLITE_METADATA", "reduced_precision_support"])
    for half in halves(data, 1):
        model = unpack(half)
        assert [entry.name for entry in model.metadata] == [b"reduced_precision_support"]
        assert bytes(model.buffers[model.metadata[0].buffer].data) == b"some metadata"


def test_signatures_keep_their_names(builder):
    build = builder()
    image = build.tensor([1, 4, 4, 2])
    first = build.conv(image, 2)
    build.graph.tensors[first].name = b"live"
    answer = build.conv(first, 2)
    data = build.build([image], [answer], signature=({"picture": image}, {"scores": answer}))
    from ai_edge_litert.interpreter import Interpreter

    head, tail = (
        Interpreter(model_content=half).get_signature_list()["serving_default"] for half in halves(data, 1)
    )
    assert head == {"inputs": ["picture"], "outputs": ["live"]}
    assert tail == {"inputs": ["live"], "outputs": ["scores"]}
