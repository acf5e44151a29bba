"""Waiting for messages and everything else: nothing is missed."""

from __future__ import annotations

import os

import pytest
import zmq

from cloud_server.wakeup import Wakeup

LONG_S = 20.0


@pytest.fixture
def rig():
    """A socket for messages, another one, and the two that send to them; a pipe; and what waits for all."""
    context = zmq.Context()
    sockets = [context.socket(zmq.PAIR) for _ in range(4)]
    for number, (near, far) in enumerate(zip(sockets[::2], sockets[1::2], strict=True)):
        near.bind(f"inproc://{number}")
        far.connect(f"inproc://{number}")
    readable, writable = os.pipe()
    busy, to_busy, other, to_other = sockets
    wakeup = Wakeup(busy, [other], [readable])
    while wakeup.wait(0.0):  # what connecting left behind
        pass
    yield wakeup, busy, to_busy, other, to_other, readable, writable
    wakeup.close()
    os.close(readable)
    os.close(writable)
    context.destroy(linger=0)


def test_each_source_wakes_the_one_that_waits(rig):
    wakeup, busy, to_busy, other, to_other, readable, writable = rig
    to_busy.send(b"message")
    assert busy in wakeup.wait(LONG_S)
    busy.recv()
    to_other.send(b"message")
    while other not in (ready := wakeup.wait(LONG_S)):
        assert not ready - {busy}
    other.recv()
    os.write(writable, b"\0")
    while readable not in (ready := wakeup.wait(LONG_S)):
        assert not ready - {busy}


def test_a_source_that_stays_ready_is_told_each_time(rig):
    wakeup, busy, to_busy, other, to_other, *_ = rig
    to_other.send(b"message")
    for _ in range(3):
        assert other in wakeup.wait(LONG_S)
    to_busy.send(b"message")
    while busy not in wakeup.wait(LONG_S):
        pass
