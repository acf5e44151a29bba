"""A key that has a new name: the old one still works, says so, and never stands beside the new one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.config import config
from edge_runtime.config.renamed_keys import RENAMED, with_new_names
from split_model.errors import ConfigError
from split_model.service.config_file import as_plain, read_layers

OLD, NEW = "device.rest_memory_mb", "device.local_tail_memory_mb"


def test_the_old_name_means_what_the_new_one_means(rig: Any) -> None:
    told: list[str] = []
    old, layers = config.load_layers(rig.configure(device_rest_memory_mb=7.5), warn=told.append)
    assert old.device.local_tail_memory_mb == 7.5
    assert layers.where(NEW).endswith("device.toml")
    assert len(told) == 1
    assert f"{OLD} is now called {NEW}" in told[0]
    assert "device.toml" in told[0]
    told.clear()
    new = config.load_layers(rig.configure(device_local_tail_memory_mb=7.5), warn=told.append)[0]
    assert as_plain(new) == as_plain(old)
    assert told == []


@pytest.mark.parametrize("other_file", [False, True])
def test_both_names_are_an_error_that_names_both_places(rig: Any, other_file: bool) -> None:
    path = rig.configure(device_rest_memory_mb=7.5, device_local_tail_memory_mb=None if other_file else 8.0)
    if other_file:
        (path.parent / "conf.d").mkdir()
        (path.parent / "conf.d" / "more.toml").write_text("[device]\nlocal_tail_memory_mb = 8.0\n")
    with pytest.raises(ConfigError, match=f"{OLD} is the old name of {NEW}") as caught:
        config.load(path)
    assert str(path) in str(caught.value)
    assert ("more.toml" in str(caught.value)) == other_file


def test_a_value_that_does_not_fit_is_told_under_the_new_name(rig: Any) -> None:
    with pytest.raises(ConfigError, match=r"device\.local_tail_memory_mb"):
        config.load_layers(rig.configure(device_rest_memory_mb=-1), warn=lambda _: None)


def test_the_commands_show_the_new_name_and_warn_once(rig: Any, command: Any) -> None:
    path = rig.configure(device_rest_memory_mb=7.5)
    shown = command("edge_runtime", "config", "show", "-c", path)
    assert "local_tail_memory_mb = 7.5" in shown.stdout
    assert str(path) in next(line for line in shown.stdout.splitlines() if "local_tail_memory_mb" in line)
    assert "rest_memory_mb" not in shown.stdout.replace("local_tail_memory_mb", "")
    for arguments in (("config", "show", "--json"), ("config", "check")):
        done = command("edge_runtime", *arguments, "-c", path)
        assert (done.returncode, done.stderr.count(f"now called {NEW}")) == (os.EX_OK, 1), done.stderr
    done = command("edge_runtime", "doctor", "--json", "--no-server", "-c", path)
    about = [finding for finding in json.loads(done.stdout) if finding["about"] == "config"]
    assert [finding["level"] for finding in about] == ["ok", "warn"]
    assert NEW in about[1]["text"]


def test_a_device_of_before_still_starts(rig: Any) -> None:
    device = rig.device(device_rest_memory_mb=7.5, source_repeat=1, planner_split="local")
    assert device.ended() == 0
    assert device.log().count(f"now called {NEW}") == 1


def test_a_key_in_a_list_of_tables_is_renamed_in_each(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("[[source]]\nkind = 'a'\nold = 1\n[[source]]\nkind = 'b'\n[[source]]\nold = 2\nz = 3\n")
    layers, warnings = with_new_names(read_layers(path), {"source.old": "source.new", "sink.old": "sink.new"})
    assert layers.tree == {"source": [{"kind": "a", "new": 1}, {"kind": "b"}, {"new": 2, "z": 3}]}
    assert list(layers.tree["source"][2]) == ["new", "z"]
    assert len(warnings) == 1


def test_what_is_no_table_is_left_to_the_parser(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("device = 3\nsource = [1, 2]\n")
    layers, warnings = with_new_names(read_layers(path), {OLD: NEW, "source.old": "source.new"})
    assert (layers.tree, warnings) == ({"device": 3, "source": [1, 2]}, ())


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_new_names_are_keys_and_old_ones_are_none(rig: Any, old: str, new: str) -> None:
    plain = as_plain(config.load(rig.configure()))
    for path, there in ((old, False), (new, True)):
        table, _, key = path.partition(".")
        entries = plain[table] if isinstance(plain[table], list) else [plain[table]]
        assert any(key in entry for entry in entries) == there, path
