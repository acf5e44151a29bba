"""The link thread turn by turn, on a socket and a clock of the test's: it keeps a quiet connection alive."""

from __future__ import annotations

from typing import Any, cast

import pytest

from edge_runtime.link.link_thread import Offload
from edge_runtime.link.transport import TransportEvent
from split_model.protocol import messages as wire
from split_model.protocol.device import DeviceSession

STEP_S = 0.05
WELCOME = {"boot_id": "server", "window_bytes": 1 << 16, "request_bytes": 1 << 20, "offers": ()}


class Socket:
    """Notes what is sent; ``answers`` is what comes in next."""

    address, public_key = "tcp://test:1", "key"

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.answers: list[Any] = []
        self.happened = [TransportEvent.READY]
        self.pings = True
        self.closed = 0

    def poll(self, _: float, *, wants_to_send: bool) -> list[TransportEvent]:
        del wants_to_send
        happened, self.happened = self.happened, []
        return happened

    def send(self, frames: Any) -> bool:
        message = wire.decode_from_device(memoryview(frames[0]))
        self.sent.append(message)
        if isinstance(message, wire.Hello):
            self.answers.append(wire.Welcome(version=message.versions[0], **WELCOME))
        if isinstance(message, wire.Probe) and self.pings:
            self.answers.append(wire.ProbeReply(probe_id=message.probe_id, timed_bytes=0, receive_s=0.0))
        return True

    def receive(self) -> list[list[memoryview]]:
        answers, self.answers = self.answers, []
        return [[memoryview(wire.encode(answer))] for answer in answers]

    def close(self) -> None:
        self.closed += 1

    def open(self) -> None:
        self.happened = [TransportEvent.READY]

    def wake(self) -> None: ...

    def tcp(self) -> None: ...


class Bench:
    """An `Offload` whose turns the test makes."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.socket = Socket()
        session = DeviceSession(boot_id="device", software="test")
        self.offload = Offload(cast("Any", self.socket), session, now=lambda: self.now_s)
        self.turns(1.0)
        assert self.offload.view().up

    def turns(self, seconds: float) -> None:
        for _ in range(round(seconds / STEP_S)):
            self.now_s += STEP_S
            self.offload._turn()

    def submit(self, number: int = 1) -> None:
        release = wire.NoRelease()
        request = wire.Request(
            request_id=number,
            boot_id="device",
            version=1,
            bundle="0" * 64,
            cut=1,
            release=release,
            total_bytes=64,
            due_in_s=9.0,
        )
        self.offload.frame(offloaded=True)
        self.offload.submit(request, memoryview(bytes(64)), due_at_s=self.now_s + 9.0)

    @property
    def probes(self) -> int:
        return sum(isinstance(message, wire.Probe) for message in self.socket.sent)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_probes_go_on_after_a_refused_request(bench: Bench) -> None:
    bench.submit()
    bench.turns(STEP_S)
    before = bench.probes
    bench.socket.answers.append(wire.Refusal(request_id=1, code="busy", text="later"))
    bench.turns(3.0)
    assert bench.probes > before


def test_what_was_sent_when_the_server_objects_is_refused_and_not_sent_again(bench: Bench) -> None:
    """Each frame was paid for: that its cut is refused must be told, not tried out with the next frame."""
    bench.submit()
    bench.turns(STEP_S)
    bench.socket.answers.append(wire.Refusal(request_id=None, code="protocol", text="unknown release"))
    bench.turns(STEP_S)
    assert not bench.offload.view().up
    outcome = bench.offload.wait(1, until_s=0.0)
    assert outcome is not None
    assert outcome.refusal is not None
    assert (outcome.refusal.request_id, outcome.refusal.code) == (1, "protocol")
    bench.turns(2.0)
    assert bench.offload.view().up
    assert sum(isinstance(message, wire.Request) for message in bench.socket.sent) == 1


def test_of_several_only_the_one_that_the_server_means_is_refused(bench: Bench) -> None:
    """It takes messages in order and acknowledges what it takes; the others are paid for, and at other cuts."""
    for number in (1, 2, 3):
        bench.submit(number)
    bench.turns(STEP_S)
    bench.socket.answers.append(wire.Ack(request_id=1, received_bytes=64))
    bench.socket.answers.append(wire.Refusal(request_id=None, code="protocol", text="unknown release"))
    bench.turns(2.0)
    ended = {number: bench.offload.wait(number, until_s=0.0) for number in (1, 2, 3)}
    assert [number for number, outcome in ended.items() if outcome is not None] == [2]
    requests = [message.request_id for message in bench.socket.sent if isinstance(message, wire.Request)]
    assert requests == [1, 2, 3, 1, 3]


def test_a_refusal_that_names_its_request_leaves_the_connection_and_the_others_alone(bench: Bench) -> None:
    for number in (1, 2, 3):
        bench.submit(number)
    bench.turns(STEP_S)
    bench.socket.answers.append(wire.Refusal(request_id=3, code="protocol", text="unknown release"))
    bench.turns(2.0)
    ended = {number: bench.offload.wait(number, until_s=0.0) for number in (1, 2, 3)}
    assert [number for number, outcome in ended.items() if outcome is not None] == [3]
    assert bench.socket.closed == 0
    assert sum(isinstance(message, wire.Request) for message in bench.socket.sent) == 3


def test_what_was_not_sent_when_the_connection_is_refused_goes_out_on_the_next(bench: Bench) -> None:
    bench.socket.answers.append(wire.Refusal(request_id=None, code="protocol", text="unknown release"))
    bench.turns(STEP_S)
    bench.submit()
    bench.turns(2.0)
    assert bench.offload.wait(1, until_s=0.0) is None
    assert sum(isinstance(message, wire.Request) for message in bench.socket.sent) == 1


def test_probes_go_on_after_a_request_that_never_left(bench: Bench) -> None:
    bench.submit()
    bench.offload.cancel(1)
    before = bench.probes
    bench.turns(3.0)
    assert bench.probes > before


@pytest.mark.parametrize("submitted", [True, False])
def test_a_quiet_connection_is_asked_before_it_is_closed(bench: Bench, submitted: bool) -> None:
    """The server takes its time with a request, or the frame's head does before there is one."""
    bench.submit() if submitted else bench.offload.frame(offloaded=True)
    bench.turns(30.0)
    assert bench.socket.closed == 0
    bench.socket.pings = False
    bench.turns(9.0)
    assert bench.socket.closed == 1
