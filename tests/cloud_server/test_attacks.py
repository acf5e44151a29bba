"""What somebody with an allowed device's key can do to others: attacks on a real server process."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time

import psutil
import pytest
import zmq

from cloud_server import allow_list
from cloud_server.budgets import HANDSHAKE_BURST, HANDSHAKES_PER_S
from split_model.protocol import messages as wire
from split_model.protocol.device import Answered

TOTAL = 4 * 2048
#: The first number that libzmq gives to a peer in a process that does not seed rand().
FIRST_NUMBER = 0x6B8B4567
HELLO = wire.encode(wire.Hello(versions=(1,), boot_id="attacker", software="t"))


def number(count: int) -> bytes:
    """The routing id that libzmq makes after ``count`` others."""
    return b"\0" + (FIRST_NUMBER + count).to_bytes(4, "big")


def answers(device, model, request_id, **changes):
    """Whether a device gets the answer to a request."""
    features = model.features(model.frame(1))
    return isinstance(device.ask(model.request(request_id, **changes), features), Answered)


@pytest.fixture
def attacker(connect):
    """Make connections of one key that only step when told to."""

    def make(server, keys, **options):
        return connect(server, keys, **{"boot_id": "attacker", **options})

    return make


def settle(devices, seconds=1.0):
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        for device in devices:
            device.step()


def watch(device, event):
    """Wait for an event of a connection whose device does nothing, not even say hello."""
    end_s = time.monotonic() + 20.0
    while device.next_event() != event:
        assert time.monotonic() < end_s
        time.sleep(0.005)


def hear(devices, seconds):
    """What a server sends to devices that do nothing."""
    received = []
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        ready = [device for device in devices if device.socket.poll(10)]
        received += [wire.decode_from_server(device.socket.recv_multipart()[0]) for device in ready]
    return received


# --- routing ids -----------------------------------------------------------------------------------------------


def test_numbers_held_ahead_of_libzmqs_counter_do_not_end_the_server(start, connect, attacker, model):
    """libzmq aborts where the number of its next peer is taken."""
    server = start()
    polite = connect(server, server.new_keys("polite")).greet()
    keys = server.new_keys("attacker")
    held = [attacker(server, keys, routing_id=number(count)) for count in range(5, 12)]
    settle(held, 2.0)
    plain = [attacker(server, keys) for _ in range(8)]
    settle([*held, *plain], 2.0)
    assert server.process.poll() is None, server.log()
    assert answers(polite, model, 1)
    assert answers(connect(server, server.new_keys("newcomer")).greet(), model, 1)


def test_knocking_with_the_id_of_a_device_that_is_gone_gets_none_of_its_answers(
    start, connect, attacker, model, make_bundle, tmp_path
):
    slow = make_bundle(tmp_path / "slow", 2, middle=6)
    server = start(threads=1, bundles=[str(model.bundle.root), str(slow.root)])
    thief_keys = server.new_keys("thief")
    victim = connect(server, server.new_keys("victim")).greet()
    for request_id in range(8):
        request = model.request(request_id, bundle=slow.identity)
        victim.session.submit(
            request, memoryview(model.features(model.frame(1))).cast("B"), due_at_s=time.monotonic() + 60
        )
    victim.pump(lambda: all(victim.session.acked_bytes(n) == TOTAL or victim.ending(n) for n in range(8)))
    victim.close()
    thieves = [attacker(server, thief_keys, routing_id=number(count)) for count in range(4)]
    assert [message for message in hear(thieves, 3.0) if isinstance(message, wire.Answer)] == []
    for thief in thieves:
        thief.socket.send(HELLO)
    assert [type(message) for message in hear(thieves, 1.0)] == [wire.Welcome] * len(thieves)  # by ids of ours


def test_nobody_keeps_the_id_it_asked_for_however_busy_the_machine(start, attacker):
    """libzmq takes the peer's id where our reply is there before its I/O thread has gone on."""
    server = start()
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    try:
        for turn in range(15):
            keys = server.new_keys(f"attacker{turn}")
            hurried = [attacker(server, keys, routing_id=b"chosen") for _ in range(16)]
            for device in hurried:
                device.socket.send(HELLO)
            for device in hurried:
                assert device.socket.poll(20_000)
                device.close()
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    server.wait(lambda status: status.counters.peers_seen >= 15)
    assert server.status().counters.strays == 0


