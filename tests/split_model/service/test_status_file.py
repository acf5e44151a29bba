"""The state of a running program in a file: whole, and true whatever the wall clock does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from split_model.errors import BadInputError, OutputError
from split_model.service import status_file
from split_model.service.status_file import Written, condition, find, process_ticks


def written(**changes: object) -> Written:
    known = {"state": "running", "pid": 1, "process_ticks": 50, "written_boot_s": 10.0, "written_unix_s": 0.0}
    return Written(**(known | {"uptime_s": 1.0, "software": "x 1"} | changes))  # type: ignore[arg-type]


def test_one_word_tells_how_the_program_is() -> None:
    assert condition(written(), now_boot_s=11.0, ticks=50) == "running"
    assert condition(written(state="draining"), now_boot_s=11.0, ticks=50) == "draining"
    assert condition(written(), now_boot_s=60.0, ticks=50) == "hanging"
    assert condition(written(), now_boot_s=11.0, ticks=None) == "dead"
    assert condition(written(), now_boot_s=11.0, ticks=51) == "dead"  # the pid is another's by now
    assert condition(written(), now_boot_s=3.0, ticks=50) == "dead"  # from before this boot
    assert condition(written(state="stopped"), now_boot_s=60.0, ticks=None) == "stopped"


def test_a_jump_of_the_wall_clock_changes_nothing() -> None:
    """A board without a battery is years off until the network tells it the time."""
    year_later = written(written_unix_s=-365 * 86400.0)
    assert condition(year_later, now_boot_s=11.0, ticks=50) == "running"


def test_a_process_is_known_by_its_start() -> None:
    ours = process_ticks(os.getpid())
    assert ours is not None
    assert process_ticks((1 << 22) + 1) is None
    code = "import os; os.execv('/bin/cat', ['a) b (c', '/proc/self/stat'])"  # a name that looks like the format
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(told.rpartition(")")[2].split()[19]) >= ours


def test_what_is_written_is_read_and_half_a_file_never_is(tmp_path: Path) -> None:
    path = tmp_path / "run" / "status.json"
    status_file.write(path, written(), key="x.status")
    assert status_file.read(path, Written, key="x.status") == written()
    assert [entry.name for entry in path.parent.iterdir()] == ["status.json"]
    path.write_text("{")
    with pytest.raises(BadInputError, match=r"x\.status"):
        status_file.read(path, Written, key="x.status")
    assert status_file.read(tmp_path / "none", Written, key="x.status") is None


def test_a_folder_that_cannot_be_written_is_told_with_its_key(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"set x\.status"):
        status_file.write(tmp_path / "file" / "status.json", written(), key="x.status")


def test_where_it_is(tmp_path: Path) -> None:
    config, service = tmp_path / "config.toml", tmp_path / "run"
    assert find("s", tmp_path / "own", config, runtime_directory="/run/x", service=service) == tmp_path / "own"
    assert find("s", None, config, runtime_directory="/run/x:/run/y", service=service) == Path("/run/x/s")
    assert find("s", None, config, runtime_directory=None, service=service) == tmp_path / "s"
    service.mkdir()
    assert find("s", None, config, runtime_directory=None, service=service) == service / "s"
    (tmp_path / "s").write_text("")  # a run by hand beside a service: its own file is nearer
    assert find("s", None, config, runtime_directory=None, service=service) == tmp_path / "s"
