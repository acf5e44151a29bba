"""Models that people bring, from `prepare` to answers over the link: detections, variable rows, cuts of no use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.config import config
from edge_runtime.daemon.plan import Plan
from edge_runtime.loop.answers import unpack
from split_model.answers.classes import class_fields
from split_model.bundle import Bundle, TensorSpec, TopK
from split_model.errors import ConfigError
from split_model.interpreter import open_interpreter
from split_model.prepare.pipeline import PrepareOptions, prepare
from split_model.protocol import messages as wire
from split_model.protocol.device import Answered

CASES = Path(__file__).parents[2] / "split_model" / "prepare" / "cases"


def brought(
    folder: Path, name: str, inputs: np.ndarray, *, calibrated: bool = True, answer: str | None = None
) -> tuple[Bundle, Path]:
    """A case prepared, and its data. ``answer``: what its outputs are declared as."""
    data = folder / f"{name}.npz"
    np.savez(data, inputs=inputs)
    options = PrepareOptions(
        model=CASES / f"{name}.tflite",
        output=folder / f"{name}-bundle",
        cuts=None,
        calibration=data if calibrated else None,
        answer=None if answer is None else Path(answer),
    )
    return prepare(options, lambda *_: None), data


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(24, *shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "shape", "split"),
    [("ssd_backbone", (1, 32, 32, 3), 3), ("ssd_full", (1, 8), 4), ("nms_dyn", (1, 8), 4), ("boolmask", (1, 8), 2)],
)
def test_detections_come_back_from_the_server(
    rig: Any, tmp_path: Path, name: str, shape: tuple[int, ...], split: int
) -> None:
    """Under noise each answer is taken; unprotected it is the whole model's, bit for bit, with as many rows."""
    bundle, data = brought(tmp_path, name, floats(*shape), answer="classes")  # so that records have the raw outputs
    server = rig.server(bundle=bundle)
    common = {
        "device_bundle": str(bundle.root),
        "device_state": "state",
        "source_path": str(data),
        "planner_split": split,
        "planner_answer_within_s": 20.0,
    }
    noisy = rig.device(server, name="noisy", **common)
    noisy.wait_more("offloaded", 5)
    noisy.stop()
    assert noisy.counters()["fallback"] == 0
    plain = rig.device(server, name="plain", **common, release_mechanism="none")
    plain.wait_more("offloaded", 5)
    plain.stop()
    whole = open_interpreter(bundle.path(bundle.manifest.model))
    with np.load(data) as archive:
        samples = archive["inputs"]
    for record in [one for one in plain.records() if one["outcome"] == "offloaded"]:
        number = int(record["name"].rpartition("[")[2].rstrip("]"))
        expected = whole.run([samples[number]])
        assert [output["shape"] for output in record["outputs"]] == [list(one.shape) for one in expected]
        for output, one in zip(record["outputs"], expected, strict=True):
            assert np.array_equal(np.float32(output["values"]), one.reshape(-1))


def test_a_uint8_picture_runs_with_the_shipped_defaults(rig: Any, tmp_path: Path) -> None:
    """Nothing can be released of the picture itself; every other cut is in use."""
    pictures = np.random.default_rng(3).integers(0, 100, (24, 1, 16, 16, 3), np.uint8)
    bundle, data = brought(tmp_path, "uint8cast2", pictures)
    path = rig.configure(
        device_bundle=str(bundle.root), source_path=str(data), planner_split="auto", planner_earliest_cut=None
    )
    plan = Plan.of(config.load(path))
    assert plan.allowed == {1, 2, 3, 4}
    path = rig.configure(device_bundle=str(bundle.root), source_path=str(data), planner_split=0)
    with pytest.raises(
        ConfigError, match=r"split = 0: cut 0 is not used, tensor 'image' of dtype uint8 has no scale"
    ):
        Plan.of(config.load(path))


def offers_what_cannot_be(tmp_path: Path) -> Bundle:
    """A bundle as an older `prepare` made it: the uint8 picture is offered, calibrated, and cannot be released."""
    pictures = np.random.default_rng(3).integers(0, 100, (24, 1, 16, 16, 3), np.uint8)
    new, _ = brought(tmp_path / "new", "uint8cast2", pictures)
    old, _ = brought(tmp_path / "old", "uint8cast2", pictures, calibrated=False)
    calibrated = {cut["index"]: cut for cut in json.loads((new.root / "manifest.json").read_text())["cuts"]}
    manifest = json.loads((old.root / "manifest.json").read_text())
    flat = {"clip_low": [0.0] * 3, "clip_high": [255.0] * 3, "rank": [1.0] * 3, "weight": [1.0] * 3}
    manifest["cuts"] = [calibrated.get(cut["index"], {**cut, "calibration": [flat]}) for cut in manifest["cuts"]]
    (old.root / "manifest.json").write_text(json.dumps(manifest))
    return Bundle.open(old.root)


@pytest.mark.parametrize("earliest_cut", [0, 1])
def test_a_cut_of_no_use_ends_nothing(
    rig: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, earliest_cut: int
) -> None:
    for folder in ("new", "old"):
        (tmp_path / folder).mkdir()
    bundle = offers_what_cannot_be(tmp_path)
    path = rig.configure(
        device_bundle=str(bundle.root), planner_split="auto", planner_earliest_cut=earliest_cut, source_path="/none"
    )
    assert Plan.of(config.load(path)).allowed == {1, 2, 3, 4}
    assert "cut 0 is not used: tensor 'image' of dtype uint8 has no scale" in caplog.text
    only = rig.configure(device_bundle=str(bundle.root), planner_split="local", source_path="/none")
    assert Plan.of(config.load(only)).bundle.local == bundle.local


def answered(shape: tuple[int, ...], payload: bytes, dtype: str = "float32") -> Answered:
    answer = wire.Answer(
        request_id=1,
        timed_bytes=0,
        receive_s=0.0,
        queue_s=0.0,
        tail_s=0.0,
        tensors=(wire.AnswerTensor(dtype=dtype, shape=shape),),
    )
    return Answered(1, answer, memoryview(payload), len(payload), 0.1)


def test_an_answer_has_as_many_rows_as_were_found_and_never_more_than_fit() -> None:
    rows = TensorSpec(name="boxes", shape=(3, 2), dtype="float32", open_axes=(0,))
    for number in range(4):
        found = unpack(answered((number, 2), bytes(8 * number)), [rows])
        assert found is not None
        assert found[0].shape == (number, 2)
    assert unpack(answered((4, 2), bytes(32)), [rows]) is None
    assert unpack(answered((2, 1), bytes(8)), [rows]) is None
    assert unpack(answered((2, 2), bytes(8)), [rows]) is None
    assert unpack(answered((2, 2), bytes(16), "int32"), [rows]) is None
    scalar = TensorSpec(name="count", shape=(), dtype="float32")
    assert unpack(answered((), bytes(4)), [scalar]) is not None
    assert unpack(answered((1,), bytes(4)), [scalar]) is None


def test_a_record_of_nothing_found_has_no_classes() -> None:
    spec = TensorSpec(name="scores", shape=(5,), dtype="float32", open_axes=(0,))
    assert class_fields([np.empty(0, np.float32)], [spec], TopK(), ()) == {"top": []}
