"""Accepts or refuses submissions over the local socket, and routes their answers. No I/O.

No submission is dropped: it is refused at once with the reason, or accepted and then answered. Memory for a
submission and its answer is reserved before the body is read, within the limits of the client and of its user.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_runtime.local_api import messages
from edge_runtime.local_api.framing import framed
from edge_runtime.local_api.peer import Peer
from edge_runtime.local_api.shares import Shares
from edge_runtime.local_api.tensors import nbytes_of, tensors_of, values_of
from split_model.answers.lines import shortened
from split_model.arrays import Array
from split_model.errors import BadInputError, ProtocolError

log = logging.getLogger(__name__)

#: Bytes reserved for the headers of a submission and of its answer.
OVERHEAD_BYTES = 16 << 10


@dataclass
class Ticket:
    """One accepted submission, until its answer is sent. ``nbytes``: memory reserved for it."""

    peer: Peer
    id: int
    nbytes: int


@dataclass
class _Client:
    """The frames under way of one connection, and the submission whose body is being read."""

    frames: int = 0
    announced: tuple[Ticket, messages.Submit] | None = None


@dataclass(frozen=True)
class Room:
    """Limits of submissions that wait or are under way: ``queue_frames``, ``client_frames``, ``queue_bytes``.

    ``body_bytes``: the largest body of a submission. ``input_bytes``, ``answer_bytes``: of the model's inputs and
    outputs.
    """

    queue_frames: int
    client_frames: int
    queue_bytes: int
    body_bytes: int
    input_bytes: int
    answer_bytes: int

    def needed(self, body_bytes: int) -> int:
        """Memory for a submission in bytes: its body, the model's input made of it, and its answer."""
        return max(body_bytes, self.input_bytes) + self.answer_bytes + OVERHEAD_BYTES


