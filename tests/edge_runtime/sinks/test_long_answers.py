"""What is too long for a line of JSON lies in files beside the lines, whole, and within a bound."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_runtime.client import Answer
from edge_runtime.sinks.jsonl import JsonlTable
from edge_runtime.sinks.serial_line import compact
from split_model.answers.png import read_png, write_png
from split_model.answers.reader import raw_fields
from split_model.errors import OutputError


def frame(**fields: Any) -> dict[str, Any]:
    return {"kind": "frame", "name": "x.png", "outcome": "offloaded", **fields}


def mask(side: int, classes: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, classes, (side, side))


def map_of(codes: np.ndarray) -> dict[str, Any]:
    height, width = codes.shape
    shares = [{"class": 1, "label": "leaf", "share": 0.25}]
    return {"height": height, "width": width, "box": [0, 0, 9, 9], "classes": shares, "png": write_png(codes)}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_large_outputs_are_in_a_file(tmp_path: Path) -> None:
    outputs = [np.arange(4.0), np.arange(3000, dtype=np.int16).reshape(30, 100)]
    sink = JsonlTable(path=tmp_path / "answers.jsonl").open()
    sink.write(frame(**raw_fields(outputs)), outputs)
    sink.write(frame(**raw_fields(outputs[:1])), outputs[:1])
    sink.close()
    first, second = lines(tmp_path / "answers.jsonl")
    assert first["outputs"][0]["values"] == [0, 1, 2, 3]
    assert "values" not in first["outputs"][1]
    with np.load(tmp_path / "answers.jsonl.values" / first["file"]) as file:
        assert file.files == ["output_1"]
        assert np.array_equal(file["output_1"], outputs[1])
    assert "file" not in second


def test_a_small_map_is_in_the_line_and_a_large_one_in_a_file(tmp_path: Path) -> None:
    small, large = mask(20), mask(400, classes=200)
    sink = JsonlTable(path=tmp_path / "answers.jsonl").open()
    for codes in (small, large):
        sink.write(frame(map=map_of(codes)), ())
    sink.close()
    first, second = lines(tmp_path / "answers.jsonl")
    assert np.array_equal(read_png(base64.b64decode(first["map"]["png"])), small)
    assert "png" not in second["map"]
    assert second["map"]["classes"] == first["map"]["classes"]
    png = (tmp_path / "answers.jsonl.values" / second["map"]["file"]).read_bytes()
    assert np.array_equal(read_png(png), large)


def test_files_take_no_more_room_than_allowed(tmp_path: Path) -> None:
    """Over two runs: the newest are there, each whole, and never more than a mebibyte of them."""
    folder = tmp_path / "values"
    outputs = [np.zeros(10_000, np.float32)]  # 40 kB each
    names: list[str] = []
    for _ in range(2):
        sink = JsonlTable(path=tmp_path / "a.jsonl", values=folder, values_mib=1).open()
        for _ in range(40):
            sink.write(frame(**raw_fields(outputs)), outputs)
            assert sum(path.stat().st_size for path in folder.iterdir()) <= 1 << 20
        sink.close()
    names = [record["file"] for record in lines(tmp_path / "a.jsonl")]
    assert len(set(names)) == 80
    left = {path.name for path in folder.iterdir()}
    assert left == set(names[-len(left) :])
    assert len(left) == 26
    for name in left:
        with np.load(folder / name) as file:
            assert file["output_0"].shape == (10_000,)


def test_without_a_folder_the_line_says_how_much_there_is(capfd: pytest.CaptureFixture[str]) -> None:
    sink = JsonlTable().open()
    sink.write(frame(map=map_of(mask(400, classes=200))), ())
    sink.write(frame(**raw_fields([np.zeros(2000)])), [np.zeros(2000)])
    sink.close()
    first, second = (json.loads(line) for line in capfd.readouterr().out.splitlines())
    assert first["map"]["png_bytes"] > 16 << 10
    assert second["outputs"] == [{"dtype": "float64", "shape": [2000]}]


def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "values").touch()
    sink = JsonlTable(path=tmp_path / "a.jsonl", values=tmp_path / "values").open()
    with pytest.raises(OutputError, match=r"set sink.values elsewhere"):
        sink.write(frame(**raw_fields([np.zeros(2000)])), [np.zeros(2000)])


def test_a_client_reads_every_kind() -> None:
    """From the record as it comes over the socket."""
    codes = mask(20)

    def answer(**fields: Any) -> Answer:
        return Answer(1, (), json.loads(msgspec.json.encode(frame(**fields))))

    found = answer(map=map_of(codes)).map
    assert found is not None
    assert np.array_equal(found, codes)
    assert answer(detections=[{"box": [1, 2, 3, 4]}]).detections == [{"box": [1, 2, 3, 4]}]
    assert answer(landmarks=[{"x": 1, "y": 2}]).landmarks == [{"x": 1, "y": 2}]
    vector = answer(vector={"size": 2, "values": [0.5, 1]}).vector
    assert vector is not None
    assert vector.tolist() == [0.5, 1]
    assert answer().map is None
    assert answer().vector is None
    assert answer(vector={"size": 5000}).vector is None
    assert (answer().detections, answer().landmarks, answer().top) == ([], [], [])


def fields_of(record: dict[str, Any]) -> list[str]:
    return compact(record, ()).decode().removeprefix("$").split("*")[0].split(",")


def test_compact_lines_of_every_kind_are_short() -> None:
    box = {"class": 2, "label": "cup", "score": 0.875, "box": [1.4, 2.6, 30.0, 40.0]}
    assert fields_of(frame(detections=[box])) == [
        "D", "x.png", "offloaded", "1", "2", "0.88", "1", "3", "30", "40",
    ]  # fmt: skip
    assert fields_of(frame(detections=[])) == ["D", "x.png", "offloaded", "0"]
    assert fields_of(frame(landmarks=[{"x": 1.6, "y": 2.2}]))[3:] == ["1", "2", "2"]
    assert fields_of(frame(landmarks=[{"x": None, "y": 1e30}]))[3:] == ["1", "", "99999"]
    assert fields_of(frame(map=map_of(mask(4))))[3:] == ["4", "4", "1", "0.2500"]
    assert fields_of(frame(vector={"size": 2, "values": [0.5, 1.0]}))[3:] == ["2", "0.5", "1"]
    assert fields_of(frame(vector={"size": 5000}))[3:] == ["5000"]
    longest = frame(landmarks=[{"x": 16000.5, "y": 16000.5}] * 600, detections=[])
    del longest["detections"]
    assert len(compact(longest, ())) < 500
    assert len(compact(frame(detections=[{**box, "box": [16000.1] * 4, "class": 10_000}] * 100), ())) < 500
