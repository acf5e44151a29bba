"""The kind ``socket``: programs on this board submit tensors and get answers, over a local ZeroMQ socket.

Who may open its file may submit. No submission is dropped: it is accepted, and then answered, or refused at once
with the reason. One client's mistakes reach that client only.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import zmq

from edge_runtime.local_api import messages as wire
from edge_runtime.local_api import socket_files
from edge_runtime.sources.source import Answer, Frame, Source, SourceTable, Wanted
from split_model.errors import BadInputError, ConfigError, ProtocolError

log = logging.getLogger(__name__)

_WAIT_S = 0.2
#: Answers that a client does not read are kept up to about so many; then they are lost to it.
_UNREAD = 64
#: Submissions of a client that are read ahead.
_UNHEARD = 4
_LINGER_MS = 500


class SocketTable(SourceTable, frozen=True, tag="socket"):
    """``path`` is the socket; this user and, where set, ``group`` may use it.

    At most ``queue_frames`` submissions wait or are under way, ``client_frames`` of one client; more are refused as
    busy. No tensor may have more than ``max_tensor_bytes``.
    """

    path: Path = Path(wire.DEFAULT_PATH)
    group: str | None = None
    queue_frames: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 32
    client_frames: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 8
    max_tensor_bytes: Annotated[int, msgspec.Meta(ge=1024, le=1 << 30)] = 16 << 20

    def check(self, wanted: Wanted) -> None:
        """Path, group, and that the model's inputs may be so large."""
        socket_files.check(self.path, self.group, f"source {self.label}")
        needed = max(spec.nbytes for spec in wanted.inputs)
        if self.max_tensor_bytes < needed:
            raise ConfigError(
                f"source {self.label}: max_tensor_bytes = {self.max_tensor_bytes}, the model's input has {needed}"
            )

    def open(self, wanted: Wanted) -> SocketSource:
        """Bind the socket and start its thread."""
        self.check(wanted)
        return SocketSource(self, wanted)


@dataclass(frozen=True)
class _Ticket:
    """Who wants the answer. ``envelope``: the empty frame that a REQ socket puts in front, to be given back."""

    client: bytes
    envelope: tuple[bytes, ...]
    id: int


