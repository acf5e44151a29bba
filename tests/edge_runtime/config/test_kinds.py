"""Kinds of sources and sinks in the config: ours, several at once, those of other packages, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.cli import main
from edge_runtime.config.config import load
from edge_runtime.config.kinds import SINKS, SOURCES
from edge_runtime.privacy import ledger
from split_model.errors import ConfigError
from split_model.service.config_file import as_plain

OTHER = """
from collections.abc import Callable, Iterator

import numpy as np

from edge_runtime.sources import Frame, Source, SourceTable, Wanted


class DiceTable(SourceTable, frozen=True, tag="dice"):
    throws: int = 3

    def open(self, wanted: Wanted) -> "Dice":
        return Dice(self.throws, wanted)


class Dice(Source):
    def __init__(self, throws: int, wanted: Wanted) -> None:
        self.throws, self.wanted = throws, wanted

    def frames(self, stopped: Callable[[], bool]) -> Iterator[Frame]:
        for number in range(self.throws):
            spec = self.wanted.inputs[0]
            yield Frame(0, f"throw {number}", (np.zeros(spec.shape, spec.dtype),), None, 0.0)
"""


@pytest.mark.parametrize("registry", [SOURCES, SINKS], ids=lambda registry: registry.table)
def test_every_kind_of_ours_loads_under_its_name(registry: Any) -> None:
    kinds = registry.installed()
    assert registry.default in kinds
    for kind in kinds:
        table = registry.load(kind, "here")
        assert table.__struct_config__.tag == kind
        assert table.__doc__


@pytest.fixture
def other_package(tmp_path: Path, monkeypatch: Any) -> Path:
    """A package somebody else installed, with a kind of its own."""
    site = tmp_path / "site"
    info = site / "dice-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "dice_source.py").write_text(OTHER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dice\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[edge_runtime.sources]\ndice = dice_source:DiceTable\nbroken = dice_source:Nothing\n"
        "wrong = dice_source:Dice\nother = dice_source:DiceTable\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.syspath_prepend(str(site))
    return site


def test_a_kind_of_another_package_answers(rig: Any, other_package: Path) -> None:
    device = rig.device(tables={"source": {"kind": "dice", "throws": 5, "subject": "luck"}}, planner_split="local")
    assert device.ended() == 0
    assert [(record["name"], record["source"]) for record in device.records()] == [
        (f"throw {number}", "dice") for number in range(5)
    ]


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ({"kind": "dice", "throw": 5}, ("source.throw: unknown key", "did you mean 'throws'?")),
        ({"kind": "dices"}, ("source.kind", "no kind 'dices'", "did you mean 'dice'?")),
        ({"kind": "telepathy"}, ("no kind 'telepathy'", "installed:", "files")),
        ({"kind": "broken"}, ("dice_source:Nothing", "does not load")),
        ({"kind": "wrong"}, ("is not a SourceTable",)),
        ({"kind": "other"}, ("tag='other'",)),
        ({"kind": 3}, ("source",)),
        ({"path": "x", "subject": "no spaces please"}, ("source.subject",)),
        ([{"path": "x"}, {"path": "y"}], ("2 are called 'files'", "'name'")),
        ([{"path": "x", "name": "a"}, {"kind": "dice", "throw": 1}], ("source[1].throw", "did you mean 'throws'?")),
        ([], ("source",)),
    ],
)
def test_errors_name_the_kind(rig: Any, other_package: Path, capsys: Any, source: Any, named: Any) -> None:
    config = rig.configure(tables={"source": source})
    if source == []:
        config.write_text(f"source = []\n{config.read_text()}")
    assert main(["config", "check", "-c", str(config)]) == os.EX_CONFIG
    error = capsys.readouterr().err
    assert all(word in error for word in named), error


def test_old_configs_are_of_the_kind_files(rig: Any) -> None:
    config = load(rig.configure())
    assert [(source.kind, source.label, source.subject) for source in config.sources] == [
        ("files", "files", "default")
    ]
    assert [sink.kind for sink in config.sinks] == ["jsonl"]


def test_show_prints_what_can_be_read_again(rig: Any, capsys: Any, tmp_path: Path) -> None:
    sources = [{"path": "a", "name": "front"}, {"path": "b", "name": "back", "repeat": 3, "subject": "yard"}]
    config = rig.configure(tables={"source": sources, "sink": [{"path": "x.jsonl"}]})
    assert main(["config", "show", "-c", str(config)]) == 0
    again = tmp_path / "again.toml"
    again.write_text(capsys.readouterr().out)
    assert as_plain(load(again)) == as_plain(load(config))
    assert main(["config", "show", "--json", "-c", str(config)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [source["subject"] for source in shown["source"]] == ["default", "yard"]


@pytest.mark.parametrize(
    ("release", "told"),
    [
        ({}, ["epsilon is not set: 16", "bits is not set: 4", "allocation is not set: auto"]),
        ({"epsilon": 60}, ["bits is not set: 5", "allocation is not set: auto"]),
        ({"preset": "cis"}, ["epsilon is not set: 16", "allocation is not set: rank"]),
    ],
)
def test_show_names_the_defaults_in_force(rig: Any, capsys: Any, release: Any, told: list[str]) -> None:
    path = rig.configure(tables={"release": release, "planner": {}})
    assert main(["config", "show", "-c", str(path)]) == 0
    shown = capsys.readouterr().out
    for text in [
        *told,
        "accuracy_floor is not set: 0.9",
        "head_memory_mb is not set: room for the two largest heads",
    ]:
        assert f"# {text}\n" in shown


def test_several_sources_and_sinks_at_once(rig: Any, parts: Any) -> None:
    """Each frame is answered once, goes to every sink, and is charged to its own subject."""
    sources = [
        {"path": str(parts.arrays), "name": "arrays", "subject": "yard", "repeat": 2, "interval_s": 0.04},
        {"path": str(parts.pictures), "name": "pictures", "subject": "door", "repeat": 3, "interval_s": 0.15},
    ]
    sinks = [{"path": "answers.jsonl"}, {"path": "copy.jsonl", "name": "copy"}]
    server = rig.server()
    state = {"bundle": str(parts.bundle.root), "key": "device.key", "state": "state"}
    tables = {"source": sources, "sink": sinks, "device": state, "emulation": {}}
    device = rig.device(server, tables=tables)
    assert device.ended() == 0
    found = sorted((record["source"], record["name"]) for record in device.records())
    names = [("arrays", f"arrays.npz[{number}]") for number in range(24)] * 2
    names += [("pictures", f"{number}.png") for number in range(4)] * 3
    assert found == sorted(names)
    assert device.answers.read_bytes() == device.answers.with_name("copy.jsonl").read_bytes()
    counters = device.counters()
    assert counters["frames_in"] == 60
    assert "source arrays: frames=48\n" in device.log()  # and none was dropped
    spent = ledger.read(device.config.parent / "state").subjects
    offloaded = {record["source"] for record in device.records() if record["payload_bytes"]}
    assert {{"yard": "arrays", "door": "pictures"}[subject] for subject in spent} == offloaded


def test_nothing_but_a_struct_error_reaches_the_user(rig: Any) -> None:
    config = rig.configure(tables={"sink": {"kind": "files"}})
    with pytest.raises(ConfigError, match=r"sink\.kind: there is no kind 'files'; .*jsonl"):
        load(config)
