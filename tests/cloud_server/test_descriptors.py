"""Ending connections by descriptor: the right one, and only while the descriptor is still that one's."""

from __future__ import annotations

import os
import resource
import socket
from contextlib import closing, suppress
from pathlib import Path

import pytest
import zmq

from cloud_server.descriptors import ConnectionMonitor, Descriptors, IoBarrier


@pytest.fixture
def descriptors():
    with closing(Descriptors()) as made:
        yield made


@pytest.fixture
def pair():
    """Both ends of a TCP connection: ours, and the other one."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname(), timeout=5.0) as far,
        listener.accept()[0] as near,
    ):
        yield near, far


def test_the_other_end_sees_the_connection_end_and_our_descriptor_stays_ours(descriptors, pair):
    near, far = pair
    address = descriptors.address_of(near.fileno())
    assert address == far.getsockname()
    descriptors.shut(near.fileno(), address)
    assert far.recv(1) == b""
    assert os.fstat(near.fileno())


def test_a_connection_to_another_address_is_left_alone(descriptors, pair):
    near, far = pair
    descriptors.shut(near.fileno(), ("127.0.0.1", 1))
    far.sendall(b"x")
    assert near.recv(1) == b"x"


def test_received_bytes_are_counted_whether_read_or_not(descriptors, pair):
    near, far = pair
    far.sendall(b"x" * 1000)
    assert near.recv(1000, socket.MSG_PEEK | socket.MSG_WAITALL)
    assert descriptors.received_bytes(near.fileno(), far.getsockname()) == 1000
    assert descriptors.received_bytes(near.fileno(), ("127.0.0.1", 1)) is None


def test_a_number_that_is_free_or_a_files_is_no_connection(descriptors, tmp_path):
    with (tmp_path / "file").open("wb") as file:
        number = file.fileno()
        assert descriptors.address_of(number) is None
        descriptors.shut(number, None)
        file.write(b"still open")
    assert descriptors.address_of(number) is None
    assert (tmp_path / "file").read_bytes() == b"still open"


def test_a_connection_can_be_ended_when_no_descriptor_is_left(descriptors, pair):
    near, far = pair
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.dup(near.fileno())]
    try:
        limit = 64 + max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        with suppress(OSError):
            for _ in range(limit):
                taken.append(os.dup(near.fileno()))  # noqa: PERF401  (so that each is closed)
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(near.fileno())
        descriptors.shut(near.fileno(), descriptors.address_of(near.fileno()))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)
    assert far.recv(1) == b""


def test_the_monitor_tells_of_connections_in_their_order():
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        monitor = ConnectionMonitor(context, router)
        router.bind("tcp://127.0.0.1:*")
        port = int(router.last_endpoint.rsplit(b":", 1)[1])
        with socket.create_connection(("127.0.0.1", port)):
            assert monitor.socket.poll(5000)
            ((fd, opened),) = monitor.take()
            assert opened
        assert monitor.socket.poll(5000)
        assert list(monitor.take()) == [(fd, False)]
        router.disable_monitor()
        monitor.socket.close()


def test_the_barrier_is_passed_once_for_each_time_it_is_raised():
    with zmq.Context(io_threads=1) as context:
        barrier = IoBarrier(context)
        for _ in range(3):
            assert barrier.passed()
            barrier.raise_()
            assert barrier.socket.poll(5000)
        assert barrier.passed()
        context.destroy(linger=0)
