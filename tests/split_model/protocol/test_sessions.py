"""Both sides of the conversation, with each other over a pipe that breaks, and with a peer that sends rubbish."""

from __future__ import annotations

from collections import deque
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from split_model.errors import ProtocolError
from split_model.protocol import messages as wire
from split_model.protocol import server as server_side
from split_model.protocol.device import Answered, DeviceSession, Forgotten, Late, Probed, Refused, Welcomed
from split_model.protocol.device_states import TRANSITIONS, Input, State

LIMITS = server_side.Limits(request_bytes=20_000, open_requests=3, open_probes=2, window_bytes=4096)


def request(number: int, *, total_bytes: int = 5000, boot_id: str = "boot", cut: int = 1) -> wire.Request:
    return wire.Request(
        request_id=number,
        boot_id=boot_id,
        version=1,
        bundle="a" * 64,
        cut=cut,
        release=wire.NoRelease(),
        total_bytes=total_bytes,
        due_in_s=1.0,
    )


def new_server(now_s: float = 0.0) -> server_side.PeerSession:
    def admit(wanted):
        return server_side.Denial("unknown_cut", "no such cut") if wanted.cut == 9 else None

    return server_side.PeerSession(
        user_id="k", boot_id="server", offers=(), admit=admit, limits=LIMITS, now_s=now_s
    )


def new_device() -> DeviceSession:
    return DeviceSession(boot_id="boot", software="test")


def views(*frames: bytes) -> list[memoryview]:
    return [memoryview(frame) for frame in frames]


def greeted_server() -> server_side.PeerSession:
    session = new_server()
    session.receive(views(wire.encode(wire.Hello(versions=(1,), boot_id="boot", software="t"))), 0.0)
    return session


# --- rubbish ---------------------------------------------------------------------------------------------------

NUMBERS = st.integers(0, 5) | st.integers(0, 1 << 41)
BOOTS = st.sampled_from(["boot", "b"])
ZERO = st.just(0.0)
MESSAGES = st.one_of(
    st.builds(
        wire.Hello,
        versions=st.lists(st.integers(-1, 3), max_size=3).map(tuple),
        boot_id=BOOTS,
        software=st.just("t"),
    ),
    st.builds(
        request, NUMBERS, total_bytes=NUMBERS | st.integers(0, 20_000), boot_id=BOOTS, cut=st.sampled_from([1, 9])
    ),
    st.builds(wire.Chunk, request_id=NUMBERS, offset=NUMBERS),
    st.builds(wire.Cancel, request_id=NUMBERS),
    st.builds(wire.Probe, probe_id=NUMBERS, offset=NUMBERS, total_bytes=NUMBERS | st.integers(0, 20_000)),
    st.builds(wire.Ack, request_id=NUMBERS, received_bytes=NUMBERS),
    st.builds(
        wire.Welcome,
        version=st.integers(0, 3),
        boot_id=st.just("s"),
        window_bytes=NUMBERS,
        request_bytes=NUMBERS,
        offers=st.just(()),
    ),
    st.builds(
        wire.Answer,
        request_id=NUMBERS,
        tensors=st.just(()),
        timed_bytes=NUMBERS,
        receive_s=ZERO,
        queue_s=ZERO,
        tail_s=ZERO,
    ),
    st.builds(wire.ProbeReply, probe_id=NUMBERS, timed_bytes=NUMBERS, receive_s=ZERO),
    st.builds(
        wire.Refusal,
        request_id=st.none() | NUMBERS,
        code=st.sampled_from(["version", "hello_first", "busy", "revoked"]),
        text=st.just(""),
    ),
)
HEADERS = st.binary(max_size=60) | MESSAGES.map(wire.encode)
RUBBISH = st.lists(
    st.tuples(HEADERS, st.lists(st.integers(0, 3000).map(bytes), max_size=2)).map(
        lambda parts: [parts[0], *parts[1]]
    )
    | st.just([]),
    max_size=25,
)


