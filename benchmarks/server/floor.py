"""The floor: a bare CURVE ROUTER in Python that decodes a header and hands the work to two threads.

python -m benchmarks.server.floor CUT THREADS     serves; prints its port and public key

It has no checks, no bounds, no fairness and no acknowledgements. Its time beyond the tail is the price of CURVE, a
header and two hand-overs for any server in Python, with the processor's caches as they are after a tail.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import zmq

from benchmarks.demo.rig import Rig
from benchmarks.server.case import peer_case
from benchmarks.server.served import DEVICES, Served
from split_model.interpreter import open_interpreter
from split_model.privacy import NoiseRecovery
from split_model.protocol import messages as wire
from split_model.protocol.chunks import Incoming
from split_model.protocol.keys import KeyPair

_WINDOW_BYTES = 1 << 20


@contextlib.contextmanager
def serving(cut: int, *, threads: int) -> Iterator[Served]:
    """Start the floor, and end it with the block; gives the address and key that `scene.run` needs."""
    with tempfile.TemporaryDirectory(prefix="floor-") as folder, Rig(Path(folder)) as rig:
        program, ready = rig.start("floor", "-m", "benchmarks.server.floor", str(cut), str(threads), wait_json=True)
        yield Served(
            endpoint=f"tcp://127.0.0.1:{ready['port']}",
            public_key=ready["key"],
            keys=tuple(KeyPair(*zmq.curve_keypair()) for _ in range(DEVICES)),
            pids=(program.process.pid,),
            config=rig.folder,
        )


class Floor:
    """The socket, its threads, and the answers that the threads have made."""

    def __init__(self, cut: int, threads: int) -> None:
        self._case = peer_case(cut)
        self._recovery = NoiseRecovery(self._case.plan)
        self._work: queue.SimpleQueue[tuple[bytes, int, bytes | bytearray]] = queue.SimpleQueue()
        self._arriving: dict[tuple[bytes, int], Incoming] = {}
        self._done: deque[tuple[bytes, bytes, bytes]] = deque()
        self._readable, self._writable = os.pipe()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        public, secret = zmq.curve_keypair()
        self._router.curve_server = True
        self._router.curve_publickey, self._router.curve_secretkey = public, secret
        self.port = self._router.bind_to_random_port("tcp://127.0.0.1")
        self.key = public.decode()
        for _ in range(threads):
            threading.Thread(target=self._run, daemon=True).start()

    def serve(self) -> None:
        """Receive messages and send answers, until the process is ended."""
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._readable, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self._readable in ready:
                os.read(self._readable, 1 << 16)
                while self._done:
                    self._router.send_multipart(self._done.popleft())
            if self._router in ready:
                with contextlib.suppress(zmq.Again):
                    while True:
                        self._take(*self._router.recv_multipart(zmq.DONTWAIT))

    def _take(self, routing_id: bytes, header: bytes, payload: bytes = b"") -> None:
        message = wire.decode_from_device(memoryview(header))
        if isinstance(message, wire.Request):
            if message.total_bytes == len(payload):
                self._work.put((routing_id, message.request_id, payload))
            else:
                arriving = self._arriving[routing_id, message.request_id] = Incoming(message.total_bytes, now_s=0.0)
                arriving.add(0, payload, now_s=0.0)
        elif isinstance(message, wire.Chunk):
            arriving = self._arriving[routing_id, message.request_id]
            arriving.add(message.offset, payload, now_s=0.0)
            if arriving.complete:
                del self._arriving[routing_id, message.request_id]
                self._work.put((routing_id, message.request_id, arriving.buffer))
        elif isinstance(message, wire.Hello):
            cut = self._case.cut.index
            offer = wire.Offer(identity=self._case.bundle.identity, name="floor", cuts=(cut,))
            welcome = wire.Welcome(
                version=wire.VERSIONS[0],
                boot_id="floor",
                window_bytes=_WINDOW_BYTES,
                request_bytes=_WINDOW_BYTES,
                offers=(offer,),
            )
            self._router.send_multipart((routing_id, wire.encode(welcome)))

    def _run(self) -> None:
        interpreter = open_interpreter(self._case.tail)
        tensors: tuple[wire.AnswerTensor, ...] = ()
        while True:
            routing_id, request_id, payload = self._work.get()
            outputs = interpreter.run(self._recovery(payload))
            tensors = tensors or tuple(wire.AnswerTensor(dtype=one.dtype.name, shape=one.shape) for one in outputs)
            answer = wire.Answer(
                request_id=request_id,
                tensors=tensors,
                timed_bytes=len(payload),
                receive_s=0.0,
                queue_s=0.0,
                tail_s=0.0,
            )
            self._done.append((routing_id, wire.encode(answer), b"".join([one.tobytes() for one in outputs])))
            os.write(self._writable, b"\0")


if __name__ == "__main__":
    floor = Floor(int(sys.argv[1]), int(sys.argv[2]))
    print(json.dumps({"port": floor.port, "key": floor.key}), flush=True)
    floor.serve()
