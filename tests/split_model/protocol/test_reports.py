"""Reports of devices: strict on the wire, optional for older sides, and coarse where a count may tell too much."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from split_model.errors import ProtocolError
from split_model.protocol import messages as wire
from split_model.protocol import reports
from split_model.protocol import server as protocol
from split_model.protocol.device import DeviceSession, Refused
from tests.device_reports import make_report

REPORT = make_report("a" * 64, bundle_name="efficientnet_lite0_f32", split=20, local=62, alerts=("source",))


def session(now_s: float = 0.0) -> protocol.PeerSession:
    return protocol.PeerSession(
        user_id="k", boot_id="s", offers=(), admit=lambda _: None, limits=protocol.Limits(), now_s=now_s
    )


def connected(versions: tuple[int, ...] = wire.VERSIONS) -> tuple[DeviceSession, protocol.PeerSession]:
    device, server = DeviceSession(boot_id="b", software="t", versions=versions), session()
    device.connected()
    deliver(device, server)
    return device, server


def deliver(device: DeviceSession, server: protocol.PeerSession) -> list[protocol.Event]:
    """Everything that the device has to send, and the server's replies."""
    found: list[protocol.Event] = []
    while (frames := device.next_message(0.0)) is not None:
        replies, events = server.receive([memoryview(part) for part in frames if part is not None], 0.0)
        found += events
        for reply in replies:
            device.receive([memoryview(wire.encode(reply))], 0.0)
    return found


def test_a_report_is_a_few_hundred_bytes_and_arrives_as_it_was():
    device, server = connected()
    assert device.report(REPORT)
    assert deliver(device, server) == [protocol.Reported(REPORT)]
    assert len(wire.encode(REPORT)) < 500


@pytest.mark.parametrize("versions", [(1,), (2, 1)])
def test_an_older_side_neither_sends_nor_takes_reports(versions):
    device, server = connected(versions)
    assert not device.report(REPORT)
    assert deliver(device, server) == []
    replies, events = server.receive([memoryview(wire.encode(REPORT))], 0.0)
    assert events == []
    assert isinstance(replies[0], wire.Refusal)
    assert replies[0].code == "protocol"


def test_of_reports_that_wait_for_the_socket_the_last_one_is_sent():
    device, server = connected()
    newer = msgspec.structs.replace(REPORT, uptime_s=3700.0)
    device.report(REPORT)
    device.report(newer)
    assert deliver(device, server) == [protocol.Reported(newer)]


def test_a_report_of_before_a_lost_connection_is_not_sent_on_the_next_one():
    device, _ = connected()
    device.report(REPORT)
    device.disconnected()
    device.connected()
    assert not [event for event in deliver(device, session()) if isinstance(event, protocol.Reported)]


def test_nothing_is_told_before_the_welcome():
    device = DeviceSession(boot_id="b", software="t")
    assert not device.report(REPORT)
    device.connected()
    assert not device.report(REPORT)


@pytest.mark.parametrize(
    "changes",
    [
        {"period_s": 0.0},
        {"period_s": math.nan},
        {"uptime_s": math.inf},
        {"uptime_s": -1.0},
        {"software": "x" * 65},
        {"bundle": "a" * 63},
        {"bundle_name": "x" * 65},
        {"split": -1},
        {"split": 1 << 60},
        {"agreement": 1.5},
        {"expected_s": math.nan},
        {"alerts": ("fire",)},
        {"alerts": ("source",) * 9},
        {"board": reports.BoardReport(load=math.nan, temperature_c=None, throttled=None)},
        {"board": reports.BoardReport(load=1.0, temperature_c=201, throttled=None)},
        {"moved": reports.Moved(ago_s=0.0, split_from=0, split_to=1, why="x" * 121)},
        {"link": reports.LinkReport(uplink_mbit_s=math.inf, rtt_s=None, queue_s=0.0, reconnects=0)},
    ],
    ids=str,
)
def test_what_is_out_of_bounds_is_refused_and_the_connection_goes_on(changes):
    device, server = connected()
    header = wire.encode(msgspec.structs.replace(REPORT, **changes))
    replies, events = server.receive([memoryview(header)], 0.0)
    assert events == []
    assert [reply.code for reply in replies if isinstance(reply, wire.Refusal)] == ["protocol"]
    assert not [
        event
        for event in device.receive([memoryview(wire.encode(replies[0]))], 0.0)
        if not isinstance(event, Refused)
    ]
    device.report(REPORT)
    assert deliver(device, server) == [protocol.Reported(REPORT)]


@given(st.binary(max_size=64), st.integers(0, 20))
def test_a_report_that_is_damaged_anywhere_is_a_report_or_a_refusal(noise, at):
    header = bytearray(wire.encode(REPORT))
    header[at * 20 : at * 20 + len(noise)] = noise
    try:
        wire.decode_from_device(bytes(header))
    except ProtocolError:
        return


@given(st.integers(0, 1 << 53))
def test_a_coarse_count_is_at_most_a_third_too_low_and_never_too_high(count):
    told = reports.coarse(count)
    assert told <= count <= told + told // 2
    assert reports.coarse(told) == told


def test_a_coarse_count_changes_twice_while_it_doubles():
    assert len({reports.coarse(count) for count in range(1024, 2048)}) == 2