@settings(max_examples=300, deadline=None)
@given(RUBBISH)
def test_the_server_never_raises_and_holds_no_more_than_its_limits(messages):
    session = greeted_server()
    for number, frames in enumerate(messages):
        replies, events = session.receive(views(*frames), float(number))
        for reply in replies:
            assert wire.decode_from_server(wire.encode(reply)) == reply
        arrived = [event for event in events if isinstance(event, server_side.Arrived)]
        for event in arrived:
            assert len(event.payload) == event.request.total_bytes
        assert session.held_bytes <= (
            LIMITS.open_requests * LIMITS.request_bytes + LIMITS.open_probes * server_side.MAX_PROBE_BYTES
        )
        assert len(session.open_requests) <= LIMITS.open_requests


@settings(max_examples=300, deadline=None)
@given(RUBBISH)
def test_the_device_raises_nothing_but_a_protocol_error(messages):
    session = new_device()
    session.connected()
    for number in range(3):
        session.submit(request(number), memoryview(bytes(5000)), due_at_s=10.0)
    session.probe(100)
    for number, frames in enumerate(messages):
        with suppress(ProtocolError):
            session.receive(views(*frames), float(number))
        session.next_message(float(number))
        assert session.open_requests <= 3


# --- with each other -------------------------------------------------------------------------------------------


