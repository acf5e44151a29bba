"""The accuracy floor: a cut that was measured below it is not used; where none is left, everything is local."""

from __future__ import annotations

import json
import os
import shutil
from typing import Any

import pytest
from msgspec.structs import replace

from edge_runtime.config import config
from edge_runtime.daemon.plan import Plan
from split_model.bundle import Bundle, evaluation
from split_model.bundle.evaluation import DataRecord, Evaluation, Mean, Prepared, Row, Share
from split_model.bundle.floor import Floor
from split_model.errors import ConfigError
from split_model.privacy import NoiseSpec

#: What the tiny model's cuts are said to reach.
AGREEMENT = {0: 0.6, 1: 0.7, 2: 0.8, 3: 0.95}


@pytest.fixture
def bundle(parts: Any, tmp_path: Any) -> Bundle:
    """A copy that figures may be stored in, without any."""
    shutil.copytree(parts.bundle.root, tmp_path / "bundle")
    made = Bundle.open(tmp_path / "bundle")
    evaluation.path_of(made).unlink()
    return made


def rows(
    bundle: Bundle,
    *,
    epsilon: float = 16.0,
    bits: int = 4,
    agreement: dict[int, float] = AGREEMENT,
    pictures: int = 400,
    bound: float | None = None,
) -> tuple[Row, ...]:
    """A measurement of every cut; the bound is just below, unless it is said."""
    return tuple(
        Row(
            cut=cut.index,
            mechanism="noise",
            tensors=("x",),
            spec=NoiseSpec(
                epsilon=epsilon, allocation=cut.allocation.best if cut.allocation else "optimal", bits=bits
            ),
            payload_bytes=1,
            draws=1,
            agreement=Share(value=agreement[cut.index], low=0.5, high=1.0, samples=pictures),
            agreement_bound=max(0.0, agreement[cut.index] - 0.01) if bound is None else bound,
            accuracy=None,
            output_error=Mean(value=0.1, low=0.0, high=0.2, samples=pictures),
        )
        for cut in bundle.manifest.cuts
    )


def stored(bundle: Bundle, *own: Row, prepared: tuple[Row, ...] = ()) -> None:
    kept = Prepared(measure="the same best class", unit="pictures", available=400, rows=prepared)
    data = DataRecord(name="d", sha256="d", samples=9, labelled=0)
    evaluation.store(
        bundle,
        Evaluation(
            format=evaluation.FORMAT, bundle=bundle.identity, data=data, unprotected_accuracy=None, rows=own,
            prepared=kept if prepared else None,
        ),
    )  # fmt: skip


def load(rig: Any, bundle: Bundle, **changes: Any) -> config.Config:
    """A device whose planner may choose, with the default floor unless another is given."""
    usual = {"device_bundle": str(bundle.root), "planner_split": "auto", "planner_accuracy_floor": None}
    return config.load(rig.configure(**usual | changes))


def test_cuts_below_the_floor_are_not_used(rig: Any, bundle: Bundle) -> None:
    stored(bundle, *rows(bundle))
    for floor, cuts in (("off", {0, 1, 2, 3}), (0.0, {0, 1, 2, 3}), (0.8, {2, 3}), (0.81, {3}), (1.0, set())):
        assert Plan.of(load(rig, bundle, planner_accuracy_floor=floor)).allowed == cuts


def test_by_default_a_cut_needs_an_agreement_of_nine_tenths_and_a_bound_of_eight(rig: Any, bundle: Bundle) -> None:
    for value, bound, used in ((0.9, 0.8, True), (0.89, 0.88, False), (0.95, 0.79, False), (1.0, 1.0, True)):
        stored(bundle, prepared=rows(bundle, agreement=dict.fromkeys(AGREEMENT, value), bound=bound))
        assert Plan.of(load(rig, bundle)).allowed == ({0, 1, 2, 3} if used else set()), (value, bound)


def test_what_prepare_measured_decides(rig: Any, parts: Any) -> None:
    found = evaluation.load(parts.bundle)
    assert found is not None
    for epsilon, bits in ((16.0, None), (64.0, None), (8.0, 8)):
        plan = Plan.of(load(rig, parts.bundle, release_epsilon=epsilon, release_bits=bits))
        specs = {cut.index: plan.config.release.spec_at(cut) for cut in parts.bundle.manifest.cuts}
        measured = {cut: found.find(cut, spec) for cut, spec in specs.items()}
        assert plan.allowed == {cut for cut, row in measured.items() if row is not None and Floor().admits(row)}


def test_cuts_before_the_earliest_are_not_used_however_accurate(rig: Any, bundle: Bundle) -> None:
    stored(bundle, *rows(bundle))
    for earliest, floor, cuts in ((1, "off", {1, 2, 3}), (3, 0.8, {3}), (9, "off", set())):
        config_of = load(rig, bundle, planner_earliest_cut=earliest, planner_accuracy_floor=floor)
        assert Plan.of(config_of).allowed == cuts


