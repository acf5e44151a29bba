"""Verification finds what is wrong, says where, and needs no more than a backend."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest

from split_model.bundle import Bundle, ImagePreprocess, TensorSpec, write_manifest, writing
from split_model.errors import BadBundleError, BadModelError, UsageError
from split_model.interpreter import open_interpreter
from split_model.prepare.assemble import choose, write_bundle
from split_model.prepare.random_inputs import random_inputs
from split_model.prepare.tflite.cuts import find_cuts
from split_model.prepare.tflite.reading import parse_model, read_model
from split_model.prepare.tflite.shapes import open_model
from split_model.prepare.verify import verify_all_cuts, verify_bundle


def prepare(data, folder):
    """A bundle of every legal cut."""
    path = folder / "net.tflite"
    path.write_bytes(data)
    model = read_model(path)
    with writing(folder / "bundle") as scratch:
        manifest = write_bundle(
            scratch, model_path=path, model=model, cuts=find_cuts(model.graph).legal, name="net", made_by="test"
        )
        write_manifest(scratch, manifest)
    return Bundle.open(folder / "bundle")


@pytest.fixture
def bundle(residual, tmp_path):
    return prepare(residual(), tmp_path)


def test_the_manifest_says_what_the_files_hold(bundle):
    manifest = bundle.manifest
    assert (manifest.name, manifest.ops, [cut.index for cut in manifest.cuts]) == ("net", 4, [0, 1, 2, 3])
    assert manifest.cuts[0].head is None
    assert manifest.cuts[0].tensors == manifest.inputs
    for cut in manifest.cuts:
        assert cut.head_macs + cut.tail_macs == manifest.macs
        tail = open_interpreter(bundle.path(cut.tail))
        assert tail.inputs == cut.tensors
        assert tail.outputs == manifest.outputs
        if cut.head is not None:
            head = open_interpreter(bundle.path(cut.head))
            assert (head.inputs, head.outputs) == (manifest.inputs, cut.tensors)


def test_an_honest_bundle_is_identical_on_random_and_given_inputs(bundle):
    steps = []
    given_set = [np.full((1, 4, 4, 2), 3, np.float32)]
    checks = verify_bundle(bundle, inputs=[given_set], progress=lambda *step: steps.append(step))
    assert [(check.index, check.identical, check.message) for check in checks] == [
        (index, True, "") for index in range(4)
    ]
    assert [len(check.tensors) for check in checks] == [1, 1, 2, 1]
    assert steps[-1] == ("verifying", 4, 4)


def test_a_tail_with_other_weights_is_found(residual, builder, tmp_path):
    """The hashes are right, the tail is not: one weight of another model."""
    bundle = prepare(residual(), tmp_path)
    tail = bundle.path(bundle.cut(3).tail)
    data = bytearray(tail.read_bytes())
    weights = parse_model(residual()).buffers[-2].tobytes()
    at = bytes(data).index(weights)
    data[at + 3] ^= 0x40  # an exponent bit
    tail.write_bytes(data)
    bundle.check_files = lambda: None  # type: ignore[method-assign]
    checks = verify_bundle(bundle)
    assert [check.identical for check in checks] == [True, True, True, False]
    assert checks[3].max_abs_difference > 0
    assert "output 0 differs" in checks[3].message


def test_a_half_that_does_not_fit_is_a_verdict_not_a_crash(residual, tmp_path):
    bundle = prepare(residual(), tmp_path)
    shutil.copyfile(bundle.path(bundle.cut(1).tail), bundle.path(bundle.cut(2).tail))
    bundle.check_files = lambda: None  # type: ignore[method-assign]
    check = verify_bundle(bundle)[2]
    assert not check.identical
    assert "takes 1 inputs, got 2" in check.message


def test_one_flipped_bit_in_a_file_is_refused_before_anything_runs(bundle):
    path = bundle.path(bundle.cut(2).head)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadBundleError, match=r"head\.tflite"):
        verify_bundle(bundle)


def test_nan_equals_nan(residual, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(residual())
    nan = [np.full((1, 4, 4, 2), np.nan, np.float32)]
    assert all(check.identical for check in verify_all_cuts(path, inputs=[nan], random_sets=0))


def test_all_cuts_in_memory(residual, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(residual(half=True))
    checks = verify_all_cuts(path)
    assert [(check.index, check.identical) for check in checks] == [(0, True), (2, True), (4, True), (5, True)]


def test_a_custom_op_that_the_backend_lacks_is_named(builder, tmp_path):
    build = builder()
    image = build.tensor([1, 4])
    path = tmp_path / "net.tflite"
    path.write_bytes(build.build([image], [build.op("CUSTOM", [image], [1, 4], code=b"MyOp")]))
    with pytest.raises(BadModelError, match=r"op 0 MyOp is a custom op that this TFLite backend lacks; convert"):
        verify_all_cuts(path)


def dynamic(builder):
    """The file holds placeholders for all activations, as converters write them for an open batch."""
    build = builder()
    image = build.tensor([1, 4, 4, 2], signature=[-1, 4, 4, 2])
    first = build.conv(image, 3)
    second = build.conv(first, 3, size=3)
    answer = build.op("ADD", [first, second], [1, 1, 1, 3])
    for index in (first, second, answer):
        build.graph.tensors[index].shape = np.array([1, 1, 1, 3], np.int32)
        build.graph.tensors[index].shapeSignature = np.array([-1, -1, -1, 3], np.int32)
    return build.build([image], [answer])


def test_placeholder_shapes_are_resolved(builder, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(dynamic(builder))
    checks = verify_all_cuts(path)
    assert [check.identical for check in checks] == [True] * 3
    graph = open_model(path).graph
    assert [cut.shapes for cut in find_cuts(graph).legal] == [
        ((1, 4, 4, 2),),
        ((1, 4, 4, 3),),
        ((1, 4, 4, 3), (1, 4, 4, 3)),
    ]


def test_shapes_that_do_not_resolve(builder, tmp_path):
    build = builder()
    image = build.tensor([1, 4], signature=[-1, 4])
    too_large = build.tensor([3], np.array([5, 5, 5], np.int32), dtype="int32")
    middle = build.op("RESHAPE", [image, too_large], build.tensor([1, 4], signature=[-1, 4]))
    path = tmp_path / "net.tflite"
    path.write_bytes(build.build([image], [middle]))
    with pytest.raises(BadModelError, match=r"net\.tflite: has dynamic shapes that do not resolve"):
        open_model(path)


def test_asking_for_a_cut_that_is_none(residual):
    cuts = find_cuts(parse_model(residual()).graph)
    assert [cut.index for cut in choose(cuts, [3, 1])] == [1, 3]
    with pytest.raises(UsageError, match="cut 17 is not possible"):
        choose(cuts, [1, 17])


def test_inputs_are_in_a_plausible_range():
    rng = np.random.default_rng(0)
    specs = [
        TensorSpec(name="picture", shape=(1, 50, 50, 3), dtype="float32"),
        TensorSpec(name="codes", shape=(1000,), dtype="int8"),
        TensorSpec(name="indices", shape=(100,), dtype="int32"),
    ]
    preprocess = ImagePreprocess(resize=256, crop=(224, 224), mean=(127.0,), scale=(128.0,))
    picture, codes, indices = random_inputs(specs, rng, preprocess=preprocess)
    assert picture.min() < -0.9
    assert 0.9 < picture.max() <= 1.0
    assert (codes.min(), codes.max(), codes.dtype) == (-128, 127, np.int8)
    assert set(indices) == {0, 1}


def test_a_board_without_the_schema_can_verify(bundle):
    """Only a backend is needed: the schema and flatbuffers are made impossible to import."""
    program = (
        "import sys\n"
        "sys.modules['flatbuffers'] = None\n"
        "sys.modules['ai_edge_litert.schema_py_generated'] = None\n"
        "from pathlib import Path\n"
        "from split_model.bundle import Bundle\n"
        "from split_model.prepare.verify import verify_bundle\n"
        f"print(all(check.identical for check in verify_bundle(Bundle.open(Path({str(bundle.root)!r})))))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "True", done.stderr
