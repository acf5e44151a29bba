"""The findings that both doctors share."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from split_model.errors import ConfigError
from split_model.service import findings
from split_model.service.findings import attempt, failure, good, of_clock, of_disk, show, warning


def test_the_first_failure_gives_the_exit_code_and_a_warning_gives_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert show([good("a", "x"), warning("b", "y", "do")], as_json=False) == 0
    fails = [failure("c", "z", "mend", exit_code=77), failure("d", "z", "mend", exit_code=78)]
    assert show(fails, as_json=False) == 77
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[:4] == [["ok", "a", "x"], ["WARN", "b", "y"], ["->", "do"], ["FAIL", "c", "z"]]
    assert show([failure("e", "z", "mend", exit_code=66)], as_json=True) == 66
    assert json.loads(capsys.readouterr().out)[0]["remedy"] == "mend"


def test_an_error_of_ours_is_a_failure_with_its_remedy_and_code() -> None:
    def broken() -> str:
        raise ConfigError("file: planner.split = 9: not offered; it has 3", remedy="change it; or not")

    found = attempt("config", broken)
    assert (found.level, found.exit_code) == ("fail", os.EX_CONFIG)
    assert (found.text, found.remedy) == ("file: planner.split = 9: not offered; it has 3", "change it; or not")


@pytest.mark.parametrize(("free", "level"), [(1 << 20, "fail"), (50 << 20, "warn"), (1 << 30, "ok")])
def test_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: str) -> None:
    monkeypatch.setattr(findings.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert of_disk(tmp_path / "not" / "made" / "yet", key="x.state").level == level


def test_a_disk_that_another_user_writes_to_is_not_judged_by_the_rights_of_this_one(tmp_path: Path) -> None:
    found = of_disk(tmp_path, key="x.state", user="edge-runtime")
    assert (found.level, found.remedy) == ("warn", "run doctor with sudo")
    assert "not checked: whether edge-runtime may write there" in found.text


def test_the_clock() -> None:
    now_s = 1_795_000_000.0
    assert of_clock(now_unix_s=0.0).level == "warn"  # a board without a battery, before the network came
    assert of_clock(now_unix_s=now_s, synchronised=lambda: False).level == "warn"
    assert of_clock(now_unix_s=now_s, synchronised=lambda: True).level == "ok"
    assert of_clock(now_unix_s=now_s, synchronised=lambda: None).level == "ok"
    assert findings.clock_synchronised() in (True, False, None)
