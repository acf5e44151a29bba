"""The benchmark as a command: any folder of traces, one line of claims at the end, and the errors."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks import adaptive


def test_a_folder_of_ones_own_traces(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    rates = [4.0, 6.0, 1.0, 0.0, 0.5, 2.0, 8.0, 3.0]
    lines = ["time_s,uplink_mbit_s", *(f"{2 * i},{rate}" for i, rate in enumerate(rates))]
    (tmp_path / "mine.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(adaptive, "PLAYED_S", 16.0)
    assert adaptive.main(["--traces", str(tmp_path), "--json", "--jobs", "1"]) == os.EX_OK
    *_, report, last = capsys.readouterr().out.splitlines()
    scenes = json.loads(report)["scenes"]
    assert {scene["held_out"] for scene in scenes} == {True}
    assert {"oracle", "ours", "ours, hedged", "perfect rate", "edge-only", "cloud-only"} <= set(
        scenes[0]["policies"]
    )
    claims = json.loads(last)["claims"]
    assert claims
    for claim in claims:
        assert set(claim) == {"name", "value", "goal", "holds"}
    # One that does not hold stays in the list.
    sides = {
        claim["name"]: claim for claim in claims if "edge-only" in claim["name"] or "cloud-only" in claim["name"]
    }
    assert all(claim["holds"] == (claim["value"] <= 1.03) for claim in sides.values())


def test_no_traces_there(tmp_path: Path, capsys: Any) -> None:
    assert adaptive.main(["--traces", str(tmp_path)]) == os.EX_NOINPUT
    assert "no .csv file there" in capsys.readouterr().err


@pytest.mark.parametrize("trace", ["att-lte-driving-2016", "verizon-lte", "tmobile-lte"])
def test_short_traces_are_played_from_points_spread_over_them(trace: str) -> None:
    scenes = adaptive.Setting(adaptive.TRACES / f"{trace}.csv").scenes()
    assert len(scenes) * scenes[0].trace.duration_s == pytest.approx(adaptive.PLAYED_S, rel=0.2)
    assert len({scene.from_s for scene in scenes}) == len(scenes)
