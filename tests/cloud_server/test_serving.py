"""Devices and the server as processes on real, encrypted sockets."""

from __future__ import annotations

import dataclasses
import re
import socket
import time
from contextlib import ExitStack, suppress

import msgspec
import numpy as np
import psutil
import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from cloud_server import allow_list
from split_model.protocol import messages as wire
from split_model.protocol.chunks import BURST_BYTES
from split_model.protocol.device import Answered, Refused
from split_model.protocol.device_states import State
from split_model.protocol.keys import KeyPair

TOTAL = 4 * 2048


def refusal(frames):
    message = wire.decode_from_server(frames[0])
    assert isinstance(message, wire.Refusal), message
    return message


def test_an_idle_server_sleeps_though_its_status_is_written_beside_the_list_of_devices(start):
    """The kernel tells of every change in that folder. Told and not taken, that kept half a core busy."""
    server = start()
    process = psutil.Process(server.process.pid)
    first = server.status()
    server.wait(lambda status: status != first)
    before, began_s = process.cpu_times(), time.monotonic()
    time.sleep(3.0)
    after, passed_s = process.cpu_times(), time.monotonic() - began_s
    assert (after.user + after.system - before.user - before.system) / passed_s < 0.1


# --- connections -----------------------------------------------------------------------------------------------


def test_a_connection_that_was_closed_does_not_count_against_its_device(start, connect, model):
    """As six quick reloads, or five runs of doctor, make them: more than a device may have at a time."""
    server = start()
    keys = server.new_keys("busy")
    stays = connect(server, keys, boot_id="stays").greet()
    for turn in range(10):
        device = connect(server, keys, boot_id=f"boot {turn}").greet()
        assert isinstance(
            device.ask(model.request(1, boot_id=f"boot {turn}"), model.features(model.frame(1))), Answered
        )
        device.close()
    assert server.status().counters.refused.get("busy", 0) == 0
    assert isinstance(stays.ask(model.request(1, boot_id="stays"), model.features(model.frame(1))), Answered)
    server.wait(lambda status: status.peers == 1)


def test_connections_that_are_open_still_count(start, connect):
    server = start()
    keys = server.new_keys("many")
    held = [connect(server, keys, boot_id=f"boot {turn}").greet() for turn in range(4)]
    fifth = connect(server, keys, boot_id="one more")
    fifth.pump(lambda: fifth.ending(None) is not None)
    assert "the limit" in fifth.ending(None).text
    held[0].close()
    server.wait(lambda status: status.peers == 3)


# --- answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 1])
def test_the_answer_is_that_of_the_whole_model_bit_for_bit(shared_server, connect, model, cut):
    device = connect(shared_server, shared_server.new_keys(f"bitwise{cut}")).greet()
    for number in range(3):
        frame = model.frame(number)
        sent = model.features(frame) if cut else frame
        answer = device.ask(model.request(number, cut=cut, total_bytes=sent.nbytes), sent)
        assert isinstance(answer, Answered)
        assert [(t.dtype, t.shape) for t in answer.answer.tensors] == [("float32", (1, 10))]
        assert bytes(answer.payload) == model.whole(frame).tobytes()
        assert answer.answer.timed_bytes == (
            TOTAL - BURST_BYTES if cut else 0
        )  # all but what a burst may let through
        assert answer.answer.tail_s > 0


def test_a_noise_release_is_undone_before_the_tail(shared_server, connect, model):
    device = connect(shared_server, shared_server.new_keys("noise")).greet()
    frame = model.frame(1)
    release, payload = model.noise(model.features(frame), epsilon=1000.0)
    answer = device.ask(model.request(1, release=release, total_bytes=payload.nbytes), payload)
    assert isinstance(answer, Answered), answer
    np.testing.assert_allclose(np.frombuffer(answer.payload, np.float32), model.whole(frame)[0], atol=0.2)