# --- messages without measure ----------------------------------------------------------------------------------


def test_a_message_of_too_many_frames_ends_the_connection_and_no_other(start, connect, attacker, model):
    server = start()
    polite = connect(server, server.new_keys("polite")).greet()
    hostile = attacker(server, server.new_keys("attacker")).greet()
    for _ in range(13):
        hostile.socket.send_multipart([b"x"] * 100_000, zmq.DONTWAIT)
    hostile.pump(lambda: "DISCONNECTED" in hostile.monitored)
    assert answers(polite, model, 1)
    assert "DISCONNECTED" not in polite.monitored
    assert server.wait(lambda status: status.peers == 1).counters.ended == {"frames": 1}
    hostile.monitored.clear()
    settle([hostile], 3.0)
    assert "HANDSHAKE_SUCCEEDED" not in hostile.monitored  # it waits outside


def test_three_frames_are_too_many_for_one_device_whose_other_connections_end_too(start, connect, attacker):
    server = start()
    keys = server.new_keys("attacker")
    first, second = attacker(server, keys).greet(), connect(server, keys, boot_id="other").greet()
    first.socket.send_multipart([HELLO, b"", b""])
    for device in (first, second):
        device.pump(lambda device=device: "DISCONNECTED" in device.monitored)


def test_a_message_that_does_not_end_is_not_kept_in_memory(start, connect, attacker, model):
    server = start()
    polite = connect(server, server.new_keys("polite")).greet()
    hostile = attacker(server, server.new_keys("attacker")).greet()
    process = psutil.Process(server.process.pid)
    before, most = process.memory_info().rss, 0
    chunk = zmq.Frame(bytes(60_000))
    hostile.socket.send_multipart([chunk] * 25_000, zmq.DONTWAIT, copy=False)  # 1.5 GB

    def ended():
        nonlocal most
        most = max(most, process.memory_info().rss - before)
        return "DISCONNECTED" in hostile.monitored

    hostile.pump(ended)
    assert most < 1 << 30
    assert answers(polite, model, 1)


@pytest.mark.parametrize("limits", [{"limits_device_messages_per_s": 1000}, {"limits_device_gateway_percent": 1}])
def test_who_ignores_acknowledgements_and_budget_is_cut_off(start, connect, attacker, model, limits):
    server = start(**limits)
    polite = connect(server, server.new_keys("polite")).greet()
    hostile = attacker(server, server.new_keys("attacker")).greet()
    hostile.socket.sndhwm = 0
    end_s = time.monotonic() + 20.0
    while "DISCONNECTED" not in hostile.monitored:
        assert time.monotonic() < end_s
        for _ in range(500):
            hostile.socket.send(b"\xc1", zmq.DONTWAIT)
        hostile.step()
        if polite.session.open_probes == 0:
            polite.session.probe(0)
        polite.step()
    assert answers(polite, model, 1)
    assert "DISCONNECTED" not in polite.monitored
    assert list(server.wait(lambda status: status.counters.ended).counters.ended) == ["budget"]


def test_who_waits_for_acknowledgements_is_slowed_to_its_budget_and_never_cut_off(start, connect):
    server = start(limits_device_messages_per_s=1000)
    device = connect(server, server.new_keys("eager")).greet()
    pings = 0
    while pings < 4000:
        while device.session.open_probes < 4:
            device.session.probe(0)
            pings += 1
        device.pump(lambda: device.session.open_probes < 4)
    device.pump(lambda: device.session.open_probes == 0)
    assert "DISCONNECTED" not in device.monitored
    assert server.status().counters.ended == {}


