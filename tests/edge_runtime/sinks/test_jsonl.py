"""Answers as the schema reads them, and as JSON that any reader takes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from edge_runtime.sinks import JsonLines
from split_model.answers.classes import best_of, class_fields
from split_model.answers.reader import raw_fields
from split_model.bundle import TensorSpec, TopK
from split_model.errors import OutputError


def spec(dtype: str = "float32", scale: float = 0.0, zero_point: int = 0) -> TensorSpec:
    return TensorSpec(name="out", shape=(1, 4), dtype=dtype, scale=scale, zero_point=zero_point)  # type: ignore[arg-type]


def softmax(logits: list[float]) -> np.ndarray:
    powers = np.exp(np.array(logits))
    return powers / powers.sum()


def scores(fields: dict) -> dict[int, float]:
    return {entry["class"]: entry["score"] for entry in fields["top"]}


def test_quantised_logits_are_logits_in_real_units() -> None:
    """The same answer in int8 as in float: codes are no logits, and a softmax over codes is always certain."""
    logits = [0.5, 2.0, -1.0, 1.5]
    stored = np.array([[round(x / 0.25) - 10 for x in logits]], np.int8)
    found = scores(class_fields([stored], [spec("int8", 0.25, -10)], TopK(k=4), ()))
    assert list(found) == [1, 3, 0, 2]
    assert [found[i] for i in range(4)] == pytest.approx(softmax(logits), abs=1e-4)


def test_quantised_probabilities_are_between_0_and_1() -> None:
    stored = np.array([[0, 64, 192, 0]], np.uint8)
    found = scores(class_fields([stored], [spec("uint8", 1 / 256)], TopK(k=2, scores="probabilities"), ()))
    assert found == {2: 0.75, 1: 0.25}


def test_float_logits_and_labels() -> None:
    fields = class_fields([np.array([[1000.0, 1000.0, 0.0, 0.0]], np.float32)], [spec()], TopK(k=3), ("cat",))
    assert fields["top"][0] == {"class": 0, "label": "cat", "score": 0.5}
    assert fields["top"][1]["label"] == "1"


@pytest.mark.parametrize("values", [[np.nan, 1, 2, 3], [np.inf, 1, 2, 3], [-np.inf] * 4, [np.nan] * 4])
def test_answers_that_are_no_numbers_are_still_json(tmp_path: Path, values: list[float]) -> None:
    output = np.array([values], np.float32)
    sink = JsonLines(tmp_path / "answers.jsonl")
    sink.write(class_fields([output], [spec()], TopK(k=4), ()))
    sink.write(raw_fields([output]))
    sink.close()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert len([json.loads(line, parse_constant=refuse) for line in lines]) == 2


@given(
    npst.arrays(
        np.float64, st.integers(1, 40), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0, np.nan, np.inf, -np.inf])
    ),
    st.integers(1, 45),
)
def test_the_best_are_those_of_a_whole_sort(values: np.ndarray, k: int) -> None:
    whole = np.argsort(-values, kind="stable")[:k]
    best, scores = best_of(values, k)
    assert best == whole.tolist()
    np.testing.assert_array_equal(scores, values[whole])


def test_large_outputs_are_described_not_written() -> None:
    fields = raw_fields([np.zeros((1, 1001), np.float32), np.zeros((1, 2), np.bool_)])
    assert fields["outputs"][0] == {"dtype": "float32", "shape": [1, 1001]}
    assert fields["outputs"][1]["values"] == [False, False]


def test_a_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "answers.jsonl"
    for number in range(2):
        sink = JsonLines(path)
        sink.write({"number": number})
        sink.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"number": 0}, {"number": 1}]


def test_half_a_record_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = JsonLines(tmp_path / "answers.jsonl")
    sink.write({"number": 0})
    write, calls = os.write, []

    def fill_up(file: int, data: memoryview) -> int:
        calls.append(len(data))
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return write(file, data[:5])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fill_up)
        with pytest.raises(OutputError, match="No space left on device; make room"):
            sink.write({"number": 1})
    sink.write({"number": 2})
    sink.close()
    assert (tmp_path / "answers.jsonl").read_text() == '{"number":0}\n{"number":2}\n'