@dataclass
class Submissions:
    """A `Service` of submissions.

    ``accept``: called with a ticket, a name and the tensors; returns False if the program is about to end, and
    raises `BadInputError` for tensors that do not fit the model. ``counts``: ``refused`` messages (``busy`` is the
    part of them refused for a limit) and ``undeliverable`` answers, whose client was gone or did not read.
    """

    description: messages.Description
    room: Room
    accept: Callable[[Ticket, str, Sequence[Array]], bool]
    where: str
    counts: Counter[str] = field(default_factory=lambda: Counter(refused=0, busy=0, undeliverable=0))
    _clients: dict[Peer, _Client] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._frames = Shares(self.room.queue_frames)
        self._bytes = Shares(self.room.queue_bytes)

    def announced(self, peer: Peer, header: bytes, body_bytes: int) -> bool:
        """See `Service`."""
        message: messages.ToDevice | None = None
        try:
            message = messages.decode_to_device(header)
        except ProtocolError as error:
            self._refuse(peer, None, "protocol", str(error))
        if body_bytes > self.room.body_bytes:
            text = f"a body of {body_bytes} bytes, at most {self.room.body_bytes} are taken"
            if message is not None:
                self._refuse(peer, message, "bad_input", text)
            peer.end(text)
            return False
        if isinstance(message, messages.Submit):
            return self._announced(peer, message, body_bytes)
        if isinstance(message, messages.Describe):
            peer.send(self.description)
        elif message is not None:
            text = "this socket takes submissions; subscribe at the socket of a sink of kind 'pub'"
            self._refuse(peer, message, "protocol", text)
        return False

    def arrived(self, peer: Peer, body: memoryview) -> None:
        """See `Service`."""
        client = self._clients[peer]
        assert client.announced is not None
        (ticket, message), client.announced = client.announced, None
        code: messages.RefusalCode
        try:
            if self.accept(ticket, message.name or str(message.id), tensors_of(message.tensors, body)):
                return
            code, text = "stopping", "the program is about to end"
        except BadInputError as error:
            code, text = "bad_input", str(error)
        except MemoryError:
            code, text = "failed", "not enough memory to take it"
        except Exception as error:
            # Any fault in one client's message must not end the source of all the others.
            log.exception("%s: a client's message could not be read; refused", self.where)
            code, text = "failed", f"it could not be read ({type(error).__name__}: {error})"
        self._release(ticket)
        self._refuse(peer, message, code, text)

    def answered(self, ticket: Ticket, record: Mapping[str, Any], outputs: Sequence[Array]) -> None:
        """Send the answer, or a refusal if the record has an ``error``."""

        def done(sent: bool) -> None:
            self._release(ticket)
            self.counts["undeliverable"] += not sent

        if "error" in record:
            ticket.peer.send(messages.refusal(ticket.id, "failed", str(record["error"])), done=done)
            return
        told = {key: value for key, value in shortened(record).items() if key != "outputs"}
        try:
            message, values = messages.answer(ticket.id, told, outputs), values_of(outputs)
            parts = framed(messages.encode(message), values)
        except Exception as error:
            log.exception("%s: an answer could not be written; refused", self.where)
            text = f"its answer could not be written ({type(error).__name__}: {error})"
            parts = framed(messages.encode(messages.refusal(ticket.id, "failed", text)))
        ticket.peer.send_raw(parts, done)

    def closed(self, peer: Peer) -> None:
        """See `Service`. Accepted submissions are still computed; their answers count as undeliverable."""
        client = self._clients.get(peer)
        if client is not None and client.announced is not None:
            (ticket, _), client.announced = client.announced, None
            self._release(ticket)

    def _announced(self, peer: Peer, message: messages.Submit, body_bytes: int) -> bool:
        largest = self.description.max_tensor_bytes
        if message.nbytes != body_bytes:
            text = f"tensors of {message.nbytes} bytes announced, {body_bytes} come"
            self._refuse(peer, message, "protocol", text)
        elif (over := max(map(nbytes_of, message.tensors), default=0)) > largest:
            self._refuse(peer, message, "bad_input", f"a tensor of {over} bytes, at most {largest} are taken")
        elif why := self._no_room(peer, self.room.needed(body_bytes)):
            self.counts["busy"] += 1
            self._refuse(peer, message, "busy", f"{why}; submit this one again when one of them is answered")
        else:
            ticket = Ticket(peer, message.id, self.room.needed(body_bytes))
            client = self._clients.setdefault(peer, _Client())
            client.frames += 1
            client.announced = ticket, message
            self._frames.take(peer.user.uid)
            self._bytes.take(peer.user.uid, ticket.nbytes)
            return True
        return False

    def _no_room(self, peer: Peer, nbytes: int) -> str:
        """The limit that is reached, as text; empty if there is room."""
        uid, room = peer.user.uid, self.room
        client = self._clients.get(peer, _Client())
        if client.frames >= room.client_frames:
            return f"{client.frames} of this client's frames are waiting or under way"
        if not self._frames.fits(uid):
            mine = self._frames.held(uid)
            return f"{self._frames.total} frames are waiting or under way, {mine} of them user {uid}'s"
        if not self._bytes.fits(uid, nbytes):
            mine = self._bytes.held(uid)
            return f"frames of {self._bytes.total} bytes are waiting or under way, {mine} of them user {uid}'s"
        return ""

    def _release(self, ticket: Ticket) -> None:
        peer = ticket.peer
        self._frames.give(peer.user.uid)
        self._bytes.give(peer.user.uid, ticket.nbytes)
        client = self._clients[peer]
        client.frames -= 1
        if not client.frames:
            del self._clients[peer]

    def _refuse(self, peer: Peer, message: messages.ToDevice | None, code: messages.RefusalCode, text: str) -> None:
        self.counts["refused"] += 1
        id_ = message.id if isinstance(message, messages.Submit) else None
        peer.send(messages.refusal(id_, code, text))
