"""The device program and its ledger: real processes, a real ledger, a server that counts what arrives."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from edge_runtime.config import config
from edge_runtime.privacy.ledger import Account, Amount, Ledger, Limits, Now, of_event, read
from edge_runtime.privacy.ledger.store import FILE_BYTES, store_path
from edge_runtime.privacy.release import plan_for
from split_model.errors import ConfigError
from split_model.privacy import NoiseSpec

CUT = 2
#: A ledger of the test's own.
OWN = {"device_state": "state"}


def price(parts) -> float:
    return plan_for(parts.bundle.cut(CUT), NoiseSpec(epsilon=16.0)).whole_input_epsilon


def state_of(device) -> Path:
    return device.config.parent / "state"


def ledger_command(command, device, *arguments):
    done = command("edge_runtime", "ledger", "-c", device.config, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_budget_is_spent_to_its_end_and_no_frame_is_lost(rig, parts, command):
    server = rig.server()
    device = rig.device(
        server,
        **OWN,
        privacy_whole_input_budget=price(parts) * 5.5,
        privacy_block_frames=2,
        source_repeat=2,
        source_interval_s=0.1,  # so that the link is up before the last frame, however busy this machine is
        planner_dwell_s=0.0,
    )
    assert device.ended() == 0
    outcomes = [record["outcome"] for record in device.records()]
    counters = device.counters()
    assert len(outcomes) == counters["frames_in"] == 48
    assert outcomes.count("offloaded") + outcomes.count("fallback") == counters["releases"] == 5
    assert set(outcomes[-10:]) == {"local"}
    assert counters["ledger_refused"] >= 10
    log = device.log()
    assert len(re.findall(r"nothing leaves at cut 2 any more", log)) == 1
    assert "privacy.whole_input_budget" in log
    status = json.loads(ledger_command(command, device, "--json"))
    assert status["spent"]["whole_input_epsilon"] == price(parts) * 5
    assert status["lifetime"]["left"] == price(parts) * 0.5
    assert status["spent"]["releases"] == 5
    assert status["reserved"]["releases"] == 0  # given back at the end
    assert "5 releases" in ledger_command(command, device)


def test_a_killed_device_has_released_no_more_than_its_ledger_says(rig, command):
    server = rig.server()
    released = 0
    for first in (True, False):
        (rig.folder / "device" / "answers.jsonl").unlink(missing_ok=True)
        device = rig.device(server, allowed=first, **OWN, privacy_block_frames=3, source_subject="door")
        device.wait_more("offloaded", 4)
        assert json.loads(ledger_command(command, device, "--json"))["spent"]["releases"] >= 4  # while it runs
        device.kill()
        released += device.count("offloaded") + device.count("fallback")
        ledger_state = read(state_of(device))
        assert ledger_state.subjects["door"].releases >= released
        assert ledger_state.total == ledger_state.subjects["door"]


def test_a_second_device_program_on_the_same_state_is_refused(rig, command):
    device = rig.device(rig.server(), **OWN)
    device.wait_more("offloaded", 1)
    done = command("edge_runtime", "run", "-c", device.config)
    assert done.returncode == os.EX_NOPERM
    assert "another edge-runtime has the privacy ledger" in done.stderr.splitlines()[-1]
    assert device.stop() == 0


def test_without_a_valid_slot_frames_are_answered_and_nothing_leaves(rig, command):
    server = rig.server()
    device = rig.device(server, **OWN, source_repeat=1)
    assert device.ended() == 0
    assert device.count("offloaded") > 0
    store_path(state_of(device)).write_bytes(os.urandom(FILE_BYTES))
    again = rig.device(server, allowed=False, **OWN, source_repeat=2)
    assert again.ended() == 0
    assert again.counters()["releases"] == 0
    assert again.counters()["local"] == 48
    assert "the spent budget is unknown" in again.log()
    done = command("edge_runtime", "ledger", "-c", device.config)
    assert done.returncode == os.EX_DATAERR


def test_a_cheaper_cut_is_used_when_the_best_one_cannot_be_paid_for(parts, scripted, inside, tmp_path):
    cuts = [cut.index for cut in parts.bundle.manifest.cuts]
    spec = NoiseSpec(epsilon=8.0)
    costs = {cut: of_event(plan_for(parts.bundle.cut(cut), spec).event()) for cut in cuts}
    ledger = Ledger.open_in(tmp_path, Limits(budget=costs[CUT].epsilon), now=lambda: Now("boot", 1.0))
    account = Account(ledger, costs=costs)
    dear = max(cuts, key=lambda cut: costs[cut].epsilon)
    assert account.payable([dear, CUT], "door") == {CUT}
    device = inside(scripted.address, scripted.public, spec=spec, account=account).connect(CUT)
    assert device.step().result.outcome == "offloaded"
    result = device.step().result
    assert result.outcome == "local"
    assert device.driver.counters.as_dict()["ledger_refused"] == 1
    assert len(scripted.arrived) == 1
    account.close()
    assert read(tmp_path).total == costs[CUT]


def test_the_same_bytes_sent_again_are_charged_once(parts, scripted, inside, tmp_path):
    spec = NoiseSpec(epsilon=8.0)
    cost = of_event(plan_for(parts.bundle.cut(CUT), spec).event())
    ledger = Ledger.open_in(tmp_path, Limits(), now=lambda: Now("boot", 1.0))
    account = Account(ledger, costs={cut.index: cost for cut in parts.bundle.manifest.cuts})
    device = inside(scripted.address, scripted.public, spec=spec, account=account).connect(CUT)
    device.planner.pinned = True  # only the server answers

    def break_once(_):
        if len(scripted.arrived) == 1:
            scripted.restart()
            return False
        return True

    scripted.answer = break_once
    assert device.step().result.outcome == "offloaded"
    first, second = scripted.arrived
    assert first.payload == second.payload
    assert device.driver.counters.as_dict()["releases"] == 1
    account.close()
    assert read(tmp_path).total == cost


def load(rig, **changes):
    return config.load(rig.configure(**changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"privacy_whole_input_budget": None}, "whole_input_budget"),
        ({"privacy_whole_input_budget": "some"}, "privacy.whole_input_budget"),
        ({"privacy_whole_input_budget": 0}, "privacy.whole_input_budget"),
        ({"privacy_window_s": 60.0}, "go together"),
        ({"privacy_window_budget": 60.0}, "go together"),
        (
            {"privacy_window_s": 60.0, "privacy_window_budget": 9.0, "release_mechanism": "none"},
            "no finite epsilon",
        ),
        ({"privacy_whole_input_budget": 1e6, "release_mechanism": "none"}, "no finite epsilon"),
        ({"privacy_whole_input_budget": 1e6, "release_preset": "cis"}, '= "unlimited" alone'),
        ({"privacy_subject_budget": 1e6, "release_preset": "cis"}, '= "unlimited" alone'),
        ({"release_preset": "cis", "release_mechanism": "none"}, "is noise"),
        ({"release_preset": "cis", "release_allocation": "optimal"}, "leave release.allocation out"),
        ({"source_subject": "front door"}, "source.subject"),
        ({"privacy_block_frames": 0}, "privacy.block_frames"),
    ],
)
def test_a_config_that_promises_what_cannot_be_is_refused(rig, changes, said):
    with pytest.raises(ConfigError) as caught:
        load(rig, **changes)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_budget_has_to_be_stated_where_something_may_leave(rig):
    path = rig.configure()
    text = re.sub(r"\[privacy\]\n.*\n", "", path.read_text())
    path.write_text(text)
    with pytest.raises(ConfigError, match="whole_input_budget is not set"):
        config.load(path)
    path.write_text(text.replace("split = 2", 'split = "local"'))
    assert config.load(path).limits == Limits()
    path.write_text(text.replace("[release]", '[release]\nmechanism = "none"'))
    assert config.load(path).limits == Limits()


@pytest.mark.parametrize("number", ["inf", "nan", "-1.0"])
def test_a_budget_is_a_finite_number(rig, number):
    path = rig.configure()
    path.write_text(path.read_text().replace('"unlimited"', number))
    with pytest.raises(ConfigError, match=r"privacy\.whole_input_budget"):
        config.load(path)


def test_the_preset_cis_is_noise_shared_by_rank(rig):
    assert load(rig, release_preset="cis").release.wish == "rank"
    assert load(rig).release.wish == "auto"
    assert load(rig, release_allocation="uniform").release.wish == "uniform"


def test_the_ledger_of_a_device_never_started(rig, command):
    path = rig.configure(**OWN)
    done = command("edge_runtime", "ledger", "-c", path, "--json")
    assert (done.returncode, done.stdout) == (0, "null\n")
    assert not Path(path.parent / "state").exists()
    assert "never been started" in command("edge_runtime", "ledger", "-c", path).stdout


def test_a_budget_below_the_cost_of_one_frame_says_so_wherever_one_looks(rig, parts, command):
    device = rig.device(**OWN, privacy_whole_input_budget=price(parts) * 0.5, source_repeat=0)
    line = f"privacy.whole_input_budget: {price(parts) * 0.5:.6g} whole-input epsilon left, one frame costs "

    def status():
        return command("edge_runtime", "status", "-c", device.config).stdout

    assert line in device.until(lambda: "TOO LITTLE" in (text := status()) and text, "the shortfall in the status")
    assert f"{line}{price(parts):.6g}; nothing leaves this device" in ledger_command(command, device)
    assert json.loads(ledger_command(command, device, "--json"))["shortfalls"][0].startswith(line)
    done = command("edge_runtime", "doctor", "--no-server", "--json", "-c", device.config)
    finding = next(found for found in json.loads(done.stdout) if found["about"] == "ledger")
    assert finding["level"] == "warn"
    assert line in finding["text"]


def test_a_budget_that_is_too_small_is_told_before_the_first_start(rig, parts, command):
    config = rig.configure(**OWN, privacy_whole_input_budget=price(parts) * 0.5)
    assert "one frame costs" in command("edge_runtime", "ledger", "-c", config).stdout
    done = command("edge_runtime", "doctor", "--no-server", "--json", "-c", config)
    finding = next(found for found in json.loads(done.stdout) if found["about"] == "ledger")
    assert (finding["level"], "no frame can be paid for" in finding["text"]) == ("warn", True)


def test_unprotected_releases_are_counted_for_good(rig, command):
    device = rig.device(rig.server(), **OWN, release_mechanism="none", source_repeat=1, privacy_block_frames=5)
    assert device.ended() == 0
    total = read(state_of(device)).total
    assert total == Amount(0, 0, total.releases, total.releases)
    assert total.releases == device.counters()["unprotected_releases"] > 0
    assert "UNPROTECTED" in ledger_command(command, device)
