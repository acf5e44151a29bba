"""A user-space TCP link: a cellular uplink trace between two programs on one machine, without root.

Each accepted connection (the device's) is forwarded to one upstream address (the server's).
Device to server, all connections share one queue drained at the trace's capacity; server to
device at a constant rate; each way also has a fixed delay. Finishing times are virtual (see
``lane``): a late wake-up of this process delays a quantum but loses no rate.

Limits: loss and headers are not emulated (capacity is payload), a connection is
accepted at loopback speed, and the kernel's own view of a socket (TCP_INFO) sees the
loopback, so round trips must be measured by the programs themselves. The sender's own socket
buffer comes before this link's queue and is not bounded by it. As a command: ``link``.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from benchmarks.wire.lane import Lane
from benchmarks.wire.traces import Trace, constant
from split_model.errors import OutputError

Address = tuple[str, int]

TICK_S = 0.002  # least time between two wake-ups for delivery: bounds the cost at high rates
SOCKET_BUFFER_BYTES = 16_384
"""Asked of the kernel, which doubles it; small, so that back-pressure reaches the sender."""


@dataclass(eq=False)
class End:
    """One side of a forwarded connection; bytes read here are written, later, at ``peer``."""

    sock: socket.socket
    outgoing: Lane[End]
    peer: End = field(init=False)
    connecting: bool = False
    read_over: bool = False
    closing: bool = False
    write_over: bool = False
    ahead: bool = False
    """Not yet seen without bytes in the kernel: the sender may be ahead of the link."""
    unsent: bytearray = field(default_factory=bytearray)

    def wants_read(self) -> bool:
        return not self.read_over and not self.peer.unsent and self.outgoing.room() > 0


class Link:
    """The emulator; ``run`` it, or use it as a context manager that runs it in a thread.

    ``uplink`` shapes device to server; ``downlink_mbit_s`` the other way; ``delay_s`` is added
    each way; ``queue_bytes`` bounds each direction's queue. ``epoch_s`` is the trace's zero on
    CLOCK_MONOTONIC; now when not given. Raises OutputError when the address cannot be had.
    """

    def __init__(
        self,
        upstream: Address,
        uplink: Trace,
        *,
        listen: Address = ("127.0.0.1", 0),
        downlink_mbit_s: float = 20.0,
        delay_s: float = 0.02,
        queue_bytes: int = 32_768,
        epoch_s: float | None = None,
    ) -> None:
        self.upstream = upstream
        self.up: Lane[End] = Lane(uplink, delay_s, queue_bytes)
        self.down: Lane[End] = Lane(constant(downlink_mbit_s), delay_s, queue_bytes)
        self._epoch_s = time.monotonic() if epoch_s is None else epoch_s
        self._ends: list[End] = []
        self._cut_at_s: float | None = None
        self._running = True
        self._requests: deque[Callable[[], None]] = deque()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Before listen: the window scale of accepted connections follows from it.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
        try:
            self._listener.bind(listen)
        except OSError as error:
            self._close()
            raise OutputError(
                f"cannot listen on {listen[0]}:{listen[1]}: {error.strerror}", remedy="choose port 0"
            ) from None
        self._listener.listen()
        self._listener.setblocking(False)
        self._thread = threading.Thread(target=self.run, name="link", daemon=True)

    @property
    def address(self) -> Address:
        """Return the host and port that devices connect to."""
        host, port = self._listener.getsockname()
        return str(host), int(port)

    def now_s(self) -> float:
        """Return the time on the trace's clock, in seconds."""
        return time.monotonic() - self._epoch_s

    def counters(self) -> dict[str, float | int]:
        """Return the counters of both directions so far; times in seconds."""
        return {
            "uplink_bytes": self.up.delivered_bytes,
            "downlink_bytes": self.down.delivered_bytes,
            "uplink_busy_s": round(self.up.busy_s, 3),
            "downlink_busy_s": round(self.down.busy_s, 3),
        }

    def cut(self) -> None:
        """Stop both directions and new connections; open connections stay open."""
        self._ask(self._cut)

    def restore(self) -> None:
        """End a cut: queued bytes are sent again."""
        self._ask(self._restore)

    def toggle(self) -> None:
        """Cut the link, or restore it if it is cut."""
        self._ask(lambda: self._cut() if self._cut_at_s is None else self._restore())

    def set_epoch(self, epoch_s: float) -> None:
        """Set the trace's zero, in seconds of CLOCK_MONOTONIC."""
        self._ask(lambda: self._set_epoch(epoch_s))

    def stop(self) -> None:
        """Close every connection and end ``run``."""
        self._ask(self._stop)

    def _ask(self, request: Callable[[], None]) -> None:
        self._requests.append(request)
        with contextlib.suppress(BlockingIOError, OSError):  # full: it will wake anyway; closed: it has stopped
            self._wake_in.send(b"!")

    def _cut(self) -> None:
        if self._cut_at_s is None:
            self._cut_at_s = self.now_s()

    def _restore(self) -> None:
        if self._cut_at_s is not None:
            now_s = self.now_s()
            for lane in (self.up, self.down):
                lane.restart(now_s, now_s - self._cut_at_s)
            self._cut_at_s = None

    def _set_epoch(self, epoch_s: float) -> None:
        shift_s, self._epoch_s = self._epoch_s - epoch_s, epoch_s
        if self._cut_at_s is not None:
            self._cut_at_s += shift_s
        for lane in (self.up, self.down):
            lane.restart(self.now_s(), shift_s)

    def _stop(self) -> None:
        self._running = False

    def __enter__(self) -> Link:  # noqa: PYI034 - Self needs Python 3.11
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.stop()
        self._thread.join()

    def run(self) -> None:
        """Forward until ``stop``; then close everything."""
        try:
            while self._running:
                self._step()
        finally:
            self._close()

    def _close(self) -> None:
        for sock in (*(end.sock for end in self._ends), self._listener, self._wake_in, self._wake_out):
            sock.close()

    def _step(self) -> None:
        readers, writers = self._wanted()
        ahead = [end for end in self._ends if end.ahead and end.wants_read()] if self._cut_at_s is None else []
        timeout_s = 0.0 if ahead else self._timeout_s()
        readable, writable, _ = select.select(readers, writers, [], timeout_s)
        if self._wake_out in readable:
            self._wake_out.recv(4096)
            while self._requests:
                self._requests.popleft()()
        if self._cut_at_s is not None or not self._running:
            return
        ready = set(readable)
        for end in ahead:
            end.ahead = end.sock in ready  # it has caught up: what comes later comes later
        if self._listener in ready:
            self._accept()
        for end in [end for end in self._ends if end.sock in writable]:
            self._flush(end)
        for end in [end for end in self._ends if end.sock in ready]:
            self._read(end)
        self._deliver()
        if self._ends:  # turn by turn, or the first connection would take all the room there is
            self._ends.append(self._ends.pop(0))

    def _wanted(self) -> tuple[list[socket.socket], list[socket.socket]]:
        readers = [self._wake_out]
        if self._cut_at_s is not None:
            return readers, []
        readers += [self._listener, *(end.sock for end in self._ends if end.wants_read())]
        return readers, [end.sock for end in self._ends if end.connecting or end.unsent]

    def _timeout_s(self) -> float | None:
        if self._cut_at_s is not None:
            return None
        wait_s = min(self.up.next_s(), self.down.next_s()) - self.now_s()
        return None if wait_s > 1e6 else max(wait_s, TICK_S)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):  # it went away while it waited
            accepted, _ = self._listener.accept()
            onward = socket.socket()
            onward.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
            device, server = End(accepted, self.up), End(onward, self.down, connecting=True)
            device.peer, server.peer = server, device
            for sock in (accepted, onward):
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._ends += [device, server]
            if onward.connect_ex(self.upstream) not in (0, errno.EINPROGRESS):
                self._abort(device)

    def _read(self, end: End) -> None:
        room = end.outgoing.room()
        if end.sock.fileno() < 0 or not room or end.connecting:
            return
        try:
            data = end.sock.recv(room)
        except BlockingIOError:
            return
        except OSError:
            self._abort(end)
            return
        end.outgoing.enter(end.peer, data, self.now_s(), waited=end.ahead)
        end.ahead = bool(data)
        end.read_over = not data

    def _deliver(self) -> None:
        now_s = self.now_s()
        touched: dict[End, None] = {}
        for lane in (self.up, self.down):
            for quantum in lane.due(now_s):
                quantum.to.unsent += quantum.data
                quantum.to.closing |= not quantum.data
                touched[quantum.to] = None
        for end in touched:
            if not end.connecting:
                self._flush(end)

    def _flush(self, end: End) -> None:
        if end.sock.fileno() < 0:  # closed meanwhile: its bytes are lost, as they would be
            end.unsent.clear()
            return
        if end.connecting:
            if end.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._abort(end)
                return
            end.connecting = False
        try:
            if end.unsent:
                del end.unsent[: end.sock.send(end.unsent)]
            if end.closing and not end.unsent and not end.write_over:
                end.write_over = True
                end.sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return
        except OSError:
            self._abort(end)
            return
        if end.write_over and end.peer.write_over:
            self._drop(end)

    def _abort(self, end: End) -> None:
        """Break the connection on both sides, as a reset does."""
        for sock in (end.sock, end.peer.sock):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._drop(end)

    def _drop(self, end: End) -> None:
        for side in (end, end.peer):
            side.sock.close()
            self._ends.remove(side)
