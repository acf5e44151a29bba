"""The real way out of a device, with a server at its end that notes all it is sent and when.

The device's side is the product's: the release, the link thread, the protocol session, CURVE over TCP. The
server's side is the product's protocol session behind a socket that takes any key. It answers each request at
once, and the device then releases the next frame: so the time it sees is from its answer to the next payload.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import zmq
from numpy.typing import NDArray

from edge_runtime.link.link_thread import Link
from edge_runtime.link.transport import Transport
from split_model.audit import Observed
from split_model.audit.wire import PATIENCE_S, ServerEnd, request_of
from split_model.protocol import messages as wire
from split_model.protocol.device import DeviceSession
from split_model.protocol.keys import KeyPair

_BUNDLE = "0" * 64

#: Makes the payload of a frame that holds the first secret (False) or the second (True).
Releasing = Callable[[bool], memoryview]
#: Payload bytes to numbers.
Reading = Callable[[bytes], NDArray[np.int64]]


class Eavesdropper(threading.Thread):
    """The audit's server in a thread: keeps every payload, with the seconds since its last answer."""

    def __init__(self) -> None:
        super().__init__(name="eavesdropper", daemon=True)
        self.payloads: list[bytes] = []
        self.seconds: list[float] = []
        self._answered_s = time.perf_counter()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        offer = wire.Offer(identity=_BUNDLE, name="audit", cuts=(1,))
        self._end = ServerEnd(self._context, offer, self._arrived)
        self.public, self.address = self._end.public, self._end.address
        self._stopping = threading.Event()

    def run(self) -> None:
        """Serve until `stop`."""
        while not self._stopping.is_set():
            count = len(self.payloads)
            self._end.serve(50)
            if len(self.payloads) > count:
                self._answered_s = time.perf_counter()
        self._end.close()

    def _arrived(self, payload: bytes) -> None:
        self.seconds.append(time.perf_counter() - self._answered_s)
        self.payloads.append(payload)

    def stop(self) -> None:
        """End the thread and its socket."""
        self._stopping.set()
        self.join()
        self._context.term()


class Pipe:
    """A device and its eavesdropper; made by `connected`."""

    def __init__(self) -> None:
        self.server = Eavesdropper()
        public, secret = zmq.curve_keypair()
        self._boot_id = secrets.token_hex(16)
        self._transport = Transport(
            self.server.address,
            keys=KeyPair(public, secret),
            server_keys=(self.server.public,),
            max_answer_bytes=1 << 16,
        )
        self._link = Link(self._transport, DeviceSession(boot_id=self._boot_id, software="audit"))
        self._requests = 0

    def start(self) -> None:
        """Connect; `TimeoutError` where that does not come about."""
        self.server.start()
        self._link.start()
        deadline_s = time.monotonic() + PATIENCE_S
        while not self._link.view().up:
            if time.monotonic() > deadline_s:
                raise TimeoutError("the device did not connect")
            time.sleep(0.005)

    def close(self) -> None:
        """End both sides."""
        self._link.stop()
        self._transport.terminate()
        self.server.stop()

    def send(self, payload: memoryview) -> None:
        """One request, to its answer."""
        self._requests += 1
        due_at_s = time.monotonic() + PATIENCE_S
        request = request_of(payload, number=self._requests, boot_id=self._boot_id, bundle=_BUNDLE, cut=1)
        reservation = self._link.reserve(offloaded=True)
        reservation.send(request, payload, due_at_s=due_at_s)
        outcome = reservation.wait(until_s=due_at_s)
        reservation.release()
        if outcome is None or outcome.answered is None:
            raise TimeoutError(f"no answer to request {self._requests}: {outcome}")

    def observe(self, release: Releasing, read: Reading, *, trials: int) -> tuple[Observed, Observed]:
        """Release ``trials`` frames of each of two secrets, in random order; return the observations of each."""
        bits = np.random.default_rng().permutation(np.repeat([False, True], trials))
        self.send(release(False))  # the first has no answer before it
        self.server.payloads.clear()
        self.server.seconds.clear()
        for bit in bits.tolist():
            self.send(release(bit))
        seen = _decoded(self.server, read)
        return seen.where(~bits), seen.where(bits)


@contextlib.contextmanager
def connected() -> Iterator[Pipe]:
    """A pipe whose device has been welcomed."""
    pipe = Pipe()
    try:
        pipe.start()
        yield pipe
    finally:
        pipe.close()


def _decoded(server: Eavesdropper, read: Reading) -> Observed:
    rows = [read(payload) for payload in server.payloads]
    values = np.full((len(rows), max(row.size for row in rows)), -1, np.int64)  # of a payload cut short the rest
    for row, filled in zip(rows, values, strict=True):
        filled[: row.size] = row
    return Observed(values, np.array([len(payload) for payload in server.payloads]), np.array(server.seconds))
