"""Small models of the kinds that people bring: what `prepare` offers of them works, the rest has its reason.

The models in ``cases`` have few ops and random weights.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from split_model.bundle import Bundle
from split_model.cli import main
from split_model.interpreter import open_interpreter
from tests.split_model.prepare.strange_models import MODELS, top_k_of_the_data

CASES = Path(__file__).parent / "cases"
SAMPLES = 24


def inputs_of(name):
    """Data of the kind that each model takes."""
    rng = np.random.default_rng(3)
    makers = {
        "uint8cast2": lambda: {"inputs": rng.integers(0, 100, (SAMPLES, 1, 16, 16, 3), np.uint8)},
        "argmax_gather": lambda: {"inputs": rng.normal(size=(SAMPLES, 1, 12)).astype(np.float32)},
        "embed": lambda: {"inputs": rng.integers(0, 100, (SAMPLES, 1, 16), np.int32)},
        "infmask": lambda: {
            "inputs_0": rng.integers(0, 2, (SAMPLES, 1, 6), np.int32),
            "inputs_1": rng.normal(size=(SAMPLES, 1, 6, 8)).astype(np.float32),
        },
        "ssd_backbone": lambda: {"inputs": rng.normal(size=(SAMPLES, 1, 32, 32, 3)).astype(np.float32)},
    }
    return makers.get(name, lambda: {"inputs": rng.normal(size=(SAMPLES, 1, 8)).astype(np.float32)})()


@pytest.fixture
def prepared(tmp_path, capsys):
    """Prepares a case; the bundle, its data, and what was printed."""

    def run(name, *arguments):
        data = tmp_path / f"{name}.npz"
        np.savez(data, **inputs_of(name))
        root = tmp_path / f"{name}-bundle"
        model = CASES / f"{name}.tflite"
        code = main(
            ["prepare", str(model), "-o", str(root), "--cuts", "all", "--calibration", str(data), *arguments]
        )
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return Bundle.open(root), data, captured.out

    return run


#: By case: the cuts that are offered, and of some cut that is not a part of its reason.
EXPECTED = {
    "uint8cast2": ([1, 2, 3, 4], {0: "tensor 'image' of dtype uint8 has no scale"}),
    "argmax_gather": ([0, 1, 3, 4], {2: "holds indices or sizes for op 2 GATHER"}),
    "embed": ([4, 5], {0: "op 3 GATHER", 1: "op 3 GATHER", 2: "op 3 GATHER", 3: "op 3 GATHER"}),
    "infmask": ([7], {0: "int32 cannot", **dict.fromkeys(range(1, 6), "bool cannot"), 6: "beyond 1e+30"}),
    "boolmask": ([0, 1, 2, 3], {4: "tensor 'Greater' of dtype bool"}),
    "nms_dyn": ([0, 1, 2, 3, 4, 5, 6], {9: "holds indices or sizes for op 11 GATHER"}),
    "ssd_backbone": ([0, 1, 2, 3, 4, 5, 6, 7, 8], {}),
    "ssd_full": ([0, 1, 2, 3, 4, 5], {}),
}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_what_is_offered_works_and_the_rest_has_its_reason(prepared, capsys, name):
    bundle, data, printed = prepared(name)
    offered, reasons = EXPECTED[name]
    assert [cut.index for cut in bundle.manifest.cuts] == offered
    left_out = {left.index: left.reason for left in bundle.manifest.left_out}
    assert list(left_out) == list(reasons)
    for index, reason in reasons.items():
        assert reason in left_out[index]
        assert left_out[index] in printed
    assert str(data.parent) not in "".join(left_out.values())
    assert {path.name for path in bundle.root.glob("cut-*")} == {f"cut-{index:03d}" for index in offered}

    assert main(["verify", str(bundle.root), "--data", str(data)]) == 0
    verified = capsys.readouterr().out
    assert f"{len(offered)} of {len(offered)} cuts are bit-identical" in verified
    assert all(reason in verified for reason in left_out.values())
    arguments = ["--data", str(data), "--epsilon", "16", "--draws", "1", "--json"]
    assert main(["evaluate", str(bundle.root), *arguments]) == 0
    measured = json.loads(capsys.readouterr().out)["rows"]
    assert {row["cut"] for row in measured} == set(offered)


def test_inspect_tells_which_cuts_no_noise_can_be_put_on(capsys):
    assert main(["inspect", str(CASES / "embed.tflite")]) == 0
    out = capsys.readouterr().out
    said = " ".join(out.split())  # lines fold
    assert " 3 not under noise: tensor 'functional_1_1/embedding_1/SelectV2' (int32) holds indices" in said
    assert main(["inspect", str(CASES / "embed.tflite"), "--json"]) == 0
    cuts = {cut["index"]: cut for cut in json.loads(capsys.readouterr().out)["cuts"]}
    assert [index for index, cut in cuts.items() if not cut["no_noise"]] == [4, 5]
    assert not any(cut["offered"] and cut["no_noise"] for cut in cuts.values())


def test_outputs_have_the_shapes_of_a_run_whatever_the_file_says(prepared):
    """`TFLite_Detection_PostProcess` has outputs without dimensions in the file."""
    outputs = prepared("ssd_backbone")[0].manifest.outputs
    assert [spec.shape for spec in outputs] == [(1, 10, 4), (1, 10), (1, 10), (1,)]
    assert not any(spec.open_axes for spec in outputs)


@pytest.mark.parametrize(("name", "shape"), [("boolmask", (20, 4)), ("nms_dyn", (10, 5))])
def test_outputs_of_a_variable_number_of_rows_have_a_bound(prepared, name, shape):
    bundle, data, _ = prepared(name)
    output = bundle.manifest.outputs[0]
    assert (output.shape, output.open_axes) == (shape, (0,))
    whole = open_interpreter(bundle.path(bundle.manifest.model))
    with np.load(data) as archive:
        rows = {whole.run([sample])[0].shape[0] for sample in archive["inputs"]}
    assert len(rows) > 1
    assert all(output.fits("float32", (number, *shape[1:])) for number in rows)


def test_a_model_that_finds_nothing_answers_without_rows():
    """Backends do not hand out a tensor without elements."""
    model = open_interpreter(CASES / "boolmask.tflite")
    assert model.run([np.zeros((1, 8), np.float32)])[0].shape == (0, 4)
    assert model.run([np.ones((1, 8), np.float32)])[0].shape[1] == 4


def test_cuts_can_be_left_out_by_hand(prepared):
    bundle, _, printed = prepared("ssd_full", "--without", "0,3")
    assert [cut.index for cut in bundle.manifest.cuts] == [1, 2, 4, 5]
    assert "cuts 0, 3 left out: left out by --without" in printed


def test_a_position_that_is_no_cut_cannot_be_left_out(tmp_path, capsys):
    arguments = ["prepare", str(CASES / "ssd_full.tflite"), "-o", str(tmp_path / "b"), "--without"]
    assert main([*arguments, "77"]) == 64
    assert "cut 77 is not possible" in capsys.readouterr().err
    assert main([*arguments, "one"]) == 64
    assert "--without one: not a list of cuts" in capsys.readouterr().err
    assert main([*arguments, "0,1,2,3,4,5"]) == 65
    assert "no cut is left; cut 0: left out by --without" in capsys.readouterr().err


def test_no_cut_that_works_is_one_line(tmp_path, capsys):
    """Ids cross every cut that was asked for."""
    data = tmp_path / "ids.npz"
    np.savez(data, **inputs_of("embed"))
    arguments = ["prepare", str(CASES / "embed.tflite"), "-o", str(tmp_path / "b"), "--cuts", "at:0,3"]
    assert main([*arguments, "--calibration", str(data)]) == 65
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "no cut is left; cut 0: tensor 'serving_default_keras_tensor_8:0' (int32) holds indices" in error
    assert not (tmp_path / "b").exists()


def test_unprotected_bundles_may_cut_where_ids_cross(tmp_path):
    """Without calibration nothing is released with noise, and ids arrive as they are."""
    assert main(["prepare", str(CASES / "embed.tflite"), "-o", str(tmp_path / "b"), "--cuts", "all"]) == 0
    assert [cut.index for cut in Bundle.open(tmp_path / "b").manifest.cuts] == [0, 1, 2, 3, 4, 5]


def test_bundles_of_before_are_read_and_evaluated_at_the_cuts_that_can_be(prepared, tmp_path, capsys):
    """An older `prepare` offered cut 0 of the uint8 picture, calibrated, and did not know of cuts left out."""
    bundle, data, _ = prepared("uint8cast2")
    assert main(["prepare", str(CASES / "uint8cast2.tflite"), "-o", str(tmp_path / "old"), "--cuts", "all"]) == 0
    old = json.loads((tmp_path / "old" / "manifest.json").read_text())
    new = json.loads((bundle.root / "manifest.json").read_text())
    calibrated = {cut["index"]: cut for cut in new["cuts"]}
    flat = {"clip_low": [0.0] * 3, "clip_high": [255.0] * 3, "rank": [1.0] * 3, "weight": [1.0] * 3}
    old["cuts"] = [calibrated.get(cut["index"], {**cut, "calibration": [flat]}) for cut in old["cuts"]]
    (tmp_path / "old" / "manifest.json").write_text(json.dumps(old))
    capsys.readouterr()
    arguments = ["evaluate", str(tmp_path / "old"), "--data", str(data), "--epsilon", "16", "--draws", "1"]
    assert main([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    assert {row["cut"] for row in json.loads(captured.out)["rows"]} == {1, 2, 3, 4}
    assert "cut 0 is left out: tensor 'image' of dtype uint8 has no scale" in captured.err
    assert main([*arguments, "--cut", "0"]) == 65
    assert "tensor 'image' of dtype uint8 has no scale" in capsys.readouterr().err


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_every_kind_is_prepared_or_refused_in_one_line(tmp_path, capsys, make):
    expected = MODELS[make]
    content, data = make()
    model, samples, root = tmp_path / "net.tflite", tmp_path / "data.npz", tmp_path / "bundle"
    model.write_bytes(content)
    np.savez(samples, **data)
    code = main(["prepare", str(model), "-o", str(root), "--cuts", "all", "--calibration", str(samples)])
    if isinstance(expected, str):
        assert code == 65
        assert expected in capsys.readouterr().err.strip().splitlines()[-1]
        assert not root.exists()
        return
    assert code == 0, capsys.readouterr().err
    manifest = Bundle.open(root).manifest
    assert [cut.index for cut in manifest.cuts] == expected[0]
    assert [left.index for left in manifest.left_out] == expected[1]
    assert main(["verify", str(root), "--data", str(samples)]) == 0, capsys.readouterr()
    measured = ["--data", str(samples), "--epsilon", "16", "--draws", "1"]
    assert main(["evaluate", str(root), *measured]) == 0, capsys.readouterr().err
    assert main(["inspect", str(model)]) == 0


def test_ids_beyond_the_table_name_the_sample(tmp_path, capsys):
    data = tmp_path / "ids.npz"
    ids = np.random.default_rng(3).integers(0, 100, (SAMPLES, 1, 16), np.int32)
    ids[5, 0, 2] = 1000
    np.savez(data, inputs=ids)
    arguments = ["prepare", str(CASES / "embed.tflite"), "-o", str(tmp_path / "b"), "--calibration", str(data)]
    assert main(arguments) == 65
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{data}: the model does not run on sample ids.npz[5]" in said
    assert "/.b." not in said


def test_labels_name_no_classes_of_an_output_whose_size_depends_on_the_data(tmp_path, capsys):
    model, labels = tmp_path / "net.tflite", tmp_path / "labels.txt"
    model.write_bytes(top_k_of_the_data()[0])
    labels.write_text("".join(f"class {number}\n" for number in range(8)))
    assert main(["prepare", str(model), "-o", str(tmp_path / "b"), "--labels", str(labels)]) == 65
    assert "its size depends on the data" in capsys.readouterr().err
