"""The user's accuracy floor: what was measured below it is not used, and what was not measured is asked for."""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

import pytest

from edge_runtime.config import config
from edge_runtime.daemon.plan import Plan
from split_model.bundle import Bundle, evaluation
from split_model.bundle.evaluation import DataRecord, Evaluation, Mean, Row, Share
from split_model.errors import ConfigError
from split_model.privacy import NoiseSpec

#: What the tiny model's cuts are said to reach.
AGREEMENT = {0: 0.6, 1: 0.7, 2: 0.8, 3: 0.95}


@pytest.fixture
def bundle(parts: Any, tmp_path: Any) -> Bundle:
    """A copy that figures may be stored in."""
    shutil.copytree(parts.bundle.root, tmp_path / "bundle")
    return Bundle.open(tmp_path / "bundle")


def stored(bundle: Bundle, *, epsilon: float = 8.0, classes: bool = True) -> None:
    rows = [
        Row(
            cut=cut.index,
            mechanism="noise",
            tensors=("x",),
            spec=NoiseSpec(epsilon=epsilon, allocation=cut.allocation.best if cut.allocation else "optimal"),
            payload_bytes=1,
            draws=1,
            agreement=Share(value=AGREEMENT[cut.index], low=0.5, high=1.0, samples=9) if classes else None,
            accuracy=None,
            output_error=Mean(value=0.1, low=0.0, high=0.2, samples=9),
        )
        for cut in bundle.manifest.cuts
    ]
    data = DataRecord(name="d", sha256="d", samples=9, labelled=0)
    evaluation.store(
        bundle,
        Evaluation(format=1, bundle=bundle.identity, data=data, unprotected_accuracy=None, rows=tuple(rows)),
    )


def load(rig: Any, bundle: Bundle, **changes: Any) -> config.Config:
    return config.load(rig.configure(device_bundle=str(bundle.root), planner_split="auto", **changes))


def test_cuts_below_the_floor_are_not_used(rig: Any, bundle: Bundle) -> None:
    stored(bundle)
    for floor, cuts in ((None, {0, 1, 2, 3}), (0.0, {0, 1, 2, 3}), (0.8, {2, 3}), (0.81, {3}), (1.0, set())):
        assert Plan.of(load(rig, bundle, planner_accuracy_floor=floor)).allowed == cuts


def test_cuts_before_the_earliest_are_not_used_however_accurate(rig: Any, bundle: Bundle) -> None:
    stored(bundle)
    for earliest, floor, cuts in ((1, None, {1, 2, 3}), (3, 0.8, {3}), (9, None, set())):
        config_of = load(rig, bundle, planner_earliest_cut=earliest, planner_accuracy_floor=floor)
        assert Plan.of(config_of).allowed == cuts


def test_the_device_keeps_to_it_and_says_so(rig: Any, bundle: Bundle) -> None:
    stored(bundle)
    server = rig.server(bundle=bundle)
    device = rig.device(
        server, device_bundle=str(bundle.root), planner_split="auto", planner_accuracy_floor=0.9, source_repeat=1
    )
    assert device.ended() == 0
    assert {record["split"] for record in device.records()} <= {3, bundle.local}
    log = device.log()
    assert "cut 2: measured agreement 0.800 [0.500, 1.000], NOT USED, below the floor of 0.9" in log
    assert "cut 3: measured agreement 0.950 [0.500, 1.000], not below the floor of 0.9" in log


def test_a_missing_figure_is_an_error_that_says_what_to_run(rig: Any, bundle: Bundle, command: Any) -> None:
    stored(bundle, epsilon=16.0)
    path = rig.configure(
        device_bundle=str(bundle.root), planner_split="auto", planner_accuracy_floor=0.9, release_bits=6
    )
    for arguments in (("run",), ("config", "check"), ("bench", "--no-link")):
        done = command("edge_runtime", *arguments, "-c", path)
        assert done.returncode == os.EX_CONFIG, done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert (
            f"split-model evaluate {bundle.root} --data DATA --epsilon 8 --allocation auto --bits 6 --store" in last
        )
    with pytest.raises(ConfigError, match="nothing was measured of cut 0"):
        Plan.of(config.load(path))


def test_the_command_it_names_mends_it(rig: Any, parts: Any, bundle: Bundle, command: Any) -> None:
    path = rig.configure(device_bundle=str(bundle.root), planner_split="auto", planner_accuracy_floor=0.01)
    said = command("edge_runtime", "config", "check", "-c", path).stderr
    words = said.split("run '")[1].split("'")[0].replace("DATA", str(parts.arrays)).split()
    assert command("split_model", *words[1:]).returncode == 0
    done = command("edge_runtime", "config", "check", "-c", path)
    assert done.returncode == 0, done.stderr


def test_figures_of_another_bundle_count_as_missing(rig: Any, bundle: Bundle) -> None:
    stored(bundle)
    raw = json.loads(evaluation.path_of(bundle).read_bytes())
    evaluation.path_of(bundle).write_text(json.dumps(raw | {"bundle": "0" * 64}))
    with pytest.raises(ConfigError, match="nothing was measured"):
        Plan.of(load(rig, bundle, planner_accuracy_floor=0.5))


def test_a_floor_on_an_answer_that_is_no_class_is_refused(rig: Any, bundle: Bundle) -> None:
    stored(bundle, classes=False)
    with pytest.raises(ConfigError, match="no class"):
        Plan.of(load(rig, bundle, planner_accuracy_floor=0.5))


def test_where_nothing_is_released_the_floor_asks_for_nothing(rig: Any, bundle: Bundle) -> None:
    every = {cut.index for cut in bundle.manifest.cuts}
    unprotected = load(rig, bundle, planner_accuracy_floor=0.99, release_mechanism="none")
    assert Plan.of(unprotected).allowed == every
    path = rig.configure(device_bundle=str(bundle.root), planner_split="local", planner_accuracy_floor=0.99)
    assert Plan.of(config.load(path)).allowed == every


def test_a_fixed_split_below_the_floor_is_refused(rig: Any, bundle: Bundle, command: Any) -> None:
    stored(bundle)
    path = rig.configure(device_bundle=str(bundle.root), planner_split=2, planner_accuracy_floor=0.9)
    done = command("edge_runtime", "config", "check", "-c", path)
    assert done.returncode == os.EX_CONFIG
    assert "planner.split = 2 is measured below planner.accuracy_floor = 0.9" in done.stderr
