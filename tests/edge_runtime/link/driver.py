"""Drives a `Connection` in a time of the test's, against a server that the test scripts."""

from __future__ import annotations

import logging
import random
from typing import Any

from edge_runtime.link.connection import Connection
from edge_runtime.link.link_view import Outcome
from edge_runtime.link.states import CloseSocket, Finish, OpenSocket, Publish, TransportEvent
from split_model.protocol import messages as wire
from split_model.protocol.device import DeviceSession

STEP_S = 0.05
WELCOME = {"boot_id": "server", "window_bytes": 1 << 16, "request_bytes": 1 << 20, "offers": ()}


def request(number: int, total_bytes: int = 64) -> wire.Request:
    return wire.Request(
        request_id=number,
        boot_id="device",
        version=1,
        bundle="0" * 64,
        cut=1,
        release=wire.NoRelease(),
        total_bytes=total_bytes,
        due_in_s=9.0,
    )


class Driven:
    """A connection whose turns the test makes. ``answers`` is what comes in next; ``sent`` what went out.

    ``lines``: what would be logged, as records. ``outcomes``: by reservation.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.now_s = 100.0
        self.open = False
        self.opened_s: list[float] = []
        self.closed = 0
        self.sent: list[Any] = []
        self.answers: list[Any] = []
        self.outcomes: dict[int, Outcome] = {}
        self.lines: list[logging.LogRecord] = []
        self.welcomes = self.pings = True
        self.connection = Connection(
            DeviceSession(boot_id="device", software="test"),
            address="tcp://test:1",
            public_key="key",
            now_s=self.now_s,
            jitter=random.Random(seed).random,
        )

    def up(self) -> Driven:
        self.turns(1.0)
        assert self.connection.view(self.now_s).up
        return self

    @property
    def view(self) -> Any:
        return self.connection.view(self.now_s)

    def turns(self, seconds: float) -> None:
        for _ in range(round(seconds / STEP_S)):
            self.now_s += STEP_S
            self.turn()

    def turn(self) -> None:
        while self.open and (frames := self.connection.next_frames(self.now_s)):
            self.carry(wire.decode_from_device(memoryview(frames[0])))
        answers, self.answers = self.answers, []
        for answer in answers:
            if self.open:
                self.do(self.connection.receive([memoryview(wire.encode(answer))], self.now_s))
        self.do(self.connection.tick(self.now_s))

    def carry(self, message: Any) -> None:
        self.sent.append(message)
        if isinstance(message, wire.Hello) and self.welcomes:
            self.answers.append(wire.Welcome(version=message.versions[0], **WELCOME))
        if isinstance(message, wire.Probe) and self.pings:
            self.answers.append(wire.ProbeReply(probe_id=message.probe_id, timed_bytes=0, receive_s=0.0))

    def happens(self, event: TransportEvent) -> None:
        self.do(self.connection.transport_event(event, self.now_s))

    def do(self, actions: list[Any]) -> None:
        for action in actions:
            if isinstance(action, OpenSocket):
                assert not self.open
                self.open = True
                self.opened_s.append(self.now_s)
                self.happens(TransportEvent.READY)
            elif isinstance(action, CloseSocket):
                assert self.open
                self.open = False
                self.closed += 1
                self.answers.clear()
            elif isinstance(action, Finish):
                assert action.reservation not in self.outcomes
                self.outcomes[action.reservation] = action.outcome
            elif isinstance(action, Publish):
                self.lines.append(logging.makeLogRecord({"msg": "%s", "args": (action.line,), "per_frame": True}))

    def submit(self, number: int = 1, total_bytes: int = 64) -> int:
        reservation = self.connection.reservations.reserve(offloaded=True)
        payload = memoryview(bytes(total_bytes))
        self.connection.reservations.submit(
            reservation, request(number, total_bytes), payload, due_at_s=self.now_s + 9.0
        )
        return reservation

    def count(self, kind: type) -> int:
        return sum(isinstance(message, kind) for message in self.sent)

    @property
    def probed_bytes(self) -> int:
        """Of probes; pings have none."""
        return sum(message.total_bytes for message in self.sent if isinstance(message, wire.Probe))
