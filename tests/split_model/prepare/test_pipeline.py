"""The command ``prepare``: the same bytes twice, nothing calibrated twice, and a reference to compare with."""

from __future__ import annotations

import json
import shutil

import msgspec
import numpy as np
import pytest

from split_model.bundle import Bundle, ChannelCalibration, TensorSpec, file_ref, write_manifest
from split_model.cli import main
from split_model.errors import BadBundleError
from split_model.prepare.calibrate import bundle_calibration
from split_model.prepare.calibrate.calibration import CalibrationOptions
from split_model.prepare.calibrate.resume import KeptCalibration
from split_model.prepare.random_inputs import random_inputs
from split_model.prepare.reference import _digest, check_reference, describe
from split_model.service.terminal_text import size as told_size


@pytest.fixture
def model(residual, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(residual())
    return path


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, inputs=np.random.default_rng(0).normal(size=(6, 4, 4, 2)).astype(np.float32))
    return path


def run(*arguments):
    return main([str(one) for one in arguments])


def test_the_same_input_gives_the_same_bytes(model, data, tmp_path, capsys):
    for name in ("one", "two"):
        assert run("prepare", model, "-o", tmp_path / name, "--calibration", data) == 0
    one, two = (Bundle.open(tmp_path / name) for name in ("one", "two"))
    assert one.identity == two.identity
    files = sorted(path.relative_to(one.root) for path in one.root.rglob("*") if path.is_file())
    assert [path.as_posix() for path in files] == sorted(
        ["manifest.json", "evaluation.json", *(ref.path for ref in one.manifest.files())]
    )
    for path in files:
        assert (one.root / path).read_bytes() == (two.root / path).read_bytes()
    assert "bundle " + one.identity[:12] in capsys.readouterr().out


def test_the_size_and_what_was_left_out_are_printed(model, tmp_path, capsys):
    assert run("prepare", model, "-o", tmp_path / "b", "--cuts", "at:1,3") == 0
    out = capsys.readouterr().out
    bundle = Bundle.open(tmp_path / "b")
    size = (
        sum(path.stat().st_size for path in bundle.root.rglob("*.*"))
        - (bundle.root / "manifest.json").stat().st_size
    )
    assert f"2 cuts, {told_size(size)} in all" in out
    assert "left out: 2 of 4 legal cuts, on the Pareto front of them: 0; --cuts takes others" in out
    assert run("prepare", model, "-o", tmp_path / "all", "--cuts", "all") == 0
    assert "every legal cut is in it" in capsys.readouterr().out


def test_an_interrupted_calibration_is_taken_up(model, data, tmp_path, monkeypatch, capsys):
    """Ctrl-C after the first calibrated cut; the next run calibrates the others only and gives the same bundle."""
    assert run("prepare", model, "-o", tmp_path / "straight", "--calibration", data, "--cuts", "all") == 0
    calibrate = bundle_calibration.calibrate
    seen = []

    def interrupted(cuts, samples, *, finished, **options):
        def once(index, numbers):
            finished(index, numbers)
            raise KeyboardInterrupt

        seen.append(len(cuts))
        return calibrate(cuts, samples, finished=once, **options)

    monkeypatch.setattr(bundle_calibration, "calibrate", interrupted)
    assert run("prepare", model, "-o", tmp_path / "b", "--calibration", data, "--cuts", "all") == 130
    assert not (tmp_path / "b").exists()

    def counted(cuts, samples, **options):
        seen.append(len(cuts))
        return calibrate(cuts, samples, **options)

    monkeypatch.setattr(bundle_calibration, "calibrate", counted)
    assert run("prepare", model, "-o", tmp_path / "b", "--calibration", data, "--cuts", "all") == 0
    assert seen == [4, 3, 4, 4]  # the half that was interrupted, the other one, and all of the data
    assert "1 of 4 cuts reused from an interrupted run" in capsys.readouterr().err
    assert Bundle.open(tmp_path / "b").identity == Bundle.open(tmp_path / "straight").identity
    assert not list(tmp_path.glob(".*"))


def test_kept_numbers_are_those_of_the_same_inputs_only(bundle, tmp_path):
    cut = bundle.manifest.cuts[0]
    samples = [(np.ones((1, 4, 4, 2), np.float32),)]
    found = (ChannelCalibration(clip_low=(0.0,), clip_high=(0.1,), rank=(1.0,), weight=(3.0,)),)
    options = CalibrationOptions()

    def kept(samples=samples, options=options, name="b"):
        return KeptCalibration(tmp_path / "out" / name, samples, options)

    (tmp_path / "out").mkdir()
    kept().keep(cut, found)
    assert kept().load(cut) == found
    assert kept(samples=[(np.zeros((1, 4, 4, 2), np.float32),)]).load(cut) is None
    assert kept(samples=[*samples, *samples]).load(cut) is None
    assert kept(options=CalibrationOptions(quantile=0.98)).load(cut) is None
    assert kept(name="c").load(cut) is None
    other = msgspec.structs.replace(cut, tail=msgspec.structs.replace(cut.tail, sha256="0" * 64))
    assert kept().load(other) is None
    file = next((tmp_path / "out" / ".b.calibration").iterdir())
    file.write_bytes(file.read_bytes()[:-5])
    assert kept().load(cut) is None
    kept().discard()
    assert not list((tmp_path / "out").iterdir())


