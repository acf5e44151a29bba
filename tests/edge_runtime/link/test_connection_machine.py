"""The link's policy under any order of events: what happens to the socket, what the server says, what frames do."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_runtime.link.connection import Connection
from edge_runtime.link.states import CloseSocket, Finish, OpenSocket, Phase, TransportEvent
from edge_runtime.link.trouble import Trouble
from split_model.protocol import messages as wire
from split_model.protocol.device import DeviceSession
from tests.edge_runtime.link.driver import WELCOME, request

#: The longest back-off, with its jitter.
LONGEST_PAUSE_S = 60.0 * 1.2
WELCOMED = wire.Welcome(version=1, **WELCOME)
SIZES = st.sampled_from([0, 1, 1024, 1025, 9000, 70_000])
CODES = st.sampled_from(["version", "hello_first", "busy", "revoked", "protocol", "expired"])


class AnyOrder(RuleBasedStateMachine):
    """Keeps a model of what frames asked for, and checks each action and each message against it."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.open = False
        self.closed_s = 0.0
        self.payloads: dict[int, bytes] = {}  # by request id
        self.owners: dict[int, int] = {}  # reservation -> request id
        self.free: list[int] = []  # reservations that have not sent
        self.released: set[int] = set()  # request ids
        self.outcomes: dict[int, Any] = {}  # by request id
        self.counts = (0, 0)
        self.probes: list[int] = []
        self.connection = Connection(
            DeviceSession(boot_id="device", software="test"),
            address="tcp://test:1",
            public_key="key",
            now_s=0.0,
            jitter=random.Random(1).random,
        )

    def do(self, actions: list[Any]) -> None:
        for action in actions:
            if isinstance(action, OpenSocket):
                assert not self.open
                self.open = True
            elif isinstance(action, CloseSocket):
                assert self.open
                self.open, self.closed_s = False, self.now_s
            elif isinstance(action, Finish):
                request_id = self.owners[action.reservation]
                assert request_id not in self.outcomes, "two outcomes"
                assert request_id not in self.released, "an outcome after the release"
                assert (action.outcome.answered is None) != (action.outcome.refusal is None)
                self.outcomes[request_id] = action.outcome

    # What frames do.

    @rule(offloaded=st.booleans())
    def reserve(self, offloaded: bool) -> None:
        self.free.append(self.connection.reservations.reserve(offloaded=offloaded))

    @precondition(lambda self: self.free)
    @rule(data=st.data(), size=SIZES)
    def submit(self, data: st.DataObject, size: int) -> None:
        number = data.draw(st.sampled_from(self.free))
        self.free.remove(number)
        request_id = len(self.payloads) + 1
        self.payloads[request_id] = random.Random(request_id).randbytes(size)
        self.owners[number] = request_id
        payload = memoryview(self.payloads[request_id])
        due_at_s = self.now_s + 5.0
        self.connection.reservations.submit(number, request(request_id, size), payload, due_at_s=due_at_s)
        with pytest.raises(ValueError, match="once"):
            self.connection.reservations.submit(number, request(99), payload, due_at_s=due_at_s)

    @precondition(lambda self: self.free or self.owners)
    @rule(data=st.data(), full=st.booleans())
    def release(self, data: st.DataObject, full: bool) -> None:
        """Any of them at any time, and again; with ``full``, the socket had no room a moment before."""
        if full and self.open:
            self.the_socket_is_full()
        number = data.draw(st.sampled_from([*self.free, *self.owners]))
        self.connection.reservations.release(number, self.now_s)
        if number in self.owners:
            self.released.add(self.owners[number])
        else:
            self.free.remove(number)

    def any_request(self, data: st.DataObject) -> int:
        """One that there was, or one that there never was."""
        return data.draw(st.sampled_from([*self.payloads, 99]))

    # What time and the socket do.

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.1, 1.0, 9.0, 73.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.do(self.connection.tick(self.now_s))

    @rule(event=st.sampled_from(TransportEvent))
    def something_happens(self, event: TransportEvent) -> None:
        self.do(self.connection.transport_event(event, self.now_s))

    @precondition(lambda self: self.connection.phase is not Phase.UP)
    @rule(sends=st.integers(0, 4))
    def a_server_lets_us_in(self, sends: int) -> None:
        """Else few plays would come to what happens on a connection that is up."""
        if not self.open:
            self.time_passes(73.0)
        if self.connection.phase is Phase.CONNECTING:
            self.something_happens(TransportEvent.READY)
        self.welcome()
        assert self.connection.phase is Phase.UP
        for _ in range(sends):
            self.the_socket_takes(1)
        self.the_socket_is_full()

    @precondition(lambda self: self.open)
    @rule()
    def the_socket_is_full(self) -> None:
        if (frames := self.connection.next_frames(self.now_s)) is not None:
            self.connection.put_back(frames)

    @rule(count=st.integers(1, 40))
    def the_socket_takes(self, count: int) -> None:
        for _ in range(count):
            frames = self.connection.next_frames(self.now_s)
            if frames is None:
                return
            assert self.open, "sent while closed"
            self.sent(wire.decode_from_device(memoryview(frames[0])), frames[1])

    def sent(self, message: Any, chunk: memoryview | None) -> None:
        if isinstance(message, wire.Probe):
            self.probes.append(message.probe_id)
        if not isinstance(message, (wire.Request, wire.Chunk)):
            return
        assert self.connection.phase is Phase.UP, "a payload before the welcome"
        assert message.request_id not in self.released, "sent after its release"
        assert message.request_id not in self.outcomes, "sent after its outcome"
        offset = 0 if isinstance(message, wire.Request) else message.offset
        payload = self.payloads[message.request_id]
        assert chunk is not None
        assert payload[offset : offset + len(chunk)] == bytes(chunk), "other bytes than were submitted"

    # What a server, good or bad, says.

    def hear(self, message: Any, *payload: bytes) -> None:
        frames = [memoryview(wire.encode(message)), *map(memoryview, payload)]
        self.do(self.connection.receive(frames, self.now_s))

    @rule()
    def welcome(self) -> None:
        self.hear(WELCOMED)

    @rule(data=st.data())
    def answer_any(self, data: st.DataObject) -> None:
        self.answer(self.any_request(data))

    def answer(self, request_id: int) -> None:
        answer = wire.Answer(
            request_id=request_id, tensors=(), timed_bytes=0, receive_s=0.0, queue_s=0.0, tail_s=0.0
        )
        self.hear(answer, b"answer")

    @rule(data=st.data(), named=st.booleans(), code=CODES, text=st.text(max_size=20))
    def refuse(self, data: st.DataObject, named: bool, code: Any, text: str) -> None:
        request_id = self.any_request(data) if named else None
        self.hear(wire.Refusal(request_id=request_id, code=code, text=text))

    @rule(data=st.data(), received_bytes=st.sampled_from([0, 1, 1024]))
    def acknowledge(self, data: st.DataObject, received_bytes: int) -> None:
        self.hear(wire.Ack(request_id=self.any_request(data), received_bytes=received_bytes))

    @rule(probe_id=st.integers(0, 3))
    def reply_to_probe(self, probe_id: int) -> None:
        self.hear(wire.ProbeReply(probe_id=probe_id, timed_bytes=0, receive_s=0.0))

    @rule(data=st.binary(max_size=40))
    def garbage(self, data: bytes) -> None:
        self.do(self.connection.receive([memoryview(data)], self.now_s))

    # What holds at any time.

    @invariant()
    def the_socket_is_open_but_for_a_pause(self) -> None:
        assert self.open == (self.connection.phase is not Phase.PAUSED)
        if not self.open:
            assert self.now_s - self.closed_s <= LONGEST_PAUSE_S
            assert self.connection.next_frames(self.now_s) is None

    @invariant()
    def the_view_agrees_and_its_counts_only_grow(self) -> None:
        view = self.connection.view(self.now_s)
        assert view.up == (view.trouble is Trouble.NONE)
        assert view.up <= self.open
        assert bool(view.problem) == (not view.up)
        assert view.problem.isprintable()
        late, reconnects = self.counts
        assert (view.late, view.reconnects) >= (late, reconnects)
        assert view.late >= late
        assert view.reconnects >= reconnects
        self.counts = view.late, view.reconnects

    @invariant()
    def what_has_ended_has_no_bytes_under_way(self) -> None:
        for number, request_id in self.owners.items():
            if request_id in self.released or request_id in self.outcomes:
                assert self.connection.reservations.acked_bytes(number) == 0

    def teardown(self) -> None:
        """Whatever happened before: with a server that is well, every request ends, and soon."""
        for _ in range(200):
            self.now_s += 0.5
            self.do(self.connection.tick(self.now_s))
            if self.connection.phase is Phase.CONNECTING:
                self.do(self.connection.transport_event(TransportEvent.READY, self.now_s))
            if self.connection.phase is Phase.GREETING:
                self.welcome()
            self.the_socket_takes(40)
            for request_id in self.payloads:
                self.answer(request_id)
            probes, self.probes = self.probes, []
            for probe_id in probes:
                self.reply_to_probe(probe_id)
            if self.connection.phase is Phase.UP and self.released | self.outcomes.keys() == self.payloads.keys():
                break
        assert self.released | self.outcomes.keys() == self.payloads.keys()


AnyOrder.TestCase.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
TestAnyOrder = AnyOrder.TestCase
