"""``planner.reveal_at_most``: the split stays at cuts whose audit, of this very release, found no more."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from edge_runtime.config import config
from edge_runtime.daemon.plan import Plan
from split_model.bundle import Bundle, exposure
from split_model.bundle.exposure import Exposure, Exposures, Reveals
from split_model.errors import ConfigError
from split_model.privacy import NoiseSpec

#: What the audit is said to have found at the tiny model's cuts.
FOUND: dict[int, Reveals] = {0: "picture", 1: "layout", 2: "traces", 3: "answer"}


@pytest.fixture
def bundle(parts: Any, tmp_path: Any) -> Bundle:
    """A copy that verdicts may be stored in."""
    shutil.copytree(parts.bundle.root, tmp_path / "bundle")
    return Bundle.open(tmp_path / "bundle")


def rows(bundle: Bundle, found: dict[int, Reveals] = FOUND, *, protected: bool = True) -> tuple[Exposure, ...]:
    def spec(cut: Any) -> NoiseSpec | None:
        best = cut.allocation.best if cut.allocation else "optimal"
        return NoiseSpec(epsilon=16.0, allocation=best, bits=4) if protected else None

    return tuple(
        Exposure(
            cut=cut.index, spec=spec(cut), codebook=None, reveals=found[cut.index], attacker="white box",
            ssim=0.25, ssim_low=0.2, ssim_high=0.3, pictures=16, quick=False,
        )
        for cut in bundle.manifest.cuts
        if cut.index in found
    )  # fmt: skip


def stored(bundle: Bundle, *found: Exposure) -> None:
    exposure.store(bundle, Exposures(format=exposure.FORMAT, bundle=bundle.identity, rows=found), {})


def load(rig: Any, bundle: Bundle, **changes: Any) -> config.Config:
    usual = {"device_bundle": str(bundle.root), "planner_split": "auto", "planner_accuracy_floor": "off"}
    return config.load(rig.configure(**usual | changes))


def told(plan: Plan) -> str:
    return "\n".join(line.text for line in plan.cut_lines())


def test_cuts_that_reveal_more_are_not_used(rig: Any, bundle: Bundle) -> None:
    stored(bundle, *rows(bundle))
    for most, cuts in (("picture", {0, 1, 2, 3}), ("layout", {1, 2, 3}), ("traces", {2, 3}), ("answer", {3})):
        plan = Plan.of(load(rig, bundle, planner_reveal_at_most=most, planner_earliest_cut=0))
        assert plan.allowed == cuts, most
    assert "cut 3: a server sees: no more than the answer" in told(plan)
    assert "cut 2 is NOT USED: a server sees: traces" in told(plan)


def test_unset_all_cuts_are_used_and_verdicts_are_told(rig: Any, bundle: Bundle) -> None:
    config_of = load(rig, bundle, planner_earliest_cut=0)
    assert "server sees" not in told(Plan.of(config_of))
    stored(bundle, *rows(bundle))
    plan = Plan.of(config_of)
    assert plan.allowed == {0, 1, 2, 3}
    assert "cut 0: a server sees: the picture is recognisable" in told(plan)


def test_a_cut_that_was_not_audited_under_this_release_is_refused_with_the_command(
    rig: Any, bundle: Bundle
) -> None:
    stored(bundle, *rows(bundle, {3: "answer"}))
    plan = Plan.of(load(rig, bundle, planner_reveal_at_most="picture"))
    assert plan.allowed == {3}
    command = (
        f"split-model audit {bundle.root} --data DATA -o report --store --epsilon 16 --allocation auto --bits 4"
    )
    assert f"cut 2 is NOT USED: not audited under this release; run '{command}'" in told(plan)
    # Another epsilon, other bits or another way to share the budget are other releases.
    for changes in ({"release_epsilon": 15.0}, {"release_bits": 5}, {"release_allocation": "rank"}):
        assert not Plan.of(load(rig, bundle, planner_reveal_at_most="picture", **changes)).allowed, changes


def test_features_that_leave_as_they_are_have_a_verdict_of_their_own(rig: Any, bundle: Bundle) -> None:
    stored(bundle, *rows(bundle), *rows(bundle, dict.fromkeys(FOUND, "picture"), protected=False))
    changes = {"release_mechanism": "none", "release_epsilon": None, "release_bits": None}
    for most, cuts in (("layout", set()), ("picture", {0, 1, 2, 3})):
        assert Plan.of(load(rig, bundle, planner_reveal_at_most=most, **changes)).allowed == cuts


def test_where_no_cut_passes_everything_is_local_and_that_is_told(rig: Any, bundle: Bundle) -> None:
    stored(bundle, *rows(bundle, dict.fromkeys(FOUND, "layout")))
    plan = Plan.of(load(rig, bundle, planner_reveal_at_most="traces"))
    assert not plan.allowed
    assert "everything runs here" in plan.exposure_trouble
    assert "a stronger release reveals less" in plan.exposure_trouble
    shutil.rmtree(bundle.root / exposure.FOLDER)
    exposure.path_of(bundle).unlink()
    assert "split-model audit" in Plan.of(load(rig, bundle, planner_reveal_at_most="traces")).exposure_trouble


def test_a_fixed_split_that_reveals_more_or_was_not_audited_is_an_error(rig: Any, bundle: Bundle) -> None:
    stored(bundle, *rows(bundle, {1: "layout", 2: "traces"}))
    for split, said in (
        (1, "reveals more than"),
        (3, "was not audited under this release; run 'split-model audit"),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            Plan.of(load(rig, bundle, planner_split=split, planner_reveal_at_most="traces"))
        assert caught.value.exit_code == 78
    assert Plan.of(load(rig, bundle, planner_split=2, planner_reveal_at_most="traces")).allowed >= {2}
    assert Plan.of(load(rig, bundle, planner_split="local", planner_reveal_at_most="answer")).exposure_trouble == ""


def test_a_verdict_of_another_bundle_counts_for_nothing(rig: Any, bundle: Bundle) -> None:
    found = Exposures(format=exposure.FORMAT, bundle="0" * 64, rows=rows(bundle))
    exposure.store(bundle, found, {})
    assert not Plan.of(load(rig, bundle, planner_reveal_at_most="picture")).allowed


def test_an_unknown_level_names_the_valid_ones(rig: Any, bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="reveal_at_most"):
        load(rig, bundle, planner_reveal_at_most="nothing")


def test_the_device_keeps_to_it_and_says_so(rig: Any, bundle: Bundle, command: Any) -> None:
    stored(bundle, *rows(bundle, FOUND | {1: "answer"}))
    device = rig.device(
        rig.server(bundle=bundle),
        device_bundle=str(bundle.root),
        planner_split="auto",
        planner_accuracy_floor="off",
        planner_reveal_at_most="answer",
        source_repeat=1,
    )
    assert device.ended() == 0
    assert {record["split"] for record in device.records()} <= {1, 3, bundle.local}
    assert "cut 2 is NOT USED: a server sees: traces, not recognisable (SSIM 0.25" in device.log()
    shown = command("edge_runtime", "status", "-c", device.config).stdout
    assert "cuts 1, 3: a server sees: no more than the answer (SSIM 0.25 by white box, 16 pictures)" in shown
    assert "cut 2: a server" not in shown
    doctor = command("edge_runtime", "doctor", "--no-server", "-c", device.config)
    assert doctor.returncode == 0, doctor.stderr
    assert "cut 2 is not used: a server sees: traces" in doctor.stdout
    assert "cuts 1, 3: a server sees: no more than the answer" in doctor.stdout