def test_the_users_own_figures_win_over_those_of_prepare(rig: Any, bundle: Bundle) -> None:
    stored(bundle, prepared=rows(bundle))
    assert Plan.of(load(rig, bundle)).allowed == {3}
    stored(bundle, *rows(bundle, agreement={0: 0.0, 1: 0.99, 2: 0.0, 3: 0.0}))
    assert Plan.of(load(rig, bundle)).allowed == {1}


def test_a_weaker_release_that_passes_vouches_for_a_stronger_one(rig: Any, bundle: Bundle) -> None:
    good, bad = dict.fromkeys(AGREEMENT, 0.95), dict.fromkeys(AGREEMENT, 0.5)
    found = (*rows(bundle, epsilon=8.0, agreement=bad), *rows(bundle, epsilon=16.0, agreement=good))
    stored(bundle, prepared=found)
    for epsilon, used in ((16.0, True), (20.0, True), (8.0, False), (12.0, False), (4.0, False)):
        plan = Plan.of(load(rig, bundle, release_epsilon=epsilon, release_bits=4))
        assert bool(plan.allowed) == used, epsilon
    assert "at most this, as measured at epsilon 8" in plan.accuracy[2].text
    # Other bits, or another way to share the budget, are other releases.
    assert not Plan.of(load(rig, bundle, release_bits=6)).allowed
    assert not Plan.of(load(rig, bundle, release_allocation="rank")).allowed


def test_the_release_that_would_do_is_never_the_one_in_force(rig: Any, bundle: Bundle) -> None:
    """Another allocation may pass at the same epsilon and bits; the remedy names what to change with this one."""
    bad, good = dict.fromkeys(AGREEMENT, 0.5), dict.fromkeys(AGREEMENT, 0.97)
    other = tuple(
        replace(row, spec=replace(row.spec, allocation="uniform" if row.spec.allocation != "uniform" else "rank"))
        for row in rows(bundle, agreement=good)
        if row.spec is not None
    )
    stored(bundle, prepared=(*rows(bundle, agreement=bad), *other, *rows(bundle, epsilon=32.0, agreement=good)))
    accuracy = Plan.of(load(rig, bundle)).accuracy
    assert accuracy.remedy([2]) == "release.epsilon 32 with 4 bits a value passes at cut 2"
    stored(bundle, prepared=(*rows(bundle, agreement=bad), *other))
    assert not Plan.of(load(rig, bundle)).accuracy.remedy([2])


def test_the_device_keeps_to_it_and_says_so(rig: Any, bundle: Bundle) -> None:
    stored(bundle, prepared=rows(bundle, pictures=20))
    server = rig.server(bundle=bundle)
    device = rig.device(
        server,
        device_bundle=str(bundle.root),
        planner_split="auto",
        planner_earliest_cut=1,
        planner_accuracy_floor=None,
        source_repeat=1,
    )
    assert device.ended() == 0
    assert {record["split"] for record in device.records()} <= {3, bundle.local}
    log = device.log()
    assert "cut 2 is NOT USED: agreement with the unsplit model 0.80, at least 0.79" in log
    assert "cut 3: agreement with the unsplit model 0.95, at least 0.94 (one-sided 80 %, 20 pictures)" in log
    assert "cut 0 is NOT USED" not in log  # forbidden anyway: not talked about
    assert "these figures are of 20 pictures: 10 more are wanted" in log
    status = json.loads((device.config.parent / "edge-runtime.status.json").read_bytes())
    assert [(one["cut"], one["used"], one["agreement"]) for one in status["cuts"]] == [
        (0, False, 0.6), (1, False, 0.7), (2, False, 0.8), (3, True, 0.95),
    ]  # fmt: skip


def test_where_no_cut_passes_it_answers_here_and_names_the_release_that_would(
    rig: Any, bundle: Bundle, command: Any
) -> None:
    good = rows(bundle, epsilon=32.0, agreement=AGREEMENT | {2: 0.97})
    stored(bundle, prepared=(*rows(bundle, agreement=dict.fromkeys(AGREEMENT, 0.5)), *good))
    server = rig.server(bundle=bundle)
    for split in ("auto", 2):
        device = rig.device(
            server,
            name=f"device-{split}",
            device_bundle=str(bundle.root),
            planner_split=split,
            planner_accuracy_floor=None,
            source_repeat=1,
        )
        assert device.ended() == 0
        assert {record["outcome"] for record in device.records()} == {"local"}
        log = device.log()
        assert "no cut reaches the accuracy floor of 0.9 (bound 0.8): everything runs here" in log
        assert "release.epsilon 32 with 4 bits a value passes at cut" in log
        for arguments in (("config", "check"), ("bench", "--no-link", "--runs", "1"), ("doctor", "--no-server")):
            done = command("edge_runtime", *arguments, "-c", device.config)
            assert done.returncode == 0, done.stderr
            assert "release.epsilon 32 with 4 bits a value passes at cut" in done.stdout + done.stderr
        shown = command("edge_runtime", "status", "-c", device.config).stdout
        assert "no cut reaches the accuracy floor" in shown


