"""The page of a benchmark's result: what it shows, what it escapes, and the faults it names."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from split_model.errors import BadInputError, MissingInputError
from split_model.report import write_report
from split_model.report.bench import read_bench

SPREAD = {"p50_s": 0.1, "p90_s": 0.12, "p99_s": 0.15}
NONE = {"p50_s": 0.0, "p90_s": 0.0, "p99_s": 0.0}
RESULT: dict[str, Any] = {
    "format": 1,
    "bundle": "a <b>model</b>",
    "machine": "arm64",
    "slowdown": 1.0,
    "cuts": [
        {"split": 3, "name": "3", "head": SPREAD, "release": SPREAD, "payload_bytes": 12_345, "allowed": False},
        {"split": 7, "name": "7", "head": SPREAD, "release": SPREAD, "payload_bytes": 999, "joules_per_frame": 0.5},
        {"split": 9, "name": "local", "head": SPREAD, "release": NONE, "payload_bytes": 0},
    ],
    "link": {"address": "tcp://x:1", "reachable": False, "trouble": "no <i>answer</i>"},
    "recommendation": {
        "ranges": [
            {"from_mbit_s": 0.0, "to_mbit_s": 1.5, "split": 9, "name": "local"},
            {"from_mbit_s": 1.5, "to_mbit_s": None, "split": 7, "name": "7"},
        ],
        "round_trip_s": 0.05,
        "text": "local below 1.5 Mbit/s; cut 7 from 1.5 Mbit/s",
        "assumed": ["a round trip of 50 ms"],
    },
}


def page(tmp_path: Path, **changes: Any) -> str:
    source, output = tmp_path / "bench.json", tmp_path / "bench.html"
    source.write_text(json.dumps(copy.deepcopy(RESULT) | changes))
    write_report(source, output)
    return output.read_text()


def test_the_page_shows_the_recommendation_and_every_split(tmp_path: Path) -> None:
    html = page(tmp_path)
    assert "local below 1.5 Mbit/s" in html
    assert "12.3 kB" in html
    assert "0.5 J" in html
    assert "3 (never used)" in html
    assert html.count("data:image/svg+xml") == 4  # two plots, light and dark
    assert "a round trip of 50 ms" in html
    assert "Emulated" not in html


def test_names_are_escaped_and_nothing_is_loaded(tmp_path: Path) -> None:
    html = page(tmp_path)
    assert "<b>model" not in html
    assert "<i>answer" not in html
    assert "http" not in html.split("</head>")[1]


def test_an_emulated_board_is_called_so(tmp_path: Path) -> None:
    assert "20 times slower" in page(tmp_path, slowdown=20.0)


@pytest.mark.parametrize(
    "change",
    [{"format": 2}, {"cuts": []}, {"recommendation": {}}, {"cuts": [{"split": 1}]}, {"bundle": 5}],
)
def test_faults_are_named(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(RESULT | change))
    with pytest.raises(BadInputError, match=r"bench\.json"):
        write_report(path, tmp_path / "bench.html")
    assert not (tmp_path / "bench.html").exists()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="bench"):
        read_bench(tmp_path / "bench.json")