def test_two_devices_at_once_get_their_own_answers(shared_server, connect, model):
    devices = [connect(shared_server, shared_server.new_keys(f"pair{n}")).greet() for n in range(2)]
    frames = [[model.frame(100 * which + number) for number in range(4)] for which in range(2)]
    for which, device in enumerate(devices):
        for number, frame in enumerate(frames[which]):
            sent = memoryview(model.features(frame)).cast("B")
            device.session.submit(model.request(number), sent, due_at_s=time.monotonic() + 60)
    for which, device in enumerate(devices):
        device.pump(lambda device=device: device.session.open_requests == 0)
        for number, frame in enumerate(frames[which]):
            ending = device.ending(number)
            assert isinstance(ending, Answered), ending
            assert bytes(ending.payload) == model.whole(frame).tobytes()


def test_probes_come_back(shared_server, connect):
    device = connect(shared_server, shared_server.new_keys("probe")).greet()
    device.session.probe(0)
    device.session.probe(40_000)
    device.pump(lambda: device.session.open_probes == 0)
    assert [event.total_bytes for event in device.events[1:]] == [0, 40_000]


# --- access ----------------------------------------------------------------------------------------------------


def test_an_unknown_device_is_refused_and_let_in_as_soon_as_it_is_allowed(shared_server, connect):
    keys = KeyPair(*zmq.curve_keypair())
    stranger = connect(shared_server, keys)
    stranger.pump(lambda: "HANDSHAKE_FAILED_AUTH" in stranger.monitored)
    shared_server.wait(lambda status: keys.public.decode() in status.refused_keys)
    allow_list.allow(shared_server.devices, "newcomer", keys.public.decode())
    connect(shared_server, keys).greet()
    assert stranger.session.state is State.CLOSED
    shared_server.wait(lambda status: keys.public.decode() not in status.refused_keys)


def test_a_device_revoked_in_mid_connection_is_refused_at_its_next_request(shared_server, connect, model):
    device = connect(shared_server, shared_server.new_keys("revoked")).greet()
    sent = model.features(model.frame(1))
    assert isinstance(device.ask(model.request(1), sent), Answered)
    allow_list.revoke(shared_server.devices, "revoked")
    ending = device.ask(model.request(2), sent)
    assert isinstance(ending, Refused)
    assert ending.code == "revoked"
    # ... and works on once it is allowed again
    allow_list.allow(shared_server.devices, "forgiven", device.keys.public.decode())
    again = connect(shared_server, device.keys).greet()
    assert isinstance(again.ask(model.request(3), sent), Answered)


@pytest.mark.parametrize("mechanism", ["NULL", "PLAIN"])
def test_a_peer_without_curve_gets_nowhere(shared_server, mechanism):
    with ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        client = stack.enter_context(context.socket(zmq.DEALER))
        client.linger = 0
        if mechanism == "PLAIN":
            client.plain_username = client.plain_password = b"device"
        monitor = stack.enter_context(
            client.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
        )
        client.connect(shared_server.endpoint)
        client.send(wire.encode(wire.Hello(versions=(1,), boot_id="b", software="t")))
        assert monitor.poll(20_000)
        assert recv_monitor_message(monitor)["event"] == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        client.disable_monitor()


def test_the_wrong_server_key_gets_nowhere(shared_server, connect):
    misled_about = dataclasses.replace(shared_server, public_key=zmq.curve_keypair()[0])
    misled = connect(misled_about, shared_server.new_keys("misled"))
    misled.pump(lambda: any(event in ("DISCONNECTED", "HANDSHAKE_FAILED_NO_DETAIL") for event in misled.monitored))
    assert misled.session.welcome is None


def test_a_flood_from_strangers_is_not_kept_in_memory(shared_server, connect, model):
    """Unauthenticated peers announce a large frame and send on; without a bound the server would hold it all."""
    process = psutil.Process(shared_server.process.pid)
    host, port = shared_server.endpoint.removeprefix("tcp://").split(":")
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0") + b"\0" + bytes(31)
    frame = b"\x06" + (256 << 20).to_bytes(8, "big")  # a long command frame
    before = process.memory_info().rss
    with ExitStack() as stack:
        for _ in range(4):
            flood = stack.enter_context(socket.create_connection((host, int(port)), timeout=2.0))
            with suppress(TimeoutError, ConnectionError):  # which is what a bounded server does to it
                flood.sendall(greeting + frame)
                for _ in range(256):
                    flood.sendall(bytes(1 << 16))
        assert process.memory_info().rss - before < 8 << 20
    device = connect(shared_server, shared_server.new_keys("after-the-flood")).greet()
    sent_features = model.features(model.frame(1))
    assert isinstance(device.ask(model.request(1), sent_features), Answered)


