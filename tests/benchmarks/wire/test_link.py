"""The emulated link over real sockets: what is sent arrives, shaped, both ways, and failures pass through."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import ROOT
from benchmarks.wire.shaper import Link
from benchmarks.wire.traces import Trace, constant

TRACES = ROOT / "benchmarks" / "traces"
PATIENCE_S = 20


class Joined:
    """A device's socket and the server's, with the link between them."""

    def __init__(self, link: Link, listener: socket.socket) -> None:
        self.link = link
        self.listener = listener
        self.device, self.server = self.connect()

    def connect(self) -> tuple[socket.socket, socket.socket]:
        device = socket.create_connection(self.link.address, timeout=PATIENCE_S)
        server, _ = self.listener.accept()
        server.settimeout(PATIENCE_S)
        return device, server


@contextlib.contextmanager
def joined(uplink: Trace, **options) -> Iterator[Joined]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE_S)
        with Link(listener.getsockname(), uplink, **options) as link:
            pair = Joined(link, listener)
            with pair.device, pair.server:
                yield pair


def receive(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (part := sock.recv(size - len(data))):
        data += part
    return bytes(data)


def flood(sock: socket.socket) -> threading.Thread:
    def send() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock.sendall(bytes(65_536))

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


def bytes_within(sock: socket.socket, link: Link, until_s: float) -> int:
    """Count what arrives until the link's own clock says ``until_s``."""
    total = 0
    sock.settimeout(0.01)
    while link.now_s() < until_s:
        with contextlib.suppress(TimeoutError):
            total += len(sock.recv(65_536))
    return total


