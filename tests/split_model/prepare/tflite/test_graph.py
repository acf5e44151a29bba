"""What cannot be cut is refused, and the message names the op and a way out."""

from __future__ import annotations

import os

import numpy as np
import pytest

from split_model.errors import BadModelError
from split_model.prepare.tflite.reading import parse_model


def refusal(data):
    with pytest.raises(BadModelError) as caught:
        parse_model(data, source="net.tflite")
    message = str(caught.value)
    assert message.startswith("net.tflite: ")
    assert "\n" not in message
    assert caught.value.exit_code == os.EX_DATAERR
    return message


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("IF", "runs another subgraph"),
        ("WHILE", "runs another subgraph"),
        ("CALL_ONCE", "keeps state"),
        ("READ_VARIABLE", "keeps state"),
        ("RANDOM_UNIFORM", "random numbers"),
    ],
)
def test_refused_ops_are_named(builder, name, reason):
    build = builder()
    image = build.tensor([1, 2])
    middle = build.op("RELU", [image], [1, 2])
    message = refusal(build.build([image], [build.op(name, [middle], [1, 2])], subgraphs=2))
    assert f"op 1 {name}" in message
    assert reason in message
    assert "convert the model" in message


def test_several_subgraphs(builder):
    build = builder()
    image = build.tensor([1, 2])
    assert "2 subgraphs" in refusal(build.build([image], [build.op("RELU", [image], [1, 2])], subgraphs=2))


def test_variable_tensor(builder):
    build = builder()
    image = build.tensor([1, 2])
    state = build.tensor([1, 2], name="state", variable=True)
    assert "'state' is a variable" in refusal(build.build([image], [build.op("ADD", [image, state], [1, 2])]))


def test_open_shape(builder):
    build = builder()
    image = build.tensor([-1, 2], name="image")
    assert "'image' has the open shape [-1, 2]" in refusal(
        build.build([image], [build.op("RELU", [image], [1, 2])])
    )


def test_tensor_read_before_it_is_written(builder):
    build = builder()
    image, later = build.tensor([1, 2]), build.tensor([1, 2], name="later")
    total = build.op("ADD", [image, later], [1, 2])
    build.op("RELU", [image], later)
    assert "op 0 ADD reads tensor 'later' before" in refusal(build.build([image], [total]))


@pytest.mark.parametrize("target", ["input", "constant", "twice"])
def test_tensor_written_over(builder, target):
    build = builder()
    image = build.tensor([1, 2], name="input")
    constant = build.tensor([1, 2], np.zeros(2, np.float32), name="constant")
    twice = build.op("RELU", [image], build.tensor([1, 2], name="twice"))
    build.op("RELU", [image], {"input": image, "constant": constant, "twice": twice}[target])
    assert f"op 1 RELU writes tensor {target!r}" in refusal(build.build([image], [twice]))


def test_output_that_no_op_writes(builder):
    build = builder()
    image, orphan = build.tensor([1, 2]), build.tensor([1, 2], name="orphan")
    build.op("RELU", [image], [1, 2])
    assert "output 'orphan' is written by no op" in refusal(build.build([image], [orphan]))


def test_a_graph_needs_inputs_and_outputs(builder):
    build = builder()
    image = build.tensor([1, 2])
    build.op("RELU", [image], [1, 2])
    assert "1 inputs and 0 outputs" in refusal(build.build([image], []))


def test_names_from_the_file_cannot_break_the_line(builder):
    build = builder()
    image = build.tensor([-1, 2], name="a\n\x1b[31mb")
    message = refusal(build.build([image], [build.op("RELU", [image], [1, 2])]))
    assert message.isprintable()
