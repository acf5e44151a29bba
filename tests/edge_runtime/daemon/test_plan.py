"""What `config check` accepts `run` accepts, and what one refuses the other refuses in the same words."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import pytest

from edge_runtime.config import config
from edge_runtime.daemon.plan import Plan
from edge_runtime.privacy.claims import claims
from edge_runtime.privacy.claims import verdict as judged
from split_model.interpreter import BACKENDS, available_backends


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"device_bundle": "/nowhere"}, os.EX_NOINPUT, "/nowhere"),
        (
            {"planner_split": 999},
            os.EX_CONFIG,
            "planner.split = 999: the bundle offers [0, 1, 2, 3]",
        ),
        ({"planner_earliest_cut": 3}, os.EX_CONFIG, "planner.split = 2 precedes planner.earliest_cut = 3"),
        (
            {"release_mechanism": "codebook", "release_whole_input_epsilon": 8.0},
            os.EX_CONFIG,
            "no cut of the bundle has a codebook",
        ),
        ({"source_path": "/nowhere"}, os.EX_NOINPUT, "/nowhere"),
        ({"sink_path": "."}, os.EX_CANTCREAT, "Is a directory"),
        ({"sink_path": "device.toml/answers"}, os.EX_CANTCREAT, "Not a directory"),
        ({"device_key": "none.key"}, os.EX_NOINPUT, "none.key"),
    ],
)
def test_check_and_run_refuse_alike(rig: Any, command: Any, changes: dict[str, Any], code: int, said: str) -> None:
    path = rig.configure(device_state="state", **changes)
    lines = []
    for arguments in (("config", "check"), ("run",)):
        done = command("edge_runtime", *arguments, "-c", path)
        assert done.returncode == code, done.stderr
        lines.append(done.stderr.strip().splitlines()[-1])
    assert said in lines[0]
    assert lines[0] == lines[1]
    assert not (path.parent / "state" / "ledger").exists()  # nothing was opened for a run that cannot begin


def test_check_and_run_want_the_same_backend(rig: Any, command: Any) -> None:
    missing = next((name for name in BACKENDS if name not in available_backends()), None)
    if missing is None:
        pytest.skip("every backend is installed")
    path = rig.configure(device_backend=missing)
    done = [command("edge_runtime", *arguments, "-c", path) for arguments in (("config", "check"), ("run",))]
    assert [one.returncode for one in done] == [os.EX_UNAVAILABLE] * 2
    last = {one.stderr.strip().splitlines()[-1] for one in done}
    assert len(last) == 1
    assert f"{missing} is not installed" in last.pop()


def test_check_leaves_the_key_out_where_it_is_told_to(rig: Any, command: Any) -> None:
    path = rig.configure(device_key="none.key")
    assert command("edge_runtime", "config", "check", "--without-key", "-c", path).returncode == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ("per-value epsilon at most", "whole-input epsilon", "a frame; allocation")),
        ({"release_preset": "cis"}, ("per-value epsilon at most", "no budget limits the releases")),
        ({"release_mechanism": "none"}, ("features leave UNPROTECTED",)),
    ],
)
def test_claims_name_both_units_for_every_cut(rig: Any, changes: dict[str, Any], said: tuple[str, ...]) -> None:
    plan = Plan.of(config.load(rig.configure(**changes)))
    lines = [line.text for line in claims(plan.bundle.manifest.cuts, plan.releases, plan.config.release)]
    assert all(any(words in line for line in lines) for words in said)
    for cut in plan.bundle.manifest.cuts:
        (line,) = (line for line in lines if line.startswith(f"cut {cut.index}:"))
        assert "UNPROTECTED" in line or ("per-value epsilon" in line and "whole-input epsilon" in line)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "NOT hidden"),
        ({"release_mechanism": "none"}, "UNPROTECTED"),
        ({"planner_split": "local"}, "nothing leaves this board"),
    ],
)
def test_the_verdict_on_privacy_is_in_words(rig: Any, changes: dict[str, Any], verdict: str) -> None:
    plan = Plan.of(config.load(rig.configure(**changes)))
    assert verdict in plan.privacy
    assert ("whole-input epsilon" in plan.privacy and "per-value epsilon" in plan.privacy) == (not changes)


@pytest.mark.parametrize(
    ("epsilon", "verdict"), [(8.0, "is protected:"), (40.0, "protected weakly"), (100.0, "NOT hidden")]
)
def test_the_verdict_follows_the_least_protected_cut(epsilon: float, verdict: str) -> None:
    class Release(NamedTuple):
        whole_input_epsilon: float
        per_value_epsilon_max: float = 1.0

    plans: Any = {1: Release(2.0), 2: Release(epsilon)}
    assert verdict in judged(plans, {1, 2})
    assert "is protected:" in judged(plans, {1})
    assert f"whole-input epsilon 2 to {epsilon:g} a frame" in judged(plans, {1, 2})


def test_where_no_cut_is_offered_there_is_nothing_to_claim(rig: Any) -> None:
    """The preset's warning names the cheapest cut; there may be none."""
    plan = Plan.of(config.load(rig.configure(release_preset="cis", planner_split="local")))
    assert [line.text for line in claims((), {}, plan.config.release)] == []