# --- messages that are wrong -----------------------------------------------------------------------------------


def test_malformed_messages_are_answered_and_survived(shared_server, connect, model):
    device = connect(shared_server, shared_server.new_keys("malformed")).greet()
    for frames in (
        [b""],
        [b"\xc1"],
        [b"\x93\xa5hello" + bytes(500)],
        [wire.encode(wire.Probe(probe_id=1, offset=0, total_bytes=8))],
        [wire.encode(wire.Probe(probe_id=1, offset=5, total_bytes=8)), b"abc"],
    ):
        found = refusal(device.raw(*frames))
        assert (found.code, found.request_id) == ("protocol", None)
    for frames in (
        [wire.encode(model.request(7))],
        [wire.encode(model.request(7)), bytes(TOTAL + 1)],
    ):
        found = refusal(device.raw(*frames))
        assert (found.code, found.request_id) == ("protocol", 7)
    assert isinstance(device.ask(model.request(8), model.features(model.frame(1))), Answered)


def test_a_request_of_a_kind_unknown_here_is_refused_by_its_number_and_the_others_are_answered(
    shared_server, connect, model
):
    """A device of a newer version, with a release that this server has never heard of at one of its cuts."""
    device = connect(shared_server, shared_server.new_keys("newer")).greet()
    features = model.features(model.frame(1)).tobytes()
    half = len(features) // 2
    device.raw(wire.encode(model.request(1)), features[:half])
    newer = msgspec.msgpack.decode(wire.encode(model.request(2)))
    newer[6] = {"type": "homomorphic"}
    found = refusal(device.raw(msgspec.msgpack.encode(newer), bytes(9)))
    assert (found.code, found.request_id) == ("protocol", 2)
    device.socket.send_multipart([wire.encode(wire.Chunk(request_id=1, offset=half)), features[half:]])
    answer = device.next_but_acks()
    assert isinstance(answer, wire.Answer)
    assert answer.request_id == 1