# --- keys that are revoked -------------------------------------------------------------------------------------


def test_a_key_revoked_just_before_somebody_else_connects_loses_its_connections(start, connect, attacker):
    """The list is then read for a handshake first."""
    server = start()
    attacker(server, server.new_keys("attacker")).greet()
    late = server.new_keys("late")
    allow_list.revoke(server.devices, "attacker")
    connect(server, late).greet()
    assert server.wait(lambda status: status.peers == 1).counters.ended == {"revoked": 1}


def test_a_revoked_key_loses_its_connections(start, connect, attacker, model):
    server = start()
    polite = connect(server, server.new_keys("polite")).greet()
    keys = server.new_keys("attacker")
    hostile = [attacker(server, keys, boot_id=f"boot {n}") for n in range(3)]
    for device in hostile:
        device.greet()
    allow_list.revoke(server.devices, "attacker")
    for device in hostile:
        device.pump(lambda device=device: "DISCONNECTED" in device.monitored)
        assert device.ending(None).code == "revoked"  # it was told why
        device.pump(lambda device=device: "HANDSHAKE_FAILED_AUTH" in device.monitored)
    assert answers(polite, model, 1)
    assert server.wait(lambda status: status.peers == 1).counters.ended == {"revoked": 3}


# --- connections that take room --------------------------------------------------------------------------------


@pytest.mark.parametrize("says", [b"", wire.encode(wire.Cancel(request_id=1))])
def test_a_connection_without_a_hello_is_ended(shared_server, connect, attacker, says):
    silent = attacker(shared_server, shared_server.new_keys(f"silent{len(says)}"))
    watch(silent, "HANDSHAKE_SUCCEEDED")
    polite = connect(shared_server, shared_server.new_keys(f"polite{len(says)}")).greet()
    if says:
        silent.socket.send(says)
    watch(silent, "DISCONNECTED")
    polite.step()
    assert "DISCONNECTED" not in polite.monitored


def test_strangers_who_connect_and_say_nothing_keep_nobody_out(start, connect, model):
    """Of 1,500 connections a third stays open: descriptors are left for those who know the way in."""
    server = start()
    polite = connect(server, server.new_keys("polite")).greet()
    process = psutil.Process(server.process.pid)
    before = process.num_fds()
    port = int(server.endpoint.rpartition(":")[2])
    with contextlib.ExitStack() as flood:
        for count in range(1, 1501):
            flood.enter_context(socket.create_connection(("127.0.0.1", port)))
            if count % 500 == 0:
                assert answers(connect(server, server.new_keys(f"newcomer{count}")).greet(), model, 1)
        server.wait(lambda status: status.counters.ended.get("crowded", 0) > 0)
        assert process.num_fds() - before < 700
        assert answers(polite, model, 1)


def test_a_storm_of_handshakes_keeps_nobody_else_out(start, connect, attacker, model):
    server = start()
    keys = server.new_keys("attacker")
    began_s = time.monotonic()
    storm = [attacker(server, keys) for _ in range(80)]
    polite = connect(server, server.new_keys("polite")).greet()
    assert answers(polite, model, 1)
    settle(storm, 2.0)
    admitted = sum("HANDSHAKE_SUCCEEDED" in device.monitored for device in storm)
    elapsed_s = time.monotonic() - began_s
    assert 1 <= admitted <= HANDSHAKE_BURST + HANDSHAKES_PER_S * elapsed_s
    server.wait(lambda status: status.counters.delayed > 0)
    before = admitted
    end_s = time.monotonic() + 20.0
    while sum("HANDSHAKE_SUCCEEDED" in device.monitored for device in storm) <= before:  # ... nor itself for good
        assert time.monotonic() < end_s
        settle(storm, 0.5)
