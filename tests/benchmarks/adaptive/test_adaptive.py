"""The benchmark as a command: any folder of traces, one line of claims at the end, and the errors."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.adaptive import command, report
from benchmarks.adaptive.simulator import comparison
from benchmarks.adaptive.simulator.scene import Row, Run


def test_a_folder_of_ones_own_traces(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    rates = [4.0, 6.0, 1.0, 0.0, 0.5, 2.0, 8.0, 3.0]
    lines = ["time_s,uplink_mbit_s", *(f"{2 * i},{rate}" for i, rate in enumerate(rates))]
    (tmp_path / "mine.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(comparison, "PLAYED_S", 16.0)
    assert command.main(["--traces", str(tmp_path), "--json", "--jobs", "1"]) == os.EX_OK
    *_, report, last = capsys.readouterr().out.splitlines()
    scenes = json.loads(report)["scenes"]
    assert {scene["held_out"] for scene in scenes} == {True}
    assert set(comparison.policies()) <= set(scenes[0]["policies"])
    claims = json.loads(last)["claims"]
    assert claims
    for claim in claims:
        goal = float(claim["goal"].split()[1])
        assert claim["holds"] == (claim["value"] <= goal) or claim["value"] == pytest.approx(goal, abs=1e-3)
        assert ("beside" in claim) == ("not_causally_reachable" in claim) == (not claim["holds"])
    assert sum("edge-only and cloud-only" in claim["name"] for claim in claims) == 2 * len(scenes)


def test_no_traces_there(tmp_path: Path, capsys: Any) -> None:
    assert command.main(["--traces", str(tmp_path)]) == os.EX_NOINPUT
    assert "no .csv file there" in capsys.readouterr().err


@pytest.mark.parametrize("trace", ["att-lte-driving-2016", "verizon-lte", "tmobile-lte"])
def test_short_traces_are_played_from_points_spread_over_them(trace: str) -> None:
    scenes = comparison.Setting(comparison.TRACES / f"{trace}.csv").scenes()
    assert len(scenes) * scenes[0].trace.duration_s == pytest.approx(comparison.PLAYED_S, rel=0.2)
    assert len({scene.from_s for scene in scenes}) == len(scenes)


def compared(**means_s: float) -> comparison.Compared:
    """A scene on which each policy had one frame; those that are not named took as long as ours."""
    runs = {
        name: Run(name, (Row(0.0, 1, "ideal", means_s.get(name.split()[-1], means_s["ours"])),))
        for name in (*comparison.policies(), "fixed 1")
    }
    setting = comparison.Setting(comparison.TRACES / "verizon-lte.csv")
    return comparison.Compared(setting, runs, "fixed 1", (1, 2, 3), 0.0)


@pytest.mark.parametrize("knowing_s", [1.05, 1.2])
def test_a_bound_is_out_of_reach_only_if_who_knows_the_present_misses_it_too(knowing_s: float) -> None:
    scene = compared(oracle=1.0, ours=1.15)
    scene.runs["ours, knowing the rate"] = Run("", (Row(0.0, 1, "ideal", knowing_s),))
    (claim,) = [c for c in report.claims([scene]) if c["name"].endswith("mean over the oracle's")]
    assert (claim["value"], claim["holds"]) == (1.15, False)
    assert claim["beside"]["ours, knowing the rate"] == pytest.approx(knowing_s)
    assert claim["not_causally_reachable"] == (knowing_s > report.MEAN_GOAL)
    assert claim["name"] in report.missed([claim])


def test_the_tables_have_a_line_for_every_scene_and_no_empty_cell() -> None:
    first, second, paces = report.markdown([compared(oracle=1.0, ours=1.15)] * 2).split("\n\n")
    assert len(paces.splitlines()) == 2  # of back-to-back scenes alone
    for text in (first, second):
        head, rule, *rows = text.splitlines()
        assert len(rows) == 2
        assert len({line.count("|") for line in (head, rule, *rows)}) == 1
        assert all(cell.strip() for cell in rows[0].strip("|").split("|"))