def test_the_answer_schema_goes_into_the_bundle_and_must_fit(model, tmp_path, capsys):
    schema = [{"name": "map", "shape": [4, 4, 2], "meaning": "two scores a pixel"}]
    path = tmp_path / "answer.json"
    path.write_text(json.dumps(schema))
    assert run("prepare", model, "-o", tmp_path / "b", "--answer", path) == 0
    assert msgspec.to_builtins(Bundle.open(tmp_path / "b").manifest.answer_schema[0]) == {
        **schema[0],
        "shape": (4, 4, 2),
        "weight": 1.0,
    }
    path.write_text(json.dumps([{**schema[0], "shape": [4, 4, 3]}]))
    assert run("prepare", model, "-o", tmp_path / "c", "--answer", path) == 65
    assert "outputs of [48] values, the model [32]" in capsys.readouterr().err
    path.write_text("[{}]")
    assert run("prepare", model, "-o", tmp_path / "c", "--answer", path) == 65
    assert "not an answer schema" in capsys.readouterr().err


def test_a_json_file_that_an_editor_has_saved(model, tmp_path, capsys):
    path = tmp_path / "answer.json"
    schema = json.dumps([{"name": "map", "shape": [4, 4, 2], "meaning": "scores"}], indent=1)
    path.write_bytes(b"\xef\xbb\xbf" + schema.replace("\n", "\r\n").encode())
    assert run("prepare", model, "-o", tmp_path / "b", "--answer", path) == 0
    path.write_text(schema.replace("map", "m\u2028ap"))
    assert run("prepare", model, "-o", tmp_path / "c", "--answer", path) == 65
    assert "answer.json:3: character U+2028 (line separator)" in capsys.readouterr().err


@pytest.fixture
def bundle(model, tmp_path):
    assert run("prepare", model, "-o", tmp_path / "b") == 0
    return Bundle.open(tmp_path / "b")


def altered(bundle, change):
    """The bundle with other reference outputs, and hashes that are right."""
    reference = bundle.manifest.reference
    path = bundle.path(reference.outputs)
    values = np.frombuffer(path.read_bytes(), np.float32).copy()
    change(values)
    path.write_bytes(values.tobytes())
    reference = msgspec.structs.replace(reference, outputs=file_ref(bundle.root, reference.outputs.path))
    write_manifest(bundle.root, msgspec.structs.replace(bundle.manifest, reference=reference))
    return Bundle.open(bundle.root)


def test_the_reference_is_what_the_model_answers(bundle, capsys):
    check = check_reference(bundle)
    assert (check.comparable, check.within, check.max_abs_difference) == (True, True, (0.0,))
    assert 0 < check.tolerance[0] < 0.01
    assert "outputs differ by 0 (tolerance" in describe(check)
    assert run("verify", bundle.root) == 0
    assert "against the reference of" in capsys.readouterr().out


def test_a_difference_within_the_tolerance_passes_and_is_told(bundle):
    tolerance = bundle.manifest.reference.tolerance[0]
    check = check_reference(altered(bundle, lambda values: values.__iadd__(tolerance / 2)))
    assert check.within
    assert check.max_abs_difference[0] == pytest.approx(tolerance / 2, rel=0.2)


@pytest.mark.parametrize("value", [1.0, np.nan, np.inf])
def test_a_difference_beyond_it_fails(bundle, value, capsys):
    def change(values):
        values[5] += np.float32(value)

    changed = altered(bundle, change)
    assert run("verify", changed.root) == 65
    assert "over the tolerance" in capsys.readouterr().out


def test_a_reference_that_is_cut_short(bundle):
    path = bundle.path(bundle.manifest.reference.outputs)
    raw = path.read_bytes()
    path.write_bytes(raw[:-4])
    with pytest.raises(BadBundleError, match=r"reference\.bin"):
        check_reference(bundle)


def test_other_random_numbers_are_not_compared(bundle):
    reference = msgspec.structs.replace(bundle.manifest.reference, inputs_sha256="0" * 64)
    write_manifest(bundle.root, msgspec.structs.replace(bundle.manifest, reference=reference))
    check = check_reference(Bundle.open(bundle.root))
    assert (check.comparable, check.within) == (False, True)
    assert "other random inputs" in describe(check)


def test_all_cuts_of_a_bundle_with_a_wrong_tail_are_not_all_fine(model, tmp_path):
    """Slicing anew gives good halves; the bundle's own must be good as well."""
    assert run("prepare", model, "-o", tmp_path / "b", "--cuts", "at:0,3") == 0
    bundle = Bundle.open(tmp_path / "b")
    assert run("verify", bundle.root, "--all-cuts") == 0
    cut = bundle.manifest.cuts[-1]
    tail = bundle.path(cut.tail)
    shutil.copyfile(bundle.path(bundle.manifest.cuts[0].tail), tail)
    cuts = (*bundle.manifest.cuts[:-1], msgspec.structs.replace(cut, tail=file_ref(bundle.root, cut.tail.path)))
    write_manifest(bundle.root, msgspec.structs.replace(bundle.manifest, cuts=cuts))
    assert run("verify", bundle.root, "--all-cuts") == 65


def test_random_inputs_do_not_change_under_us():
    """Bundles that are out there hold the hash of these."""
    specs = [TensorSpec(name="x", shape=(2, 3), dtype="float32"), TensorSpec(name="y", shape=(5,), dtype="int8")]
    assert _digest([random_inputs(specs, np.random.default_rng(1))]) == (
        "5e0b4348f24ebb6d57c4a117b54a5d4e31eb6c25c45f91b0e1b6d047c1ae12a6"
    )
