"""Changing keys without an outage: a device's once the server accepts it, a server's while two are trusted."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from cloud_server.cli import main as server_main
from split_model.errors import MissingInputError
from split_model.protocol.keys import make_next, make_pair, read_next, read_pair, switch_to_next

FOREVER = {"source_repeat": 0, "source_interval_s": 0.02}


def test_a_switch_keeps_the_old_pair_and_never_leaves_none(tmp_path: Path) -> None:
    old = make_pair(tmp_path, "device")
    path = tmp_path / "device.key"
    with pytest.raises(MissingInputError, match="keys rotate"):
        switch_to_next(path)
    fresh = make_next(path)
    assert make_next(path) == fresh  # asked twice, the same one waits
    assert read_pair(path) == old
    (tmp_path / "device.next.pub").replace(tmp_path / "device.pub")  # as if cut short there
    assert switch_to_next(path) == fresh
    assert read_pair(path) == fresh
    assert read_pair(tmp_path / "device.old.key") == old
    assert (tmp_path / "device.pub").read_bytes().strip() == fresh.public
    with pytest.raises(MissingInputError):
        read_next(path)


def test_a_devices_key_is_switched_only_once_the_server_accepts_it(rig: Any, command: Any) -> None:
    server = rig.server()
    device = rig.device(server, **FOREVER)
    device.wait_more("offloaded")
    fresh = command("edge_runtime", "keys", "rotate", "-c", device.config).stdout.strip()
    refused = command("edge_runtime", "keys", "switch", "-c", device.config)
    assert refused.returncode == os.EX_NOPERM
    assert "refuses this device's key" in refused.stderr
    assert command("edge_runtime", "keys", "show", "-c", device.config).stdout.strip() == device.public.decode()
    server.allow("device-2", fresh.encode())
    assert command("edge_runtime", "keys", "switch", "-c", device.config).returncode == 0
    assert command("edge_runtime", "keys", "show", "-c", device.config).stdout.strip() == fresh
    device.wait_more("offloaded")  # the running program still has the old one
    device.stop()
    server.revoke("device")
    again = rig.device(server, allowed=False, **FOREVER)
    again.wait_more("offloaded")


def test_a_servers_key_is_switched_while_devices_trust_two(rig: Any, command: Any, capsys: Any) -> None:
    server = rig.server()
    device = rig.device(server, **FOREVER)
    device.wait_more("offloaded")
    assert server_main(["keys", "rotate", "-c", str(server.config)]) == 0
    fresh = capsys.readouterr().out.strip()
    rig.configure(server, server_public_keys=[server.key.decode(), fresh], **FOREVER)
    device.popen.send_signal(signal.SIGHUP)
    device.until(lambda: "in force" in device.log(), "both keys")
    assert server_main(["keys", "switch", "-c", str(server.config)]) == 0
    address = server.address
    server.stop()
    again = rig.server(address=address)
    assert again.key.decode() == fresh
    device.wait_more("offloaded", 5)
    device.stop()