def test_a_chunk_over_the_limit_ends_the_connection_not_the_server(shared_server, connect, model):
    device = connect(shared_server, shared_server.new_keys("oversize")).greet()
    device.socket.send_multipart([wire.encode(model.request(1)), bytes(1 << 20)])
    device.pump(lambda: "DISCONNECTED" in device.monitored)
    device.pump(lambda: device.session.state is State.READY)  # it comes back by itself
    assert isinstance(device.ask(model.request(2), model.features(model.frame(1))), Answered)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"bundle": "0" * 64}, "unknown_bundle"),
        ({"cut": 7}, "unknown_cut"),
        ({"total_bytes": TOTAL - 4}, "size"),
        ({"total_bytes": 1 << 39}, "too_large"),
        ({"version": 9}, "version"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_with_the_reason(shared_server, connect, model, changes, code):
    device = connect(shared_server, shared_server.new_keys(f"misfit-{code}")).greet()
    found = refusal(device.raw(wire.encode(model.request(5, **changes)), bytes(1024)))
    assert (found.code, found.request_id) == (code, 5)
    assert found.text
    assert isinstance(device.ask(model.request(6), model.features(model.frame(1))), Answered)


def test_a_noise_plan_that_differs_is_refused(shared_server, connect, model):
    device = connect(shared_server, shared_server.new_keys("misplanned")).greet()
    release, payload = model.noise(model.features(model.frame(1)), epsilon=16.0)
    other = wire.Noise(spec=release.spec, digest="f" * 16)
    ending = device.ask(model.request(1, release=other, total_bytes=payload.nbytes), payload)
    assert isinstance(ending, Refused)
    assert ending.code == "unknown_release"


def test_no_common_version_is_said_in_words(shared_server, connect):
    device = connect(shared_server, shared_server.new_keys("future"))
    refused = refusal(device.raw(wire.encode(wire.Hello(versions=(8, 9), boot_id="b", software="t"))))
    assert refused.code == "version"
    assert "you speak 8, 9" in refused.text


def test_who_has_not_greeted_is_asked_to(shared_server, connect, model):
    device = connect(shared_server, shared_server.new_keys("rude"))
    assert refusal(device.raw(wire.encode(model.request(1)), bytes(10))).code == "hello_first"
    assert isinstance(device.ask(model.request(2), model.features(model.frame(1))), Answered)


# --- devices that go away, queues that fill --------------------------------------------------------------------


def test_a_killed_device_leaves_nothing_behind(start, connect, model):
    server = start()
    device = connect(server, server.new_keys("mortal")).greet()
    device.raw(wire.encode(model.request(1)), bytes(1024))
    device.raw(wire.encode(model.request(2)), bytes(1024))
    device.close()
    status = server.wait(lambda status: status.counters.dropped == 2)
    assert (status.peers, status.held_bytes) == (0, 0)


def test_a_device_that_is_silent_leaves_nothing_behind(start, connect, model):
    """Its connection is open; nothing tells that it is gone."""
    server = start(peer_timeout_s=1.0)
    device = connect(server, server.new_keys("silent")).greet()
    device.raw(wire.encode(model.request(1)), bytes(1024))
    server.wait(lambda status: status.counters.peers_silent == 1)
    status = server.wait(lambda status: status.held_bytes == 0)
    assert (status.peers, status.counters.dropped) == (0, 1)


def test_a_device_back_under_the_same_boot_takes_its_place_back(start, connect, model):
    server = start()
    keys = server.new_keys("flapping")
    first = connect(server, keys).greet()
    first.raw(wire.encode(model.request(1)), bytes(1024))
    again = connect(server, keys).greet()
    assert isinstance(again.ask(model.request(1), model.features(model.frame(1))), Answered)
    status = server.wait(lambda status: status.counters.answered == 1)
    assert (status.peers, status.held_bytes, status.counters.dropped) == (1, 0, 1)


def test_an_answer_that_would_come_too_late_is_refused(shared_server, connect, model):
    device = connect(shared_server, shared_server.new_keys("hasty")).greet()
    device.socket.send_multipart([wire.encode(model.request(1, due_in_s=0.0)), bytes(1024)])  # one chunk is enough
    found = device.next_but_acks()
    assert isinstance(found, wire.Refusal)
    assert (found.code, found.request_id) == ("expired", 1)


def test_a_stopping_server_answers_what_it_has_accepted(start, connect, model):
    server = start(threads=1)
    device = connect(server, server.new_keys("last")).greet()
    sent = memoryview(model.features(model.frame(1))).cast("B")
    for number in range(4):
        device.session.submit(model.request(number), sent, due_at_s=time.monotonic() + 60)
    device.pump(lambda: all(device.session.acked_bytes(n) == TOTAL or device.ending(n) for n in range(4)))
    assert server.stop() == 0
    device.pump(lambda: device.session.open_requests == 0)
    assert all(isinstance(device.ending(number), Answered) for number in range(4))
    status = server.status()
    assert status.state == "stopped"
    assert (status.counters.requests, status.counters.answered) == (4, 4)


def test_the_log_names_the_address_the_key_and_a_refused_device(start, connect):
    server = start(preload=True)
    stranger = connect(server, KeyPair(*zmq.curve_keypair()))
    stranger.pump(lambda: "HANDSHAKE_FAILED_AUTH" in stranger.monitored)
    server.stop()
    log = server.log()
    assert f"listening on {server.endpoint}, public key {server.public_key.decode()}" in log
    assert re.search(r"refused a device; to admit it: .* '.{40}'", log)
    assert log.count("refused a device") == 1


def test_a_device_that_greets_without_end_does_not_fill_the_log(start, connect):
    server = start()
    device = connect(server, server.new_keys("chatty")).greet()
    for number in range(200):
        device.raw(wire.encode(wire.Hello(versions=(1,), boot_id=f"boot {number}", software="t" * 900)))
    server.stop()
    assert 1 <= server.log().count("says hello") <= 10