def test_a_bundle_without_figures_is_used_with_a_warning(rig: Any, bundle: Bundle, command: Any) -> None:
    path = rig.configure(device_bundle=str(bundle.root), planner_split="auto", planner_accuracy_floor=None)
    assert Plan.of(config.load(path)).allowed == {0, 1, 2, 3}
    done = command("edge_runtime", "config", "check", "-c", path)
    assert done.returncode == 0
    assert "this bundle has no accuracy measured under a release" in done.stderr
    assert "WARNING cuts 0, 1, 2, 3: agreement with the unsplit model not measured" in done.stderr


def test_figures_that_tell_nothing_of_the_release_are_not_taken_for_it(rig: Any, bundle: Bundle) -> None:
    stored(bundle, prepared=rows(bundle, agreement=dict.fromkeys(AGREEMENT, 1.0)))
    plan = Plan.of(
        load(rig, bundle, release_epsilon=8.0, release_bits=4)
    )  # a stronger one passes: that says nothing
    assert not plan.allowed
    assert {one.verdict for one in plan.accuracy.cuts} == {"unmeasured"}


def test_format_1_is_read_and_judged_by_its_wider_interval(rig: Any, bundle: Bundle) -> None:
    found = [replace(row, agreement_bound=None) for row in rows(bundle)]
    good = [replace(row, agreement=Share(value=0.95, low=0.85, high=1.0, samples=99)) for row in found]
    bad = [replace(row, agreement=Share(value=0.95, low=0.75, high=1.0, samples=99)) for row in found]
    for each, used in ((good, {0, 1, 2, 3}), (bad, set())):
        evaluation.path_of(bundle).unlink(missing_ok=True)
        stored(bundle, *each)
        tree = json.loads(evaluation.path_of(bundle).read_bytes())
        del tree["prepared"]
        for row in tree["rows"]:
            del row["agreement_bound"]
        evaluation.path_of(bundle).write_text(json.dumps(tree | {"format": 1}))
        assert Plan.of(load(rig, bundle)).allowed == used


def test_under_a_floor_of_the_users_a_missing_figure_is_an_error_that_says_what_to_run(
    rig: Any, bundle: Bundle, command: Any
) -> None:
    stored(bundle, *rows(bundle, epsilon=16.0))
    path = rig.configure(
        device_bundle=str(bundle.root),
        planner_split="auto",
        planner_accuracy_floor=0.9,
        release_bits=6,
        release_epsilon=8.0,
    )
    for arguments in (("run",), ("config", "check"), ("bench", "--no-link")):
        done = command("edge_runtime", *arguments, "-c", path)
        assert done.returncode == os.EX_CONFIG, done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert (
            f"split-model evaluate {bundle.root} --data DATA --epsilon 8 --allocation auto --bits 6 --store" in last
        )
    with pytest.raises(ConfigError, match="no measurement of cut 0"):
        Plan.of(config.load(path))


def test_the_command_it_names_mends_it(rig: Any, parts: Any, bundle: Bundle, command: Any) -> None:
    path = rig.configure(device_bundle=str(bundle.root), planner_split="auto", planner_accuracy_floor=0.01)
    said = command("edge_runtime", "config", "check", "-c", path).stderr
    words = said.split("run '")[1].split("'")[0].replace("DATA", str(parts.arrays)).split()
    assert command("split_model", *words[1:]).returncode == 0
    done = command("edge_runtime", "config", "check", "-c", path)
    assert done.returncode == 0, done.stderr


def test_figures_of_another_bundle_count_as_missing(rig: Any, bundle: Bundle) -> None:
    stored(bundle, *rows(bundle))
    raw = json.loads(evaluation.path_of(bundle).read_bytes())
    evaluation.path_of(bundle).write_text(json.dumps(raw | {"bundle": "0" * 64}))
    with pytest.raises(ConfigError, match="no measurement of cut"):
        Plan.of(load(rig, bundle, planner_accuracy_floor=0.5))


def test_where_nothing_is_released_the_floor_asks_for_nothing(rig: Any, bundle: Bundle) -> None:
    every = {cut.index for cut in bundle.manifest.cuts}
    unprotected = load(rig, bundle, planner_accuracy_floor=0.99, release_mechanism="none")
    assert Plan.of(unprotected).allowed == every
    assert Plan.of(load(rig, bundle, release_mechanism="none")).allowed == every
    path = rig.configure(device_bundle=str(bundle.root), planner_split="local", planner_accuracy_floor=0.99)
    assert Plan.of(config.load(path)).allowed == every


def test_a_fixed_split_below_a_floor_of_the_users_is_refused(rig: Any, bundle: Bundle, command: Any) -> None:
    stored(bundle, *rows(bundle))
    path = rig.configure(device_bundle=str(bundle.root), planner_split=2, planner_accuracy_floor=0.9)
    done = command("edge_runtime", "config", "check", "-c", path)
    assert done.returncode == os.EX_CONFIG
    assert "planner.split = 2 is measured below planner.accuracy_floor = 0.9" in done.stderr
