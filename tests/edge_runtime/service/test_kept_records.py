"""The answers that a board has kept, printed on the board, and drawn on a workstation after they went over SSH."""

from __future__ import annotations

import json
import os
import shlex
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from split_model import cli


def test_records_of_the_last_while_are_printed(rig: Any, command: Callable[..., Any]) -> None:
    before_s = time.time()
    device = rig.device(source_repeat=1)
    assert device.ended() == 0
    records = [json.loads(line) for line in device.answers.read_text().splitlines()]
    assert all(before_s - 1 <= record["unix_s"] <= time.time() + 1 for record in records)
    old = json.dumps({"kind": "frame", "unix_s": before_s - 7200}, separators=(",", ":"))
    undated = json.dumps({"kind": "frame", "index": 0}, separators=(",", ":"))
    device.answers.write_text(f"{old}\n{undated}\n" + device.answers.read_text() + '{"kind":"fra')
    done = command("edge_runtime", "records", "-c", device.config, "--last", "1h")
    assert [json.loads(line) for line in done.stdout.splitlines()] == records
    assert "1 records of an earlier version have no time" in done.stderr
    done = command("edge_runtime", "records", "-c", device.config)
    assert len(done.stdout.splitlines()) == len(records) + 2
    done = command("edge_runtime", "records", "-c", device.config, "--last", "soon")
    assert done.returncode == os.EX_USAGE


def test_a_board_that_keeps_no_answers_says_so(rig: Any, command: Callable[..., Any]) -> None:
    config = rig.configure(tables={"sink": {"kind": "pub", "path": "answers.sock"}})
    done = command("edge_runtime", "records", "-c", config)
    assert (done.returncode, "no sink of kind 'jsonl'" in done.stderr) == (os.EX_CONFIG, True)
    config = rig.configure()
    done = command("edge_runtime", "records", "-c", config)
    assert (done.returncode, "answers.jsonl" in done.stderr) == (os.EX_NOINPUT, True)


@pytest.fixture
def board(rig: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for a board: an `ssh` that runs the command here, as root's shell there would."""
    device = rig.device(source_repeat=1)
    assert device.ended() == 0
    folder = tmp_path / "bin"
    folder.mkdir()
    program = f'exec {shlex.quote(sys.executable)} -m edge_runtime "$@" -c {shlex.quote(str(device.config))}'
    for name, text in {
        "ssh": 'while [ "$1" != -- ]; do shift; done; shift\n'
        '[ "$1" != nowhere ] || { echo "no route" >&2; exit 255; }\nshift; exec sh -c "$1"',
        "edge-runtime": program,
        "sudo": 'shift; exec "$@"',
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return Path(device.answers)


def test_a_board_s_answers_are_fetched_and_drawn(board: Path, tmp_path: Path, capsys: Any) -> None:
    page = tmp_path / "report.html"
    assert cli.main(["report", "--from", "pi@porch", "--last", "1h", "-o", str(page)]) == 0
    assert "Answers in porch.jsonl" in page.read_text()
    assert cli.main(["report", str(board), "-o", str(page)]) == 0
    assert "Answers in answers.jsonl" in page.read_text()
    for arguments, code, says in (
        (["--from", "nowhere"], os.EX_UNAVAILABLE, "no SSH connection to nowhere: no route"),
        (["--from", "-oProxyCommand=x"], os.EX_USAGE, ""),
        (["--from", "porch", "--last", "1; reboot"], os.EX_USAGE, "give a number and s, m, h or d"),
        (["--from", "porch", str(board)], os.EX_USAGE, "give either RUN.jsonl or --from"),
        ([str(board), "--last", "1h"], os.EX_USAGE, "--last needs --from"),
        (["--from", "porch", "--last", "0.001s"], os.EX_DATAERR, "porch has kept no answers of the last 0.001s"),
    ):
        assert cli.main(["report", *arguments, "-o", str(page)]) == code
        assert says in capsys.readouterr().err
