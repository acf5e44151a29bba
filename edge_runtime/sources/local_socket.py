"""The kind ``socket``: programs on this board submit tensors and get answers, over a local Unix socket.

The permissions of its file decide who may submit. No submission is dropped: it is accepted and then answered, or
refused at once with the reason. A client's mistakes affect only that client, and one user's flood leaves room for
the others.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from edge_runtime.local_api import framing, messages, socket_files
from edge_runtime.local_api.server import Server
from edge_runtime.local_api.shares import Turns
from edge_runtime.local_api.submissions import OVERHEAD_BYTES, Room, Submissions, Ticket
from edge_runtime.sources.source import Answer, Frame, Source, SourceTable, Wanted
from split_model.arrays import Array
from split_model.errors import ConfigError

_WAIT_S = 0.2
#: Default of `queue_bytes`, in submissions of the largest size.
_LARGEST = 4


class SocketTable(SourceTable, frozen=True, tag="socket"):
    """``path`` is the socket; this user and, if set, ``group`` may use it.

    At most ``queue_frames`` submissions wait or are under way, ``client_frames`` of one client; more are refused as
    busy. No tensor may have more than ``max_tensor_bytes``. ``queue_bytes``: memory for all submissions and
    answers; default: four of the largest. ``max_clients``: connections at a time. Frames, bytes and connections are
    shared among users: no user may hold more than remains for the others.
    """

    path: Path = Path(framing.FRAMES_PATH)
    group: str | None = None
    queue_frames: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 32
    client_frames: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 8
    max_tensor_bytes: Annotated[int, msgspec.Meta(ge=1024, le=1 << 30)] = 16 << 20
    queue_bytes: Annotated[int, msgspec.Meta(ge=64 << 10, le=1 << 40)] | None = None
    max_clients: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 64

    def check(self, wanted: Wanted) -> None:
        """Check path, group, and that the limits have room for the model's inputs."""
        socket_files.check(self.path, self.group, f"source {self.label}")
        needed = max(spec.nbytes for spec in wanted.inputs)
        if self.max_tensor_bytes < needed:
            raise ConfigError(
                f"source {self.label}: max_tensor_bytes = {self.max_tensor_bytes}, the model's input has {needed}",
                remedy=f"set {needed} or more, or leave the key out",
            )
        room = self.room(wanted)
        if room.queue_bytes < (largest := room.needed(self.max_tensor_bytes)):
            raise ConfigError(
                f"source {self.label}: queue_bytes = {self.queue_bytes} has no room for a submission of "
                "max_tensor_bytes with its answer",
                remedy=f"set {largest} or more, or leave it out",
            )

    def room(self, wanted: Wanted) -> Room:
        """The limits of submissions for this model."""
        inputs, outputs = (sum(spec.nbytes for spec in specs) for specs in (wanted.inputs, wanted.outputs))
        body_bytes = self.max_tensor_bytes * len(wanted.inputs)
        queue_bytes = self.queue_bytes or _LARGEST * (body_bytes + outputs + OVERHEAD_BYTES)
        return Room(
            queue_frames=self.queue_frames,
            client_frames=self.client_frames,
            queue_bytes=queue_bytes,
            body_bytes=min(body_bytes, queue_bytes - outputs - OVERHEAD_BYTES),
            input_bytes=inputs,
            answer_bytes=outputs,
        )

    def open(self, wanted: Wanted) -> SocketSource:
        """Bind the socket and start its thread."""
        self.check(wanted)
        return SocketSource(self, wanted)


class SocketSource(Source):
    """A source whose second thread serves the socket; `frames` and `answered` use it through queues.

    ``refused``: refused messages (``busy``: those refused for a limit). ``undeliverable``: answers whose client was
    gone or did not read. ``clients``: present connections. ``disconnected``: those that were turned away or ended.
    """

    def __init__(self, table: SocketTable, wanted: Wanted, *, now: Callable[[], float] = time.monotonic) -> None:
        self._wanted = wanted
        self._now = now
        self._changed = threading.Condition()  # guards the two below
        self._ending = False
        # `Source.queue_frames` is 1: all submissions wait here, where users take turns.
        self._accepted: Turns[Frame] = Turns()
        self._stopped: Callable[[], bool] = lambda: False
        self._answers: deque[Answer] = deque()
        where = f"source {table.label}"
        self._submissions = Submissions(_describe(table, wanted), table.room(wanted), self._accept, where)
        self._server = Server(
            socket_files.Listener(table.path, table.group, where),
            self._submissions,
            max_clients=table.max_clients,
            woken=self._deliver,
            where=where,
        )
        self._server.start()

    def frames(self, stopped: Callable[[], bool]) -> Iterator[Frame]:
        """Yield submissions, users in turn; after the stop, those that were accepted before it."""
        self._stopped = stopped
        while True:
            if self._server.error is not None:
                raise self._server.error
            with self._changed:
                self._ending = self._ending or stopped()
                if not self._accepted and not self._ending:
                    self._changed.wait(_WAIT_S)
                frame = self._accepted.take() if self._accepted else None
                if frame is None and self._ending:
                    return
            if frame is not None:
                yield frame

    def answered(self, answer: Answer) -> None:
        """Send the answer."""
        self._answers.append(answer)
        self._server.wake()

    def counters(self) -> dict[str, int]:
        """See the class."""
        server = self._server
        return {**self._submissions.counts, "clients": server.clients, "disconnected": server.disconnected}

    def close(self) -> None:
        """Send the waiting answers, and remove the socket."""
        self._server.close()

    def _accept(self, ticket: Ticket, name: str, tensors: Sequence[Array]) -> bool:
        fitted, placement = self._wanted.fit(tensors), self._wanted.placement(tensors)
        frame = Frame(0, name, fitted, None, self._now(), ticket=ticket, placement=placement)
        with self._changed:
            if self._ending or self._stopped():
                return False
            self._accepted.put(ticket.peer.user.uid, frame)
            self._changed.notify()
        return True

    def _deliver(self) -> None:
        while self._answers:
            answer = self._answers.popleft()
            self._submissions.answered(answer.frame.ticket, answer.record, answer.outputs)


def _describe(table: SocketTable, wanted: Wanted) -> messages.Description:
    inputs, outputs = (
        tuple((spec.dtype, spec.shape) for spec in specs) for specs in (wanted.inputs, wanted.outputs)
    )
    return messages.Description(
        wanted.model,
        inputs,
        outputs,
        pictures=wanted.preprocess is not None,
        queue_frames=table.queue_frames,
        client_frames=table.client_frames,
        max_tensor_bytes=table.max_tensor_bytes,
    )
