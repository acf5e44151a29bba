"""Peers and their services without sockets: whatever clients send, and in whatever pieces."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_runtime.local_api import framing, messages
from edge_runtime.local_api.peer import PATIENCE_S, Peer, User
from edge_runtime.local_api.submissions import Room, Submissions, Ticket
from split_model.arrays import Array
from split_model.errors import BadInputError

ROOM = Room(queue_frames=8, client_frames=3, queue_bytes=400_000, body_bytes=2000, input_bytes=24, answer_bytes=24)
DESCRIPTION = messages.Description("twice", (("float32", (2, 3)),), (), False, 8, 3, 1000)
CLIENT = st.integers(0, 10)


class Talker:
    """A client by hand: bytes that it sent and the device has not read, what it expects, and what it heard."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.unread = framing.hello()
        self.hears = framing.Incoming(max_header_bytes=1 << 20)
        self.open: set[int] = set()  # ids that were sent whole and have no reply
        self.header: list[Any] = []
        self.described = 0
        self.unnamed = 0  # refusals without an id that must come

    def hear(self, data: bytes) -> None:
        while data:
            room = self.hears.room()
            piece, data = data[: len(room)], data[len(room) :]
            room[: len(piece)] = piece
            event = self.hears.filled(len(piece))
            if isinstance(event, framing.Header):
                self._told(json.loads(event.data))
                self.hears.accept()

    def _told(self, header: list[Any]) -> None:
        if header[0] == "description":
            self.described -= 1
            assert self.described >= 0
        elif header[0] == "refusal" and header[1] is None:
            self.unnamed -= 1
            assert self.unnamed >= 0, header
        else:
            self.open.remove(header[1])  # exactly one reply for each