class SocketSource(Source):
    """A thread of its own has the socket; `frames` and `answered` talk to it through queues.

    ``refused``: messages without an answer, those ``busy`` among them. ``undeliverable``: answers whose client was
    gone, or did not read.
    """

    def __init__(self, table: SocketTable, wanted: Wanted, *, now: Callable[[], float] = time.monotonic) -> None:
        # What is accepted is never held up: the limit is the table's, and it counts what is under way as well.
        self.queue_frames = table.queue_frames
        self._table = table
        self._wanted = wanted
        self._now = now
        self._counts: Counter[str] = Counter(refused=0, busy=0, undeliverable=0)
        self._guard = threading.Lock()  # between accepting and the end of `frames`
        self._ending = False
        self._closed = False
        self._accepted: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self._open: Counter[bytes] = Counter()  # by client
        self._answers: deque[Answer] = deque()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        try:
            self._bind()
        except BaseException:
            self._release()
            raise
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"socket-{table.label}", daemon=True)
        self._thread.start()

    def frames(self, stopped: Callable[[], bool]) -> Iterator[Frame]:
        """Submissions as they come; after the stop, those that were accepted before."""
        while True:
            if self._error is not None:
                raise self._error
            with self._guard:
                self._ending = self._ending or stopped()
                if self._ending and self._accepted.empty():
                    return
            with contextlib.suppress(queue.Empty):
                yield self._accepted.get(timeout=_WAIT_S)

    def answered(self, answer: Answer) -> None:
        """Have the answer sent."""
        self._answers.append(answer)
        self._wake()

    def counters(self) -> dict[str, int]:
        """See the class."""
        return dict(self._counts)

    def close(self) -> None:
        """Send the answers that are there, and remove the socket."""
        self._closed = True
        self._wake()
        self._thread.join()
        self._release()
        socket_files.remove(self._table.path)

    def _bind(self) -> None:
        table = self._table
        self._socket.setsockopt(zmq.LINGER, _LINGER_MS)
        self._socket.setsockopt(zmq.MAXMSGSIZE, table.max_tensor_bytes)
        self._socket.setsockopt(zmq.RCVHWM, _UNHEARD)
        self._socket.setsockopt(zmq.SNDHWM, _UNREAD)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket_files.bind(self._socket, table.path, table.group, f"source {table.label}")

    def _release(self) -> None:
        self._socket.close()
        self._context.term()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: it will wake anyway
            os.write(self._wake_write, b"\0")

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException as error:  # noqa: BLE001  `frames` raises it, whatever it is
            self._error = error

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wake_read, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self._wake_read in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
            closed = self._closed  # answers that came before it are in the queue by now
            while self._answers:
                self._deliver(self._answers.popleft())
            if closed:
                return
            if self._socket in ready:
                client, *frames = self._socket.recv_multipart()
                envelope = tuple(frames[:1]) if frames and not frames[0] else ()
                if (reply := self._receive(client, envelope, frames[len(envelope) :])) is not None:
                    self._send(client, envelope, reply, ())

    def _receive(
        self, client: bytes, envelope: tuple[bytes, ...], frames: Sequence[bytes]
    ) -> wire.Description | wire.Refusal | None:
        """One message of a client; the reply, if it can be given at once."""
        message: wire.Describe | wire.Submit | None = None
        try:
            message = wire.decode_to_device(frames[0] if frames else b"")
            if message.version != wire.VERSION:
                text = f"version {message.version}, this program speaks {wire.VERSION}"
                return self._refuse(message, "version", text)
            if isinstance(message, wire.Describe):
                return self._describe()
            return self._accept(_Ticket(client, envelope, message.id), message, frames[1:])
        except ProtocolError as error:
            return self._refuse(message, "protocol", str(error))
        except BadInputError as error:
            return self._refuse(message, "bad_input", str(error))
        except Exception as error:
            # One client's message must not end the source of all others, whatever is wrong with it.
            log.exception("source %s: a client's message could not be read; refused", self._table.label)
            return self._refuse(message, "failed", f"it could not be read ({type(error).__name__}: {error})")

    def _accept(self, ticket: _Ticket, message: wire.Submit, values: Sequence[bytes]) -> wire.Refusal | None:
        tensors = wire.tensors_of(message.tensors, values)
        if (refusal := self._no_room(ticket.client, message)) is not None:
            return refusal
        fitting = self._wanted.fit(tensors)
        frame = Frame(0, message.name or str(message.id), fitting, None, self._now(), ticket=ticket)
        with self._guard:
            if self._ending:
                return self._refuse(message, "stopping", "the program is about to end")
            self._open[ticket.client] += 1
            self._accepted.put(frame)
        return None

    def _no_room(self, client: bytes, message: wire.Submit) -> wire.Refusal | None:
        table = self._table
        if self._open.total() >= table.queue_frames:
            why = f"{table.queue_frames} frames are waiting or under way"
        elif self._open[client] >= table.client_frames:
            why = f"{table.client_frames} of this client's frames are waiting or under way"
        else:
            return None
        self._counts["busy"] += 1
        return self._refuse(message, "busy", f"{why}; submit it again when one is answered")

    def _refuse(
        self, message: wire.Describe | wire.Submit | None, code: wire.RefusalCode, text: str
    ) -> wire.Refusal:
        self._counts["refused"] += 1
        return wire.Refusal(message.id if isinstance(message, wire.Submit) else None, code, text[:1000])

    def _describe(self) -> wire.Description:
        wanted, table = self._wanted, self._table
        inputs, outputs = (
            tuple(wire.TensorHeader(spec.dtype, spec.shape) for spec in specs)
            for specs in (wanted.inputs, wanted.outputs)
        )
        pictures = wanted.preprocess is not None
        return wire.Description(
            wire.VERSION, wanted.model, inputs, outputs, pictures, table.queue_frames, table.client_frames
        )

    def _deliver(self, answer: Answer) -> None:
        ticket: _Ticket = answer.frame.ticket
        self._open[ticket.client] -= 1
        if not self._open[ticket.client]:
            del self._open[ticket.client]
        if "error" in answer.record:
            refusal = wire.Refusal(ticket.id, "failed", str(answer.record["error"])[:1000])
            self._send(ticket.client, ticket.envelope, refusal, ())
            return
        record = {key: value for key, value in answer.record.items() if key != "outputs"}
        reply = wire.Answer(ticket.id, record, wire.headers_of(answer.outputs))
        self._send(ticket.client, ticket.envelope, reply, wire.values_of(answer.outputs))

    def _send(
        self, client: bytes, envelope: tuple[bytes, ...], reply: wire.ToClient, values: Sequence[memoryview]
    ) -> None:
        try:
            self._socket.send_multipart([client, *envelope, wire.encode(reply), *values], zmq.DONTWAIT)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            self._counts["undeliverable"] += 1