@pytest.fixture(scope="module")
def fast() -> Iterator[Joined]:
    with joined(constant(200), downlink_mbit_s=200, delay_s=0.001) as pair:
        yield pair


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 60_000), min_size=1, max_size=5), up=st.booleans())
def test_bytes_arrive_intact_and_in_order_both_ways(fast, sizes, up):
    sender, receiver = (fast.device, fast.server) if up else (fast.server, fast.device)
    sent = b"".join((i.to_bytes(4, "big") * (size // 4 + 1))[:size] for i, size in enumerate(sizes))
    thread = threading.Thread(target=sender.sendall, args=(sent,))
    thread.start()
    assert receive(receiver, len(sent)) == sent
    thread.join()


@pytest.mark.parametrize("rate", [0.5, 8.0])
def test_flooded_uplink_delivers_its_rate(rate):
    with joined(constant(rate)) as pair:
        flood(pair.device)
        receive(pair.server, 1)
        begin_s, before = pair.link.now_s(), pair.link.counters()["uplink_bytes"]
        bytes_within(pair.server, pair.link, begin_s + 1.5)
        took_s, sent = pair.link.now_s() - begin_s, pair.link.counters()["uplink_bytes"] - before
        assert sent * 8 / 1e6 / took_s == pytest.approx(rate, rel=0.1)


def test_connections_share_one_uplink():
    with joined(constant(4.0)) as pair:
        second, far = pair.connect()
        with second, far:
            for sock in (pair.device, second):
                flood(sock)
            receive(pair.server, 1)
            begin_s = pair.link.now_s()
            counts = [0, 0]
            for part in range(20):
                for i, sock in enumerate((pair.server, far)):
                    counts[i] += bytes_within(sock, pair.link, begin_s + (2 * part + i + 1) * 0.04)
            assert sum(counts) * 8 / 1e6 / (pair.link.now_s() - begin_s) < 4.0 * 1.25
            assert min(counts) > 0.25 * max(counts)


def test_trace_steps_are_felt():
    steps = Trace(edges_s=(0.0, 0.5, 1.0, 30.0), mbit_s=(8.0, 0.0, 1.0), loop=False)
    with joined(steps, delay_s=0.0) as pair:
        flood(pair.device)
        pair.link.set_epoch(time.monotonic())
        fast_bytes = bytes_within(pair.server, pair.link, 0.5)
        bytes_within(pair.server, pair.link, 0.6)  # what the kernel still had
        none = bytes_within(pair.server, pair.link, 1.0)
        slow_bytes = bytes_within(pair.server, pair.link, 2.0)
        assert none < 0.01 * fast_bytes
        assert 0 < slow_bytes < 0.5 * fast_bytes


def test_sender_feels_back_pressure():
    with joined(constant(0.1)) as pair:
        pair.device.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        pair.device.settimeout(0.3)
        accepted = 0
        with contextlib.suppress(TimeoutError):
            while accepted < 1_000_000:
                accepted += pair.device.send(bytes(4096))
        assert accepted < 200_000


def test_cut_holds_everything_and_restore_delivers_it():
    with joined(constant(20)) as pair:
        pair.device.sendall(b"before")
        assert receive(pair.server, 6) == b"before"
        pair.link.cut()
        time.sleep(0.05)
        pair.device.sendall(b"up")
        pair.server.sendall(b"down")
        pair.server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            pair.server.recv(1)
        pair.link.restore()
        pair.server.settimeout(PATIENCE_S)
        assert receive(pair.server, 2) == b"up"
        assert receive(pair.device, 4) == b"down"


def test_time_in_a_cut_is_not_made_up_for():
    with joined(constant(0.5)) as pair:
        flood(pair.device)
        receive(pair.server, 1)
        pair.link.cut()
        time.sleep(0.6)
        bytes_within(pair.server, pair.link, pair.link.now_s() + 0.05)  # what the kernel still had
        pair.link.restore()
        begin_s, before = pair.link.now_s(), pair.link.counters()["uplink_bytes"]
        bytes_within(pair.server, pair.link, begin_s + 0.3)
        took_s, sent = pair.link.now_s() - begin_s, pair.link.counters()["uplink_bytes"] - before
        assert sent * 8 / 1e6 / took_s < 0.5 * 1.4


def test_close_follows_the_data():
    with joined(constant(2)) as pair:
        pair.device.sendall(bytes(30_000))
        pair.device.shutdown(socket.SHUT_WR)
        assert len(receive(pair.server, 10**6)) == 30_000  # then the end of the stream
        pair.server.sendall(b"late answer")
        pair.server.close()
        assert receive(pair.device, 100) == b"late answer"


def test_reset_reaches_the_other_side():
    with joined(constant(20)) as pair:
        pair.device.sendall(b"x")
        receive(pair.server, 1)
        pair.device.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        pair.device.close()
        with pytest.raises(ConnectionResetError):
            pair.server.recv(1)


def visit(link: Link) -> bytes:
    with socket.create_connection(link.address, timeout=PATIENCE_S) as device:
        return device.recv(1)


def test_server_that_is_not_there_refuses_and_may_come_later(unused_port):
    with Link(("127.0.0.1", unused_port), constant(20)) as link:
        with pytest.raises(ConnectionResetError):
            visit(link)
        with socket.create_server(("127.0.0.1", unused_port)) as listener:
            pair = Joined(link, listener)
            with pair.device, pair.server:
                pair.device.sendall(b"hello")
                assert receive(pair.server, 5) == b"hello"


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.wire.link", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_command_says_where_it_listens_and_what_it_carried():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE_S)
        trace = TRACES / "tmobile-lte.csv"
        with start("--trace", str(trace), "--upstream", f"127.0.0.1:{listener.getsockname()[1]}") as process:
            ready = json.loads(process.stdout.readline())
            process.send_signal(signal.SIGUSR1)
            with socket.create_connection(("127.0.0.1", ready["port"]), timeout=PATIENCE_S) as device:
                device.sendall(b"abc")
                server, _ = listener.accept()
                with server:
                    server.settimeout(PATIENCE_S)
                    assert receive(server, 3) == b"abc"
                    process.send_signal(signal.SIGUSR2)
                    time.sleep(0.1)
                    device.sendall(b"held")
                    server.settimeout(0.2)
                    with pytest.raises(TimeoutError):
                        server.recv(1)
                    process.send_signal(signal.SIGUSR2)
                    server.settimeout(PATIENCE_S)
                    assert receive(server, 4) == b"held"
            process.terminate()
            end = json.loads(process.stdout.read())
            assert process.wait() == os.EX_OK
            assert end["uplink_bytes"] == 7
            assert ready["trace"] == "tmobile-lte"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--trace", "nowhere.csv", "--upstream", "127.0.0.1:1"], os.EX_NOINPUT),
        (["--rate-mbit", "0", "--upstream", "127.0.0.1:1"], os.EX_USAGE),
        (["--rate-mbit", "1", "--upstream", "here"], os.EX_USAGE),
    ],
)
def test_command_refuses_in_one_line(arguments, code):
    with start(*arguments) as process:
        _, complaint = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == code
        assert complaint.startswith("link: ")
        assert complaint.count("\n") == 1
