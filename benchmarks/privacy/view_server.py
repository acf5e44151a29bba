"""A server that notes all it can see of a device: each request's time, cut and size, each cancellation and probe.

It speaks the product's protocol and answers every request with zeros, ``delay_s`` after it came, which it reports
as the tail's time.
"""

from __future__ import annotations

import heapq
import threading
import time
from dataclasses import dataclass, field

import zmq

from split_model.bundle import Bundle
from split_model.protocol import messages as wire
from split_model.protocol import server as protocol


@dataclass(frozen=True)
class Seen:
    """Something that arrived: when, and of a request its cut and size."""

    at_s: float
    what: str
    cut: int = -1
    payload_bytes: int = 0


@dataclass(order=True)
class _Due:
    at_s: float
    request_id: int
    peer: bytes = field(compare=False)


class ViewServer(threading.Thread):
    """See the module. ``seen`` and ``reports`` grow while it runs, and ``payloads`` where it keeps them."""

    def __init__(self, bundle: Bundle, *, delay_s: float = 0.0, keeps_payloads: bool = False) -> None:
        super().__init__(name="view", daemon=True)
        self.delay_s = delay_s
        self.keeps_payloads = keeps_payloads
        self.seen: list[Seen] = []
        self.payloads: list[bytes] = []
        self.reports: list[tuple[float, wire.Report]] = []
        self.public, secret = zmq.curve_keypair()
        cuts = tuple(cut.index for cut in bundle.manifest.cuts)
        self._offers = (wire.Offer(identity=bundle.identity, name=bundle.manifest.name, cuts=cuts),)
        outputs = bundle.manifest.outputs
        self._tensors = tuple(wire.AnswerTensor(dtype=spec.dtype, shape=spec.shape) for spec in outputs)
        self._zeros = bytes(sum(spec.nbytes for spec in outputs))
        self._due: list[_Due] = []
        self._sessions: dict[bytes, protocol.PeerSession] = {}
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.curve_server = True
        self._socket.curve_secretkey = secret
        self.address = f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"
        self._stopping = threading.Event()

    def run(self) -> None:
        """Serve until `stop`."""
        while not self._stopping.is_set():
            wait_s = self._due[0].at_s - time.monotonic() if self._due else 0.05
            if self._socket.poll(max(0, min(50, int(wait_s * 1e3)))):
                peer, *parts = self._socket.recv_multipart()
                self._receive(peer, [memoryview(part) for part in parts])
            while self._due and self._due[0].at_s <= time.monotonic():
                self._answer(heapq.heappop(self._due))
        self._socket.close(0)

    def _receive(self, peer: bytes, parts: list[memoryview]) -> None:
        now_s = time.monotonic()
        session = self._sessions.get(peer)
        if session is None:
            session = self._sessions[peer] = protocol.PeerSession(
                user_id="device",
                boot_id="view",
                offers=self._offers,
                admit=lambda _: None,
                limits=protocol.Limits(),
                now_s=now_s,
            )
        replies, events = session.receive(parts, now_s)
        for reply in replies:
            self._socket.send_multipart([peer, wire.encode(reply)])
            if isinstance(reply, wire.ProbeReply):
                self.seen.append(Seen(now_s, "probe"))
        for event in events:
            if isinstance(event, protocol.Arrived):
                self.seen.append(Seen(now_s, "request", event.request.cut, len(event.payload)))
                if self.keeps_payloads:
                    self.payloads.append(bytes(event.payload))
                heapq.heappush(self._due, _Due(now_s + self.delay_s, event.request.request_id, peer))
            elif isinstance(event, protocol.Reported):
                self.reports.append((now_s, event.report))
            elif isinstance(event, protocol.Cancelled):
                self.seen.append(Seen(now_s, "cancel"))

    def _answer(self, due: _Due) -> None:
        answer = wire.Answer(
            request_id=due.request_id,
            tensors=self._tensors,
            timed_bytes=0,
            receive_s=0.0,
            queue_s=0.0,
            tail_s=self.delay_s,
        )
        self._socket.send_multipart([due.peer, wire.encode(answer), self._zeros])

    def stop(self) -> None:
        """End the thread and its socket."""
        self._stopping.set()
        self.join()
        self._context.term()