class Conversation(RuleBasedStateMachine):
    """A device and a server; the pipe between them keeps order and may break, losing what is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.device = new_device()
        self.server: server_side.PeerSession | None = None
        self.up: deque[list[bytes]] = deque()
        self.down: deque[list[bytes]] = deque()
        self.submitted: dict[int, bytes] = {}
        self.ended: dict[int, str] = {}
        self.waiting: deque[server_side.Arrived] = deque()
        self.now_s = 0.0

    @rule()
    def connect(self) -> None:
        self.up.clear()
        self.down.clear()
        self.server = new_server(self.now_s)
        self.waiting.clear()
        self.device.connected()

    @precondition(lambda self: self.server is not None)
    @rule()
    def disconnect(self) -> None:
        self.up.clear()
        self.down.clear()
        self.server = None
        self.waiting.clear()
        self.device.disconnected()

    @precondition(lambda self: self.server is not None)
    @rule()
    def forget(self) -> None:
        """The server drops the session, as after a silence, while the connection stays."""
        self.server = new_server(self.now_s)
        self.waiting.clear()

    @rule(size=st.sampled_from([0, 1, 1024, 1025, 9000, 20_000, 20_001]), known=st.booleans())
    def submit(self, size: int, known: bool) -> None:
        number = len(self.submitted)
        payload = bytes((number + at) % 256 for at in range(size))
        self.submitted[number] = payload
        wanted = request(number, total_bytes=size, cut=1 if known else 9)
        self.device.submit(wanted, memoryview(payload), due_at_s=self.now_s + 5.0)

    @precondition(lambda self: self.submitted)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.submitted)))
        self.device.cancel(number)
        self.ended.setdefault(number, "cancelled")

    @rule(size=st.sampled_from([0, 5000]))
    def probe(self, size: int) -> None:
        if self.device.open_probes < 2:
            self.device.probe(size)

    @precondition(lambda self: self.server is not None)
    @rule(count=st.integers(1, 30), full=st.booleans())
    def device_sends(self, count: int, full: bool) -> None:
        for _ in range(count):
            frames = self.device.next_message(self.now_s)
            if frames is None:
                return
            self.up.append([bytes(part) for part in frames if part is not None])
        if full:
            frames = self.device.next_message(self.now_s)
            if frames is not None:
                self.device.put_back(frames)

    @precondition(lambda self: self.server is not None)
    @rule(count=st.integers(1, 30))
    def server_reads(self, count: int) -> None:
        for _ in range(min(count, len(self.up))):
            self.now_s += 0.01
            assert self.server is not None
            replies, events = self.server.receive(views(*self.up.popleft()), self.now_s)
            self.down.extend([wire.encode(reply)] for reply in replies)
            for event in events:
                if isinstance(event, server_side.Arrived):
                    assert bytes(event.payload) == self.submitted[event.request.request_id]
                    self.waiting.append(event)
                elif isinstance(event, server_side.Cancelled):
                    self.waiting = deque(w for w in self.waiting if w.request.request_id != event.request_id)

    @precondition(lambda self: self.waiting)
    @rule(fails=st.booleans())
    def server_answers(self, fails: bool) -> None:
        done = self.waiting.popleft().request.request_id
        if fails:
            self.down.append([wire.encode(wire.Refusal(request_id=done, code="failed", text="t"))])
            return
        answer = wire.Answer(request_id=done, tensors=(), timed_bytes=0, receive_s=0.0, queue_s=0.0, tail_s=0.0)
        self.down.append([wire.encode(answer), b"answer %d" % done])

    @rule(count=st.integers(1, 30))
    def device_reads(self, count: int) -> None:
        for _ in range(min(count, len(self.down))):
            self.now_s += 0.01
            for event in self.device.receive(views(*self.down.popleft()), self.now_s):
                if isinstance(event, Answered):
                    assert event.payload == b"answer %d" % event.request_id
                    assert event.elapsed_s >= 0.0
                    self._end(event.request_id, "answered")
                elif isinstance(event, Refused):
                    assert event.request_id is not None, event
                    self._end(event.request_id, "refused")
                else:
                    assert isinstance(event, (Welcomed, Probed, Late, Forgotten))

    def _end(self, number: int, how: str) -> None:
        assert number not in self.ended, f"request {number} was {self.ended.get(number)}, and now {how}"
        self.ended[number] = how

    @invariant()
    def every_request_is_open_or_has_ended_once(self) -> None:
        assert self.device.open_requests == len(self.submitted) - len(self.ended)

    @invariant()
    def the_server_holds_what_it_may(self) -> None:
        if self.server is not None:
            assert self.server.held_bytes <= LIMITS.open_requests * LIMITS.request_bytes + 2 * 5000

    def teardown(self) -> None:
        """Whatever happened before: once the pipe holds, every request comes to its end."""
        self.connect()
        for _ in range(500):
            self.device_sends(30, full=False)
            self.server_reads(30)
            while self.waiting:
                self.server_answers(fails=False)
            self.device_reads(30)
            if self.device.open_requests == 0:
                break
        assert self.device.open_requests == 0


Conversation.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestConversation = Conversation.TestCase


# --- single rules ----------------------------------------------------------------------------------------------


def ready_device() -> DeviceSession:
    session = new_device()
    session.connected()
    session.next_message(0.0)
    welcome = wire.Welcome(version=1, boot_id="s", window_bytes=1, request_bytes=1, offers=())
    session.receive(views(wire.encode(welcome)), 0.0)
    return session


def sent(session: DeviceSession, now_s: float = 0.0) -> list[wire.FromDevice]:
    result = []
    while (frames := session.next_message(now_s)) is not None:
        result.append(wire.decode_from_device(frames[0]))
    return result


def test_nothing_but_the_greeting_goes_out_before_the_welcome():
    session = new_device()
    session.submit(request(1), memoryview(bytes(5000)), due_at_s=1.0)
    assert sent(session) == []
    session.connected()
    assert [type(message) for message in sent(session)] == [wire.Hello]


def test_the_first_chunk_says_how_long_is_left_and_the_window_holds_back_the_rest():
    session = ready_device()
    session.window_bytes = 2048
    session.submit(request(1), memoryview(bytes(4096)), due_at_s=10.0)
    first, *more = sent(session, now_s=9.25)
    assert (type(first), first.due_in_s) == (wire.Request, 0.75)
    assert [message.offset for message in more] == [1024]
    assert sent(session) == []
    session.receive(views(wire.encode(wire.Ack(request_id=1, received_bytes=1024))), 0.0)
    assert [message.offset for message in sent(session)] == [2048]


def test_a_request_past_its_time_is_sent_with_no_time_left():
    session = ready_device()
    session.submit(request(1, total_bytes=1), memoryview(b"x"), due_at_s=1.0)
    assert sent(session, now_s=5.0)[0].due_in_s == 0.0


def test_a_new_connection_sends_the_same_bytes_again():
    session = ready_device()
    session.window_bytes = 1 << 20
    session.submit(request(1, total_bytes=3000), memoryview(bytes(range(250)) * 12), due_at_s=1.0)
    before = [bytes(session.next_message(0.0)[1]) for _ in range(3)]
    session.disconnected()
    session.connected()
    sent(session)
    welcome = wire.Welcome(version=1, boot_id="s", window_bytes=1, request_bytes=1, offers=())
    session.receive(views(wire.encode(welcome)), 0.0)
    assert [bytes(session.next_message(0.0)[1]) for _ in range(3)] == before


def test_a_cancelled_request_is_told_only_if_it_was_begun():
    session = ready_device()
    session.submit(request(1), memoryview(bytes(5000)), due_at_s=1.0)
    session.cancel(1)
    assert sent(session) == []
    session.submit(request(2), memoryview(bytes(5000)), due_at_s=1.0)
    session.next_message(0.0)
    session.cancel(2)
    assert sent(session) == [wire.Cancel(request_id=2)]
    answer = wire.Answer(request_id=2, tensors=(), timed_bytes=0, receive_s=0.0, queue_s=0.0, tail_s=0.0)
    assert session.receive(views(wire.encode(answer), b""), 0.0) == [Late(2)]


def test_a_server_that_forgot_us_is_greeted_once_however_many_chunks_were_under_way():
    """Two greetings would make two welcomes, and the second one would throw away what followed the first."""
    session, server = ready_device(), new_server()
    session.window_bytes = 1 << 20
    session.submit(request(1), memoryview(bytes(5000)), due_at_s=1.0)
    under_way = [session.next_message(0.0) for _ in range(4)]

    def deliver(frames):
        replies, events = server.receive([memoryview(part) for part in frames if part is not None], 0.0)
        for reply in replies:
            session.receive(views(wire.encode(reply)), 0.0)
        return events

    deliver(under_way[0])
    greeting = session.next_message(0.0)
    for frames in under_way[1:]:
        deliver(frames)
    deliver(greeting)
    assert session.state is State.READY
    events = []
    while (frames := session.next_message(0.0)) is not None:
        events += deliver(frames)
    assert [type(event) for event in events] == [server_side.Arrived]


def greeted(versions: tuple[int, ...], server: server_side.PeerSession) -> DeviceSession:
    """A device of these versions that this server has welcomed."""
    session = DeviceSession(boot_id="boot", software="t", versions=versions)
    session.connected()
    exchange(session, server)
    return session


def exchange(session: DeviceSession, server: server_side.PeerSession, now_s: float = 0.0) -> list[object]:
    """Everything that either has to say, until both are silent; returns what the device hears."""
    events: list[object] = []
    while (frames := session.next_message(now_s)) is not None:
        replies, _ = server.receive([memoryview(part) for part in frames if part is not None], now_s)
        for reply in replies:
            events += session.receive(views(wire.encode(reply)), now_s)
    return events


def busy_server() -> server_side.PeerSession:
    """Refuses every request, and says for how long."""
    load = wire.Load(queue_s=0.5, retry_s=2.0)
    return server_side.PeerSession(
        user_id="k",
        boot_id="server",
        offers=(),
        admit=lambda _: server_side.Denial("expired", "too late", load),
        advise=lambda ask: load if ask.due_in_s < 1.0 else wire.Load(queue_s=0.5, retry_s=0.0),
        limits=LIMITS,
        now_s=0.0,
    )


@pytest.mark.parametrize("versions", [(1,), wire.VERSIONS])
def test_only_a_device_that_knows_it_hears_how_busy_the_server_is(versions):
    server = busy_server()
    session = greeted(versions, server)
    session.submit(request(1), memoryview(bytes(5000)), due_at_s=1.0)
    (refused,) = exchange(session, server)
    assert isinstance(refused, Refused)
    assert (refused.load is None) == (versions == (1,))


def test_a_request_is_of_the_version_that_both_speak():
    for versions in ((1,), wire.VERSIONS):
        session = greeted(versions, greeted_server())
        session.submit(request(1), memoryview(bytes(5000)), due_at_s=1.0)
        assert sent(session)[0].version == max(versions)


def test_a_device_may_ask_before_it_sends_and_a_server_of_before_is_not_asked():
    server = busy_server()
    session = greeted(wire.VERSIONS, server)
    assert session.ask("a" * 64, 3, due_in_s=0.5)
    assert session.ask("a" * 64, 4, due_in_s=2.0)
    advice = exchange(session, server)
    assert [(one.bundle, one.cut, one.load.retry_s) for one in advice] == [("a" * 64, 3, 2.0), ("a" * 64, 4, 0.0)]
    old = ready_device()  # by a welcome of version 1
    assert not old.ask("a" * 64, 3, due_in_s=0.5)
    assert sent(old) == []


def test_answers_to_questions_of_an_earlier_connection_are_dropped():
    session = greeted(wire.VERSIONS, busy_server())
    assert session.ask("a" * 64, 3, due_in_s=0.5)
    session.disconnected()
    session.connected()
    reply = wire.AskReply(ask_id=0, load=wire.Load(queue_s=0.0, retry_s=0.0))
    assert session.receive(views(wire.encode(reply)), 0.0) == []


def test_after_a_refusal_the_first_chunk_goes_alone_until_it_is_acknowledged():
    session = ready_device()
    session.window_bytes = 1 << 20
    session.submit(request(1), memoryview(bytes(4096)), due_at_s=1.0)
    assert len(sent(session)) == 4
    refusal = wire.Refusal(request_id=1, code="expired", text="")
    session.receive(views(wire.encode(refusal)), 10.0)
    session.submit(request(2), memoryview(bytes(4096)), due_at_s=11.0)
    session.submit(request(3), memoryview(bytes(4096)), due_at_s=11.0)
    assert [type(message) for message in sent(session, 10.5)] == [wire.Request, wire.Request]
    session.receive(views(wire.encode(wire.Ack(request_id=3, received_bytes=1024))), 10.5)
    assert [message.request_id for message in sent(session, 10.5)] == [3] * 3
    session.submit(request(4), memoryview(bytes(4096)), due_at_s=20.0)
    assert len(sent(session, 15.0)) == 4  # that was a while ago


def test_every_state_can_lose_its_connection():
    assert {state for state, what in TRANSITIONS if what is Input.DISCONNECTED} == set(State)


def test_a_welcome_nobody_asked_for_is_an_error():
    session = ready_device()
    welcome = wire.Welcome(version=1, boot_id="s", window_bytes=1, request_bytes=1, offers=())
    with pytest.raises(ProtocolError):
        session.receive(views(wire.encode(welcome)), 0.0)


def test_a_welcome_in_a_version_we_did_not_offer_is_an_error():
    session = new_device()
    session.connected()
    welcome = wire.Welcome(version=99, boot_id="s", window_bytes=1, request_bytes=1, offers=())
    with pytest.raises(ProtocolError, match="chose version 99"):
        session.receive(views(wire.encode(welcome)), 0.0)


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        (request(1, cut=9), "unknown_cut"),
        (request(1, boot_id="other"), "protocol"),
        (request(1, total_bytes=20_001), "too_large"),
        (msgspec.structs.replace(request(1), version=99), "version"),
    ],
)
def test_a_refused_request_holds_nothing(wanted, code):
    session = greeted_server()
    replies, events = session.receive(views(wire.encode(wanted), b"x"), 0.0)
    assert [reply.code for reply in replies] == [code]
    assert events == []
    assert session.held_bytes == 0


def test_one_request_too_many_is_busy():
    session = greeted_server()
    for number in range(LIMITS.open_requests):
        session.receive(views(wire.encode(request(number)), b"x"), 0.0)
    (reply,), _ = session.receive(views(wire.encode(request(99)), b"x"), 0.0)
    assert (reply.code, reply.request_id) == ("busy", 99)


def test_a_chunk_larger_than_allowed_is_refused():
    session = greeted_server()
    (reply,), _ = session.receive(views(wire.encode(request(1)), bytes(wire.MAX_CHUNK_BYTES + 1)), 0.0)
    assert (reply.code, reply.request_id) == ("protocol", 1)
    assert session.held_bytes == 0


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (["request", 2, "boot", 1, "0" * 64, 1, {"type": "new"}, 4, 1.0], 2),
        (["request", 2], 2),
        (["chunk", 2, "one"], 2),
        (["cancel", 2, "more"], 2),
        (["probe", 2, -1, 5], None),
        (["request", -2, "boot"], None),
        (["request", "two"], None),
        (["request"], None),
        ([["request"], 2], None),
        ([2, 2], None),
        ([], None),
        ({"request": 2}, None),
    ],
)
def test_a_malformed_message_ends_the_request_that_it_names_and_no_other(message, named):
    session = greeted_server()
    for number in (1, 2):
        session.receive(views(wire.encode(request(number)), b"x"), 0.0)
    (reply,), events = session.receive(views(msgspec.msgpack.encode(message), b"x"), 0.0)
    assert (reply.code, reply.request_id, events) == ("protocol", named, [])
    assert session.open_requests == {1, 2} - {named}
