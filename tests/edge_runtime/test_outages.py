"""The device program through everything that happens to links and servers: no frame lost, none answered twice."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from benchmarks.wire.shaper import Link
from benchmarks.wire.traces import constant
from split_model.protocol.keys import make_pair


def check_every_frame_once(device: Any) -> dict[str, float]:
    """Each frame has one record, and the counters add up to them."""
    frames = device.records()
    assert [record["index"] for record in frames] == list(range(len(frames)))
    counters = device.counters()
    ends = ("offloaded", "local", "fallback", "failed", "dropped")
    assert counters["frames_in"] == len(frames) == sum(counters[end] for end in ends)
    assert {end: counters[end] for end in ends} == {end: device.count(end) for end in ends}
    return counters


def test_server_killed_and_back_on_the_same_port(rig: Any) -> None:
    server = rig.server()
    device = rig.device(server)
    device.wait_more("offloaded")
    server.kill()
    device.wait_more("local")
    again = rig.server(address=server.address)
    device.wait_more("offloaded")
    assert device.stop() == 0
    counters = check_every_frame_once(device)
    assert counters["failed"] == 0
    assert counters["reconnects"] >= 1
    assert again.stop() == 0


def test_link_that_goes_silent_and_comes_back(rig: Any) -> None:
    """Nothing tells that it is gone: no reset, no error, only silence."""
    server = rig.server()
    with Link(("127.0.0.1", server.port), constant(8.0)) as link:
        device = rig.device(server, server_address=f"tcp://127.0.0.1:{link.address[1]}", source_interval_s=0.3)
        device.wait_more("offloaded")
        link.cut()
        before = len(device.records())
        offloaded = device.count("offloaded")
        device.until(lambda: len(device.records()) >= before + 8, "frames go on")
        assert device.count("offloaded") <= offloaded + 2
        link.restore()
        device.wait_more("offloaded")
        assert device.stop() == 0
    check_every_frame_once(device)


def test_server_that_is_away_is_named_and_found_later(rig: Any) -> None:
    first = rig.server()
    first.stop()
    device = rig.device(first)
    device.wait_more("local")
    device.until(lambda: f"no connection to {first.address}" in device.log())
    rig.server(address=first.address)
    device.wait_more("offloaded")
    assert device.stop() == 0
    check_every_frame_once(device)


def test_refused_device_says_why_and_connects_once_allowed(rig: Any) -> None:
    server = rig.server()
    device = rig.device(server, allowed=False)
    device.wait_more("local")
    remedy = f"cloud-server devices allow -c FILE NAME '{device.public.decode()}'"
    device.until(lambda: remedy in device.log(), "the remedy")
    server.allow("late", device.public)
    device.wait_more("offloaded")
    assert device.log().count("refuses this device's key") == 1
    assert device.stop() == 0
    check_every_frame_once(device)


def test_revoked_device_goes_on_alone_and_says_so(rig: Any) -> None:
    server = rig.server()
    device = rig.device(server, name="camera")
    device.wait_more("offloaded")
    server.revoke("camera")
    device.until(lambda: "devices allow -c FILE NAME" in device.log(), "the remedy")
    device.wait_more("local")
    server.allow("camera", device.public)
    device.wait_more("offloaded")
    assert device.stop() == 0
    counters = check_every_frame_once(device)
    # Nothing is released to a server that has just said no: at most what was under way at that moment.
    assert counters["releases"] - counters["offloaded"] <= 2


def test_wrong_server_key_runs_locally_and_says_so(rig: Any, tmp_path: Any) -> None:
    server = rig.server()
    stranger = make_pair(tmp_path / "stranger", "server").public.decode()
    device = rig.device(server, server_public_keys=[stranger])
    device.wait_more("local", 20)
    device.until(lambda: "check server.public_keys" in device.log())
    assert device.stop() == 0
    assert check_every_frame_once(device)["offloaded"] == 0
    assert device.log().count("check server.public_keys") == 1


def test_second_server_key_is_tried(rig: Any, tmp_path: Any) -> None:
    server = rig.server()
    old = make_pair(tmp_path / "old", "server").public.decode()
    device = rig.device(server, server_public_keys=[old, server.key.decode()])
    device.wait_more("offloaded")
    assert device.stop() == 0
    check_every_frame_once(device)


def test_server_keeps_nothing_of_a_killed_device(rig: Any) -> None:
    server = rig.server(peer_timeout_s=2.0)
    device = rig.device(server, source_interval_s=0.0, planner_split=0, release_mechanism="none")
    device.wait_more("offloaded")
    device.kill()
    server.until(lambda: server.status()["peers"] == 0, "the peer is dropped")
    assert server.status()["held_bytes"] == 0
    assert server.status()["queued"] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_cleanly(rig: Any, number: int) -> None:
    server = rig.server()
    device = rig.device(server)
    device.wait_more("offloaded")
    device.popen.send_signal(number)
    assert device.ended() == 0
    check_every_frame_once(device)


def test_finite_source_ends_by_itself(rig: Any) -> None:
    device = rig.device(rig.server(), source_repeat=2)
    assert device.ended() == 0
    assert check_every_frame_once(device)["frames_in"] == 48
