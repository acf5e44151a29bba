"""Boxes and masks from `.tflite` to programs on the board, split and under noise, through both real programs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_runtime.client import Client
from edge_runtime.sources.serial_packets import write_packet
from models.shapes.pictures import LABELS, scene
from split_model.answers.png import read_png
from split_model.answers.reader import AnswerReader
from split_model.bundle import Bundle
from split_model.features.data import open_data
from split_model.interpreter import open_interpreter
from split_model.prepare.own_input import InputWish
from split_model.prepare.pipeline import PrepareOptions, prepare
from split_model.report import write_report

SHAPES = Path(__file__).parents[3] / "models" / "shapes"
INPUT = InputWish(fit="letterbox", mean=(0.0,), std=(255.0,))
_SIZES = ((96, 96), (120, 160), (160, 120))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Bundle], Path]:
    """Detector and segmenter, each cut once in the middle, and a folder of pictures of several sizes."""
    folder = tmp_path_factory.mktemp("shapes")
    pictures = folder / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(7)
    for number in range(12):
        made = scene(rng, *_SIZES[number % 3])
        Image.fromarray(made.picture).save(pictures / f"{number}.png")
    common = PrepareOptions(
        model=SHAPES / "detector.tflite",
        output=folder / "detector",
        cuts=(5,),
        input=INPUT,
        answer=SHAPES / "detections.json",
        calibration=pictures,
    )
    segmenter = dataclasses.replace(
        common,
        model=SHAPES / "segmenter.tflite",
        output=folder / "segmenter",
        cuts=(4,),
        answer=Path("map"),
        labels=SHAPES / "mask-labels.txt",
    )
    bundles = {options.output.name: prepare(options, lambda *_: None) for options in (common, segmenter)}
    return bundles, pictures


def expected(bundle: Bundle, pictures: Path) -> dict[str, dict[str, Any]]:
    """What the whole model answers here, as records have it."""
    whole, reader, manifest = open_interpreter(bundle.path(bundle.manifest.model)), AnswerReader.of(bundle), None
    manifest = bundle.manifest
    return {
        sample.name: reader.fields(whole.run(sample.tensors), sample.placement)
        for sample in open_data(pictures, manifest.inputs, manifest.preprocess)
    }


def common(bundle: Bundle, pictures: Path, split: int) -> dict[str, Any]:
    return {
        "device_bundle": str(bundle.root),
        "device_state": "state",
        "source_path": str(pictures),
        "source_repeat": 0,
        "planner_split": split,
        "planner_answer_within_s": 20.0,
    }


def test_boxes_from_the_server_are_the_whole_models(rig: Any, shapes: Any, tmp_path: Path) -> None:
    """Unprotected they are the same to the last digit; under noise of epsilon 16 most shapes are still found."""
    bundles, pictures = shapes
    bundle = bundles["detector"]
    truth = expected(bundle, pictures)
    server = rig.server(bundle=bundle)
    plain = rig.device(server, name="plain", **common(bundle, pictures, 5), release_mechanism="none")
    plain.wait_more("offloaded", 12)
    plain.stop()
    offloaded = [record for record in plain.records() if record["outcome"] == "offloaded"]
    assert {record["name"] for record in offloaded} == set(truth)
    for record in offloaded:
        assert record["detections"] == truth[record["name"]]["detections"]
        assert record["picture"] == list(np.asarray(Image.open(pictures / record["name"])).shape[:2])
    noisy = rig.device(server, name="noisy", **common(bundle, pictures, 5), release_epsilon=16.0)
    noisy.wait_more("offloaded", 12)
    noisy.stop()
    found = [record for record in noisy.records() if record["outcome"] == "offloaded"]
    counts = {name: len(fields["detections"]) for name, fields in truth.items()}
    near = [abs(len(record["detections"]) - counts[record["name"]]) <= 1 for record in found]
    assert np.mean(near) > 0.7
    labels = {one["label"] for record in found for one in record["detections"]}
    assert labels <= set(LABELS)
    report = tmp_path / "report.html"
    write_report(noisy.answers, report, pictures)
    page = report.read_text()
    assert page.count('class="drawn"') == 12
    assert "offloaded, cut 5" in page


def test_a_mask_in_a_record_and_over_the_socket(rig: Any, shapes: Any) -> None:
    """From the server under noise, for a picture of another size than the model's."""
    bundles, pictures = shapes
    bundle = bundles["segmenter"]
    server = rig.server(bundle=bundle)
    table = {"kind": "socket", "path": "frames.sock", "subject": "apps"}
    settings = {key: value for key, value in common(bundle, pictures, 4).items() if not key.startswith("source")}
    device = rig.device(server, tables={"source": table}, **settings)
    path = device.config.parent / "frames.sock"
    device.until(path.exists)
    name = "1.png"
    picture = np.asarray(Image.open(pictures / name))
    whole = read_png(expected(bundle, pictures)[name]["map"]["png"])
    with Client(path, timeout_s=60.0) as client:
        for _ in range(20):  # the link may not be up for the first
            answer = client.ask(picture, name=name)
            if answer.outcome == "offloaded":
                break
    assert answer.outcome == "offloaded"
    assert answer.map is not None
    assert answer.map.shape == (48, 48)
    assert (answer.map == whole).mean() > 0.8
    told = answer.record["map"]
    assert sum(one["share"] for one in told["classes"]) == pytest.approx(1.0, abs=0.01)
    assert told["box"] == [0.0, -20.0, 160.0, 140.0]
    assert device.stop() == 0
    (record,) = (one for one in device.records()[-1:])
    assert json.loads(json.dumps(record["map"])) == told


def test_boxes_over_a_serial_line(rig: Any, shapes: Any, line: Any) -> None:
    """A microcontroller sends a picture and gets its boxes in the picture's pixels, as one line."""
    bundles, pictures = shapes
    bundle = bundles["detector"]
    port = {"kind": "serial", "port": str(line.port), "baud": 115200}
    tables = {"source": port | {"policy": "all"}, "sink": [port, {"path": "answers.jsonl"}], "emulation": {}}
    device = rig.device(tables=tables, device_bundle=str(bundle.root), device_state="state", planner_split="local")
    device.until(lambda: ": reading " in device.log())
    line.send(write_packet(np.asarray(Image.open(pictures / "1.png")), 0))
    text = b""
    while b"\n" not in text:
        text += line.receive()
    assert device.stop() == 0
    (record,) = device.records()
    assert record["detections"] == expected(bundle, pictures)["1.png"]["detections"]
    fields = text.decode().removeprefix("$").split("*")[0].split(",")
    assert fields[:4] == ["D", "0", "local", str(len(record["detections"]))]
    best = record["detections"][0]
    assert [int(field) for field in fields[6:10]] == [round(end) for end in best["box"]]
