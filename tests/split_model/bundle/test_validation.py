"""A bundle is made of regular files inside its folder, and a manifest that makes sense; all else is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from split_model.bundle import (
    FORMAT,
    ChannelCalibration,
    Codebook,
    Cut,
    ImagePreprocess,
    Manifest,
    NoiseTail,
    OutputSchema,
    Reference,
    TensorSpec,
    TopK,
    file_ref,
    write_manifest,
)
from split_model.bundle.store import Bundle
from split_model.errors import BadBundleError, SplitModelError
from split_model.privacy import NoisePlan, NoiseSpec

FILES = ("model.tflite", "cut-001/head.tflite", "cut-001/tail.tflite", "words.npz", "labels.txt", "reference.bin")


def make(root: Path) -> Path:
    """A bundle with everything that a manifest can name; its files are not models."""
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    refs = {name: file_ref(root, name) for name in FILES}
    channels = ChannelCalibration(clip_low=(-1.0, 0.0), clip_high=(3.0, 2.0), rank=(1.5, 4.0), weight=(1.0, 0.0))
    cut = Cut(
        index=1,
        head=refs["cut-001/head.tflite"],
        tail=refs["cut-001/tail.tflite"],
        tensors=(TensorSpec(name="features", shape=(1, 4, 4, 2), dtype="int8", scale=0.1, zero_point=-3),),
        head_macs=10,
        tail_macs=20,
        calibration=(channels,),
        codebooks=(
            Codebook(
                codewords=4, groups=1, file=refs["words.npz"], lookup=0.9, chance=0.1, samples=50, truth="labels"
            ),
        ),
        noise_tails=(NoiseTail(epsilon=2.0, tail=refs["cut-001/tail.tflite"]),),
    )
    manifest = Manifest(
        format=FORMAT,
        name="sensible",
        ops=3,
        macs=30,
        model=refs["model.tflite"],
        inputs=(TensorSpec(name="picture", shape=(1, 8, 8, 3), dtype="float32"),),
        outputs=(TensorSpec(name="scores", shape=(1, 10), dtype="float32"),),
        cuts=(cut,),
        preprocess=ImagePreprocess(resize=8, crop=(8, 8)),
        answer=TopK(output=0, k=3, labels=refs["labels.txt"]),
        answer_schema=(OutputSchema(name="scores", shape=(10,), meaning="logits"),),
        reference=Reference(
            outputs=refs["reference.bin"], sets=2, inputs_sha256="0" * 64, tolerance=(0.0,), made_with="a test"
        ),
    )
    write_manifest(root, manifest)
    return root


def changed(root: Path, place: str, value: Any) -> Path:
    """The same bundle with one value of its manifest replaced."""
    path = root / "manifest.json"
    manifest = json.loads(path.read_text())
    node = manifest
    *parents, last = (int(step) if step.isdigit() else step for step in place.split("."))
    for step in parents:
        node = node[step]
    node[last] = value
    path.write_text(json.dumps(manifest))
    return root


def test_a_sensible_bundle_opens(tmp_path: Path) -> None:
    assert Bundle.open(make(tmp_path)).cut(1).values == 32


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("name", ""),
        ("name", "a\nb"),
        ("ops", 0),
        ("ops", 2**62),
        ("macs", 2**62),
        ("cuts.0.tail_macs", 2**62),
        ("model.size_bytes", 2**40),
        ("macs", -1),
        ("model.path", "../model.tflite"),
        ("model.path", "/etc/passwd"),
        ("model.sha256", "abc"),
        ("model.size_bytes", -1),
        ("inputs", []),
        ("outputs.0.shape", [1, 0]),
        ("outputs.0.shape", [1] * 9),
        ("outputs", [{"name": "o", "shape": [1], "dtype": "float32", "scale": 0.0, "zero_point": 0}] * 65),
        ("cuts.0.index", 3),
        ("cuts.0.head", None),
        ("cuts.0.head_macs", -1),
        ("cuts.0.tensors.0.shape", [1, 2**31, 1, 2]),
        ("cuts.0.tensors.0.shape", [2**62, 2**62, 1, 2]),
        ("cuts.0.tensors.0.shape", []),
        ("cuts.0.tensors.0.scale", -1.0),
        ("cuts.0.tensors.0.scale", 1e308),
        ("cuts.0.tensors.0.zero_point", 128),
        ("cuts.0.calibration.0.clip_high", [1e308, 2.0]),
        ("cuts.0.calibration.0.clip_low", [-1e308, 0.0]),
        ("cuts.0.calibration.0.clip_high", [-1.0, 2.0]),
        ("cuts.0.calibration.0.rank", [-1.0, 4.0]),
        ("cuts.0.calibration.0.rank", [1.0, 5.0]),
        ("cuts.0.calibration.0.weight", [-1.0, 0.0]),
        ("cuts.0.calibration.0.weight", [1e308, 0.0]),
        ("cuts.0.calibration.0.weight", [1.0]),
        ("cuts.0.codebooks.0.words", 1),
        ("cuts.0.codebooks.0.lookup", 1.5),
        ("cuts.0.codebooks.0.samples", -1),
        ("cuts.0.noise_tails.0.epsilon", 0.0),
        ("preprocess.resize", 0),
        ("preprocess.crop", [2**31, 8]),
        ("preprocess.scale", [0.0]),
        ("preprocess.mean", [1e308]),
        ("answer.output", 1),
        ("answer.k", 0),
        ("answer_schema.0.shape", [11]),
        ("answer_schema.0.weight", -1.0),
        ("reference.sets", 0),
        ("reference.tolerance", [-1.0]),
        ("reference.tolerance", []),
    ],
)
def test_a_manifest_without_sense_is_refused(tmp_path: Path, place: str, value: Any) -> None:
    with pytest.raises(BadBundleError, match=r"prepare|0 or more|answer schema"):
        Bundle.open(changed(make(tmp_path), place, value))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("bundle"))


_reals = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**63), 2**63).map(float))


@given(low=_reals, high=_reals, rank=_reals, weight=_reals, scale=_reals, zero_point=st.integers(-300, 300))
def test_what_opens_can_be_planned(
    template: Path, low: float, high: float, rank: float, weight: float, scale: float, zero_point: int
) -> None:
    """Numbers that pass give a plan whose every figure is finite, or an error that says what is wrong."""
    original = (template / "manifest.json").read_bytes()
    try:
        for name, value in (("clip_low", low), ("clip_high", high), ("rank", rank), ("weight", weight)):
            changed(template, f"cuts.0.calibration.0.{name}", [value, value])
        changed(template, "cuts.0.tensors.0.scale", scale)
        changed(template, "cuts.0.tensors.0.zero_point", zero_point)
        try:
            cut = Bundle.open(template).cut(1)
            assert cut.calibration is not None
            plan = NoisePlan.make(NoiseSpec(epsilon=8.0), cut.tensors, cut.calibration)
        except SplitModelError:
            return
        assert 0.0 < plan.per_value_epsilon_max < float("inf")
        assert 0.0 < plan.whole_input_epsilon < float("inf")
    finally:
        (template / "manifest.json").write_bytes(original)


def _link(path: Path) -> None:
    kept = path.with_name("elsewhere")
    path.rename(kept)
    path.symlink_to(kept)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("spoil", [_link, _fifo, _device, _folder])
@pytest.mark.parametrize("name", ["manifest.json", "cut-001/head.tflite", "labels.txt", "evaluation.json"])
def test_only_regular_files_are_opened(tmp_path: Path, spoil: Callable[[Path], None], name: str) -> None:
    """In a process of its own: on a FIFO, an open that waits would wait for ever."""
    root = make(tmp_path / "bundle")
    (root / "evaluation.json").write_text("{}")
    spoil(root / name)
    code = (
        "import sys; from pathlib import Path; from split_model.bundle import evaluation; "
        "from split_model.bundle import Bundle; from split_model.errors import SplitModelError\n"
        f"try: evaluation.load(Bundle.open(Path({str(root)!r})))\n"
        "except SplitModelError as error: print(error); sys.exit(error.exit_code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (os.EX_DATAERR, "")
    assert "not a regular file" in done.stdout


def test_a_folder_behind_a_link_is_refused(tmp_path: Path) -> None:
    root = make(tmp_path / "bundle")
    (root / "cut-001").rename(tmp_path / "elsewhere")
    (root / "cut-001").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadBundleError, match="link"):
        Bundle.open(root)


def test_the_bundle_itself_may_be_behind_a_link(tmp_path: Path) -> None:
    """As releases on a board are."""
    make(tmp_path / "releases" / "one")
    (tmp_path / "current").symlink_to(tmp_path / "releases")
    assert Bundle.open(tmp_path / "current" / "one").manifest.name == "sensible"