class Conversations(RuleBasedStateMachine):
    """Several clients of several users; every complete submission gets exactly one reply."""

    @initialize()
    def begin(self) -> None:
        self.now_s = 0.0
        self.accepted: deque[tuple[Ticket, Sequence[Array]]] = deque()
        self.service = Submissions(DESCRIPTION, ROOM, self._accept, "test")
        self.talkers: list[Talker] = []
        self.ids = iter(range(1 << 30))

    def _accept(self, ticket: Ticket, name: str, tensors: Sequence[Array]) -> bool:
        if name == "ending":
            return False
        if name == "breaks":
            raise MemoryError("no room")
        if [(tensor.dtype.name, tensor.shape) for tensor in tensors] != [("float32", (2, 3))]:
            raise BadInputError("does not fit")
        self.accepted.append((ticket, tensors))
        return True

    def _talker(self, number: int) -> Talker:
        return self.talkers[number % len(self.talkers)]

    @rule(uid=st.integers(0, 2), greeted=st.sampled_from([3, 8, 8]))
    def connect(self, uid: int, greeted: int = 8) -> None:
        if len(self.talkers) < 6:
            self.talkers.append(Talker(Peer(User(1, uid), self.service, now_s=self.now_s)))
            self.device_reads(len(self.talkers) - 1, greeted)
            self.client_reads(len(self.talkers) - 1, greeted)

    @precondition(lambda self: self.talkers)
    @rule(
        number=CLIENT,
        name=st.sampled_from(["fine", "fine", "fine", "breaks", "ending"]),
        shape=st.sampled_from([(2, 3), (3, 2)]),
    )
    def submit(self, number: int, name: str, shape: tuple[int, int]) -> None:
        talker, id_ = self._talker(number), next(self.ids)
        values = np.full(shape, id_, np.float32)
        header = json.dumps(["submit", id_, [["float32", shape]], name]).encode()
        talker.unread += b"".join(framing.framed(header, [values.tobytes()]))
        talker.open.add(id_)

    @precondition(lambda self: self.talkers)
    @rule(number=CLIENT, length=st.integers(0, 1500))
    def submit_with_another_length(self, number: int, length: int) -> None:
        talker, id_ = self._talker(number), next(self.ids)
        header = json.dumps(["submit", id_, [["uint8", [length + 1]]], ""]).encode()
        talker.unread += b"".join(framing.framed(header, [bytes(length)]))
        talker.open.add(id_)

    @precondition(lambda self: self.talkers)
    @rule(number=CLIENT)
    def describe(self, number: int) -> None:
        talker = self._talker(number)
        talker.unread += b"".join(framing.framed(b'["describe"]'))
        talker.described += 1

    @precondition(lambda self: self.talkers)
    @rule(number=CLIENT, header=st.binary(min_size=1, max_size=30), body=st.binary(max_size=100))
    def say_nonsense(self, number: int, header: bytes, body: bytes) -> None:
        talker = self._talker(number)
        talker.unread += b"".join(framing.framed(b"?" + header, [body]))
        talker.unnamed += 1

    @precondition(lambda self: self.talkers)
    @rule(number=CLIENT, most=st.sampled_from([5, 100, 5000]))
    def device_reads(self, number: int, most: int) -> None:
        peer = self._talker(number).peer
        talker = self._talker(number)
        while talker.unread and most and peer.wants_read:
            room = peer.room()
            piece = talker.unread[: min(most, len(room))]
            room[: len(piece)] = piece
            talker.unread = talker.unread[len(piece) :]
            most -= len(piece)
            peer.filled(len(piece), self.now_s)

    @precondition(lambda self: self.talkers)
    @rule(number=CLIENT, most=st.sampled_from([5, 100, 5000]))
    def client_reads(self, number: int, most: int) -> None:
        talker = self._talker(number)
        while most and (buffers := talker.peer.outgoing()):
            data = b"".join(buffers)[:most]
            most -= len(data)
            talker.peer.took(len(data), self.now_s)
            talker.hear(data)

    @precondition(lambda self: self.accepted)
    @rule(last=st.booleans(), fails=st.booleans())
    def answer(self, last: bool, fails: bool) -> None:
        ticket, tensors = self.accepted.pop() if last else self.accepted.popleft()
        assert (tensors[0] == ticket.id).all()
        self.service.answered(ticket, {"error": "failed"} if fails else {"outcome": "local"}, tensors)

    @precondition(lambda self: self.talkers)
    @rule(number=CLIENT)
    def leave(self, number: int) -> None:
        talker = self._talker(number)
        self.talkers.remove(talker)
        talker.peer.close()

    @rule(seconds=st.sampled_from([1.0, PATIENCE_S + 1.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        for talker in list(self.talkers):
            talker.peer.check(self.now_s)
            if talker.peer.ending:
                self.talkers.remove(talker)
                talker.peer.close()

    @invariant()
    def what_waits_is_bounded(self) -> None:
        if hasattr(self, "accepted"):
            assert len(self.accepted) <= ROOM.queue_frames

    def teardown(self) -> None:
        """All are served to the end, and a newcomer finds everything free."""
        if not hasattr(self, "accepted"):
            return
        for _ in range(200):
            for number in range(len(self.talkers)):
                self.device_reads(number, 1 << 20)
                self.client_reads(number, 1 << 20)
            while self.accepted:
                self.answer(last=False, fails=bool(len(self.accepted) % 2))
        for talker in self.talkers:
            assert (talker.unread, talker.open, talker.described, talker.unnamed) == (b"", set(), 0, 0)
            talker.peer.close()
        self.talkers.clear()
        for uid in (0, 1):
            for _ in range(2):
                self.connect(uid)
        for number in range(4):
            for _ in range(3):
                self.submit(number, "fine", (2, 3))
            for _ in range(10):
                self.device_reads(number, 1 << 20)
                self.client_reads(number, 1 << 20)
        assert len(self.accepted) == 4 + 2  # of 8: half for the first user, half of what is left for the next


TestConversations = Conversations.TestCase
TestConversations.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
