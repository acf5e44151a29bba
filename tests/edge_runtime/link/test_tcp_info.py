"""TCP_INFO: the struct of older and newer kernels, real sockets, and a proxy that is told from a server."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.link.estimator import LinkEstimate
from edge_runtime.link.tcp_info import INFO_BYTES, TcpInfo, TcpWatch, ends_at_server, parse, refined


def info(min_rtt_s: float | None) -> TcpInfo:
    return TcpInfo(min_rtt_s, min_rtt_s, 0, 0, 0, None)


def raw(**values: int) -> bytearray:
    made = bytearray(INFO_BYTES + 64)
    for name, value in values.items():
        offset, form = {
            "snd_mss": (16, "=I"),
            "unacked": (24, "=I"),
            "rtt": (68, "=I"),
            "bytes_acked": (120, "=Q"),
            "notsent_bytes": (144, "=I"),
            "min_rtt": (148, "=I"),
            "delivery_rate": (160, "=Q"),
        }[name]
        struct.pack_into(form, made, offset, value)
    return made


FULL = raw(
    snd_mss=1448,
    unacked=3,
    rtt=42_000,
    bytes_acked=5 << 32,
    notsent_bytes=700,
    min_rtt=40_000,
    delivery_rate=125_000,
)


def test_fields_of_a_new_kernel() -> None:
    found = parse(bytes(FULL))
    assert found == TcpInfo(
        rtt_s=pytest.approx(0.042),
        min_rtt_s=pytest.approx(0.040),
        acked_bytes=5 << 32,
        notsent_bytes=700,
        unacked_bytes=3 * 1448,
        delivery_bytes_s=125_000,
    )
    assert found is not None
    assert found.waiting_bytes == 3 * 1448 + 700


def test_fields_that_an_old_kernel_does_not_have_are_none() -> None:
    found = parse(bytes(FULL[:104]))  # Linux 3.x
    assert found is not None
    assert found.rtt_s == pytest.approx(0.042)
    assert (found.acked_bytes, found.notsent_bytes, found.min_rtt_s, found.delivery_bytes_s) == (None,) * 4
    assert found.waiting_bytes == 3 * 1448


def test_nothing_measured_yet_is_none() -> None:
    found = parse(bytes(raw(min_rtt=0xFFFFFFFF)))
    assert found is not None
    assert found.rtt_s is None
    assert found.min_rtt_s is None
    assert found.delivery_bytes_s is None


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    found = parse(data)
    assert (found is None) == (len(data) < 72)
    assert found is None or found.waiting_bytes >= 0


@pytest.mark.parametrize(
    ("kernel_s", "ping_s", "ends"),
    [
        (0.040, 0.045, True),
        (0.0002, 0.003, True),  # a server in the same room
        (0.00005, 0.045, False),  # the demonstration's emulated link: the kernel sees only loopback
        (None, 0.045, False),
        (0.040, None, False),
    ],
)
def test_a_proxy_is_told_from_a_server(kernel_s: float | None, ping_s: float | None, ends: bool) -> None:
    assert ends_at_server(info(kernel_s), ping_s) is ends


def estimate(rate: float | None = 1e5, rtt_s: float | None = 0.05) -> LinkEstimate:
    return LinkEstimate(uplink_bytes_s=rate, rtt_s=rtt_s, rate_spread=0.1, age_s=0.0)


def test_the_round_trip_is_never_below_the_kernels() -> None:
    assert refined(estimate(rtt_s=0.001), info(0.040))[0].rtt_s == 0.040
    assert refined(estimate(rtt_s=0.050), info(0.040))[0].rtt_s == 0.050


def test_what_waits_in_the_socket_takes_its_time() -> None:
    waiting = TcpInfo(0.04, 0.04, 0, 15_000, 5_000, None)
    assert refined(estimate(), waiting)[1] == pytest.approx(0.2)
    assert refined(estimate(rate=None), waiting)[1] == 0.0


@pytest.mark.parametrize("seen", [None, info(None), info(0.00005)])
def test_a_proxy_or_a_kernel_that_does_not_tell_changes_nothing(seen: TcpInfo | None) -> None:
    """In particular no round trip is made up where the application has none yet."""
    for before in (estimate(), estimate(rtt_s=None), estimate(rate=None)):
        assert refined(before, seen) == (before, 0.0)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
        with near, far:
            yield near, far


def test_a_real_connection(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    watch = TcpWatch()
    assert watch.read() is None
    assert watch.attach(near.fileno(), port=near.getpeername()[1])
    near.sendall(bytes(1000))
    assert len(far.recv(1000, socket.MSG_WAITALL)) == 1000
    found = watch.read()
    assert found is not None
    assert found.min_rtt_s is not None
    assert found.min_rtt_s < 1.0
    # One that nobody reads fills the buffers, and what waits is seen.
    near.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            near.send(bytes(1 << 16))
    found = watch.read()
    assert found is not None
    assert found.waiting_bytes > 0
    watch.detach()
    assert watch.read() is None


def test_the_connection_closes_once_detached(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    watch = TcpWatch()
    assert watch.attach(near.fileno(), port=near.getpeername()[1])
    near.close()
    far.setblocking(False)
    with pytest.raises(BlockingIOError):
        far.recv(1)
    watch.detach()
    far.setblocking(True)
    assert far.recv(1) == b""


def test_a_descriptor_that_is_something_else_by_now_is_not_watched(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, _ = pair
    watch = TcpWatch()
    reading, writing = os.pipe()
    try:
        assert not watch.attach(reading, port=1)
        assert not watch.attach(near.fileno(), port=near.getpeername()[1] + 1)
    finally:
        os.close(reading)
        os.close(writing)
    assert not watch.attach(reading, port=1)
    assert watch.read() is None
