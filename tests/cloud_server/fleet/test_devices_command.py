"""``cloud-server devices`` against a real server: the fleet without a browser and without libraries."""

from __future__ import annotations

import json
import os

import pytest

from cloud_server import cli
from tests.device_reports import make_report


@pytest.fixture
def run(capfd):
    """Run a command; its exit code, output and errors."""

    def call(*words):
        code = cli.main([str(word) for word in words])
        return code, *capfd.readouterr()

    return call


def test_the_fleet_in_a_terminal(start, connect, model, run):
    server = start()
    config = server.config
    code, text, _ = run("devices", "-c", config)
    assert (code, text) == (0, "no device is allowed yet: cloud-server devices allow NAME KEY\n")
    device = connect(server, server.new_keys("porch")).greet()
    server.new_keys("hall")
    device.session.report(make_report(model.bundle.identity, alerts=("source",)))
    device.step()
    server.wait(lambda status: status.reports == 1)

    def shown():
        found = json.loads(run("devices", "--json", "-c", config)[1])["devices"]
        return found if len(found) == 2 and found[1]["there"] is not None else None

    while (found := shown()) is None:  # the file is written every two seconds
        device.step()
    assert [row["name"] for row in found] == ["hall", "porch"]
    assert found[0]["condition"] == "never"
    assert (found[1]["condition"], found[1]["there"], found[1]["bundle"]) == ("up", 71, "two-layers-1")

    code, text, _ = run("devices", "-c", config)
    assert code == 0
    assert [line.split()[0] for line in text.splitlines()] == ["device", "hall", "porch", "!", "2"]
    assert all(len(line) <= 80 for line in text.splitlines())
    assert (server.folder / "status.devices.json").stat().st_mode & 0o007 == 0

    assert server.stop() == 0
    assert run("devices", "-c", config)[0] == os.EX_UNAVAILABLE


def test_the_config_may_be_named_before_or_after_the_command(run, tmp_path, model, config_file):
    config = config_file(tmp_path, model)
    for words in (("devices", "list", "-c", config), ("devices", "-c", config, "list")):
        assert run(*words)[0] == 0


def test_a_device_without_reports_is_up_and_one_that_floods_is_bounded(start, connect, model):
    server = start()
    quiet = connect(server, server.new_keys("quiet")).greet()
    loud = connect(server, server.new_keys("loud")).greet()
    for number in range(200):
        loud.session.report(make_report(model.bundle.identity, uptime_s=float(number + 1)))
        loud.step(wait_ms=0)
    status = server.wait(lambda status: status.reports + status.reports_dropped == 200)
    assert status.reports < 50
    quiet.step()
