"""The link thread on real sockets, and a server that does what it likes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import zmq

from edge_runtime.link.link_thread import Link
from edge_runtime.link.transport import Transport
from edge_runtime.link.trouble import Trouble
from split_model.protocol import messages as wire
from split_model.protocol.device import DeviceSession
from split_model.protocol.keys import KeyPair
from tests.edge_runtime.link.driver import WELCOME, request

PATIENCE_S = 30.0
WELCOMED = wire.encode(wire.Welcome(version=1, **WELCOME))
FORGET = wire.encode(wire.Refusal(request_id=None, code="hello_first", text="who are you?"))


class Malicious(threading.Thread):
    """Welcomes everybody, and answers everything else with "who are you?" and another welcome."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.public, secret = zmq.curve_keypair()
        self.hellos = self.requests = 0
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.curve_server = True
        self._socket.curve_secretkey = secret
        self.address = f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"
        self._stopping = False

    def run(self) -> None:
        while not self._stopping:
            if not self._socket.poll(10):
                continue
            peer, header, *_ = self._socket.recv_multipart()
            message = wire.decode_from_device(memoryview(header))
            if isinstance(message, wire.Hello):
                self.hellos += 1
                self._socket.send_multipart([peer, WELCOMED])
                self._socket.send_multipart([peer, FORGET])
            else:
                self.requests += isinstance(message, wire.Request)
        self._socket.close(0)

    def stop(self) -> None:
        self._stopping = True
        self.join()
        self._context.term()


@pytest.fixture
def malicious() -> Iterator[Malicious]:
    server = Malicious()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def connect() -> Iterator[Callable[[str, bytes], Link]]:
    made: list[tuple[Link, Transport]] = []

    def make(address: str, server_key: bytes) -> Link:
        keys = KeyPair(*zmq.curve_keypair())
        transport = Transport(address, keys=keys, server_keys=(server_key,), max_answer_bytes=1 << 16)
        made.append((Link(transport, DeviceSession(boot_id="device", software="test")), transport))
        made[-1][0].start()
        return made[-1][0]

    yield make
    for link, transport in made:
        link.stop()
        transport.terminate()


def until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def test_a_server_that_asks_for_a_greeting_again_and_again_is_left_alone(
    malicious: Malicious, connect: Callable[[str, bytes], Link]
) -> None:
    """Some thirty turns of it take milliseconds unless we back off; the frame is finished here meanwhile."""
    link = connect(malicious.address, malicious.public)
    reservation = link.reserve(offloaded=True)
    reservation.send(request(1), memoryview(bytes(64)), due_at_s=time.monotonic() + 5.0)
    until(lambda: link.view().trouble is Trouble.GREETED_AGAIN)
    assert malicious.hellos <= 5
    assert reservation.wait(until_s=time.monotonic() + 1.0) is None
    assert malicious.hellos <= 7
    assert malicious.requests <= malicious.hellos
    reservation.release()
    assert link.pending == 0


def test_a_reservation_is_given_back_whatever_became_of_the_link(
    malicious: Malicious, connect: Callable[[str, bytes], Link]
) -> None:
    link = connect(malicious.address, malicious.public)
    reservation = link.reserve(offloaded=True)
    reservation.send(request(1), memoryview(bytes(64)), due_at_s=time.monotonic() + 5.0)
    link.stop()
    assert reservation.wait(until_s=time.monotonic() + PATIENCE_S) is None
    for _ in range(2):
        reservation.release()
    assert not reservation.has_ended
    assert reservation.acked_bytes == 0
