"""The device program's end of one local connection, without I/O: bytes in, bytes out.

A service accepts or refuses every message before its body is read. While a client does not read, the program does
not read from it either, so it holds no more for that client than the answers to its accepted frames.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from edge_runtime.local_api import framing, messages
from split_model.errors import ProtocolError

#: Seconds within which a client must finish a hello, finish a message, and read an answer.
PATIENCE_S = 10.0


@dataclass(frozen=True)
class User:
    """The user and process that connected, from the kernel (SO_PEERCRED)."""

    pid: int
    uid: int

    def __str__(self) -> str:
        return f"process {self.pid} of user {self.uid}"


class Service(Protocol):
    """The service behind a socket; called for each message before and after its body is read."""

    def announced(self, peer: Peer, header: bytes, body_bytes: int) -> bool:
        """Decide whether to read the body into memory or skip it. Replies go to ``peer.send``."""

    def arrived(self, peer: Peer, body: memoryview) -> None:
        """Handle the body that was accepted last."""

    def closed(self, peer: Peer) -> None:
        """Release the resources of the connection."""


@dataclass
class _Outgoing:
    """A queued message. ``done``: called with whether it was sent whole."""

    parts: deque[memoryview]
    done: Callable[[bool], None]


class Peer:
    """One connection. Compared by identity.

    ``ending``: nothing more is read, and the connection is closed once `outgoing` is empty. ``trouble``: the
    reason, if it is the client's fault.
    """

    def __init__(self, user: User, service: Service, *, now_s: float) -> None:
        self.user = user
        self.ending = False
        self.closed = False
        self.trouble = ""
        self._service = service
        self._greeted = False
        self._incoming = framing.Incoming()
        self._outgoing: deque[_Outgoing] = deque()
        self._began_s: float | None = now_s  # start of a hello or a message that is not complete
        self._unread_s: float | None = None  # since when the client has had the first of `_outgoing` to read

    @property
    def wants_read(self) -> bool:
        """Whether more bytes are to be read."""
        return not self._outgoing and not self.ending and not self.closed

    @property
    def between(self) -> bool:
        """Whether the connection is between two messages: no part of the next one has arrived."""
        return self._incoming.between

    def room(self) -> memoryview:
        """Where the next bytes belong."""
        return self._incoming.room()

    def filled(self, count: int, now_s: float) -> None:
        """Process ``count`` bytes that were read into `room`."""
        if self._began_s is None:
            self._began_s = now_s
        try:
            event = self._incoming.filled(count)
        except framing.VersionError as error:
            self._put([framing.hello()], _ignore)
            self.end(str(error))
            return
        except ProtocolError as error:
            if self._greeted:
                self.send(messages.refusal(None, "protocol", str(error)))
            self.end(str(error))
            return
        while event is not None:
            event = self._handle(event)
        if self._incoming.between:
            self._began_s = None
        if self._outgoing and self._unread_s is None:
            self._unread_s = now_s

    def refuse(self, text: str) -> None:
        """Turn the connection away before anything was read."""
        self._put([framing.hello()], _ignore)
        self.send(messages.refusal(None, "busy", text))
        self.ending = True

    def send(
        self,
        message: messages.ToClient,
        values: Sequence[framing.Bytes] = (),
        done: Callable[[bool], None] | None = None,
    ) -> None:
        """Queue a message. ``done`` is called once it is certain whether the message was sent whole."""
        self.send_raw(framing.framed(messages.encode(message), values), done)

    def send_raw(self, parts: Sequence[framing.Bytes], done: Callable[[bool], None] | None = None) -> None:
        """Queue a message that was framed already."""
        if not self.closed:
            self._put(parts, done or _ignore)
        elif done is not None:
            done(False)

    def outgoing(self) -> list[memoryview]:
        """The buffers to write next, of one message."""
        return list(self._outgoing[0].parts) if self._outgoing else []

    def took(self, count: int, now_s: float) -> None:
        """Note that ``count`` bytes of `outgoing` were written; 0 if the client's buffer is full."""
        if self._unread_s is None:
            self._unread_s = now_s
        message = self._outgoing[0]
        while count:
            part = message.parts.popleft()
            if count < len(part):
                message.parts.appendleft(part[count:])
                return
            count -= len(part)
        if message.parts:
            return
        self._outgoing.popleft()
        self._unread_s = now_s if self._outgoing else None
        if not self._outgoing and self._began_s is not None:
            self._began_s = now_s  # its messages were not read meanwhile
        message.done(True)

    def check(self, now_s: float) -> None:
        """End the connection of a client that takes too long."""
        if self._unread_s is not None and now_s - self._unread_s > PATIENCE_S:
            self.drop(f"it did not read an answer within {PATIENCE_S:g} s")
        elif self.wants_read and self._began_s is not None and now_s - self._began_s > PATIENCE_S:
            text = f"it did not finish a message within {PATIENCE_S:g} s"
            if self._greeted:
                self.send(messages.refusal(None, "protocol", text))
                self._unread_s = now_s
            self.end(text)

    @property
    def waits(self) -> bool:
        """Whether `check` has anything to look at."""
        return self._began_s is not None or self._unread_s is not None

    def end(self, trouble: str) -> None:
        """Read nothing more, and close once all queued messages are sent."""
        self.ending = True
        self.trouble = self.trouble or trouble

    def close(self) -> None:
        """Note that the connection is closed."""
        if self.closed:
            return
        self.closed = True
        self.drop("")
        self._service.closed(self)

    def drop(self, trouble: str) -> None:
        """Close without sending the queued answers."""
        self.end(trouble)
        waiting, self._outgoing = self._outgoing, deque()
        for message in waiting:
            message.done(False)

    def _put(self, parts: Sequence[framing.Bytes], done: Callable[[bool], None]) -> None:
        self._outgoing.append(_Outgoing(deque(memoryview(part) for part in parts if len(part)), done))

    def _handle(self, event: framing.Event) -> framing.Event | None:
        if isinstance(event, framing.Hello):
            self._greeted = True
            self._put([framing.hello()], _ignore)
        elif isinstance(event, framing.Body):
            self._service.arrived(self, event.data)
        elif isinstance(event, framing.Header):
            keep = self._service.announced(self, event.data, event.body_bytes)
            if not self.ending:
                return self._incoming.accept() if keep else self._incoming.skip()
        return None


def _ignore(_: bool) -> None:
    """Ignore the result of a message."""
