"""A polite device as a process: one frame at a time, every answer checked, its link dropped now and then.

usage: polite.py ENDPOINT SERVER_KEY KEY_FILE BUNDLE NUMBER RECORDS

RECORDS gets a line of JSON for every frame: when it was asked, its latency, and how it ended. An answer that is not
the one this device's frame has, or to a frame that it never had, is a line with ``wrong``.
"""

from __future__ import annotations

import random
import secrets
import signal
import sys
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import zmq
from zmq.utils.monitor import recv_monitor_message

from split_model.bundle import Bundle
from split_model.interpreter import open_interpreter
from split_model.protocol import messages as wire
from split_model.protocol.device import Answered, DeviceSession, Late, Refused, State
from split_model.protocol.keys import read_pair

FRAMES = 16
GIVE_UP_S = 3.0
DROP_EVERY_S = 6.0
UNDER_WAY_AT_A_DROP = 6
AWAY_S = (0.02, 0.3)
THINK_S = (0.03, 0.09)
BIT_IDS = 24


class Polite:
    """One device: its frames, their answers, its connection."""

    def __init__(self, endpoint: str, server_key: str, key: Path, bundle: Path, number: int, records: Path) -> None:
        self._endpoint, self._server_key, self._keys = endpoint, server_key.encode(), read_pair(key)
        opened = Bundle.open(bundle)
        self._bundle, self._cut = opened.identity, opened.manifest.cuts[0]
        rng = np.random.default_rng(number)
        frames = [rng.random(opened.manifest.inputs[0].shape).astype(np.float32) for _ in range(FRAMES)]
        model = open_interpreter(opened.path(opened.manifest.model))
        self._answers = [model.run([frame])[0].tobytes() for frame in frames]
        head = self._cut.head and open_interpreter(opened.path(self._cut.head))
        self._features = [b"".join(t.tobytes() for t in (head.run([f]) if head else [f])) for f in frames]
        self._records = records.open("ab", buffering=0)
        self._chance = random.Random(number)
        self._first_id = self._next_id = number << BIT_IDS
        self._asked: dict[int, tuple[float, bool]] = {}  # when, and whether a drop of the link is among its waiting
        self._session = DeviceSession(boot_id=secrets.token_hex(8), software="polite")
        self._context = zmq.Context()
        self._drop_s = time.monotonic() + DROP_EVERY_S * self._chance.uniform(0.5, 1.0)
        self._ask_s = 0.0
        self._connect()

    def _connect(self) -> None:
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.curve_serverkey = self._server_key
        self._socket.curve_publickey, self._socket.curve_secretkey = self._keys.public, self._keys.secret
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._socket.connect(self._endpoint)

    def step(self) -> None:
        """Ask, send, receive, and wait for a moment."""
        now_s = time.monotonic()
        while self._monitor.poll(0):
            if recv_monitor_message(self._monitor)["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._session.connected()
            else:
                self._session.disconnected()
        if now_s >= self._drop_s and self._session.state is State.READY:
            self._drop(now_s)
        self._give_up(now_s)
        if now_s >= self._ask_s and not self._asked:
            self._ask(now_s)
        self._send()
        wait_s = min(0.02, max(0.0, self._ask_s - now_s)) if not self._asked else 0.02
        if self._socket.poll(wait_s * 1000):
            parts = [memoryview(part) for part in self._socket.recv_multipart()]
            for event in self._session.receive(parts, time.monotonic()):
                self._heard(event, time.monotonic())

    def close(self) -> None:
        """Go."""
        self._disconnect()
        self._context.term()

    def _send(self) -> None:
        while self._socket.poll(0, zmq.POLLOUT):
            frames = self._session.next_message(time.monotonic())
            if frames is None:
                return
            self._socket.send_multipart([part for part in frames if part is not None])

    def _ask(self, now_s: float) -> None:
        request_id = self._next_id
        self._next_id += 1
        request = wire.Request(
            request_id=request_id,
            boot_id=self._session.boot_id,
            version=1,
            bundle=self._bundle,
            cut=self._cut.index,
            release=wire.NoRelease(),
            total_bytes=self._cut.raw_bytes,
            due_in_s=2.0,
        )
        payload = memoryview(self._features[request_id % FRAMES])
        self._session.submit(request, payload, due_at_s=now_s + 2.0)
        self._asked[request_id] = (now_s, False)

    def _drop(self, now_s: float) -> None:
        """Lose the link with several answers on the way, and come back."""
        for _ in range(UNDER_WAY_AT_A_DROP):
            self._ask(now_s)
        self._send()
        time.sleep(0.002)
        self._disconnect()
        self._session.disconnected()
        self._asked = {request_id: (asked_s, True) for request_id, (asked_s, _) in self._asked.items()}
        time.sleep(self._chance.uniform(*AWAY_S))
        self._drop_s = now_s + DROP_EVERY_S * self._chance.uniform(0.5, 1.5)
        self._connect()

    def _disconnect(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()

    def _give_up(self, now_s: float) -> None:
        for request_id, (asked_s, _) in list(self._asked.items()):
            if now_s - asked_s > GIVE_UP_S:
                self._session.cancel(request_id)
                self._end(request_id, now_s, how="no answer")

    def _heard(self, event: object, now_s: float) -> None:
        if isinstance(event, Answered):
            wanted = self._answers[event.request_id % FRAMES]
            if bytes(event.payload) != wanted:
                self._write(wrong=f"another answer than frame {event.request_id} has")
            spent = {"queue_s": event.answer.queue_s, "tail_s": event.answer.tail_s}
            self._end(event.request_id, now_s, how="answered", **spent)
        elif isinstance(event, Late) and not self._first_id <= event.request_id < self._next_id:
            self._write(wrong=f"the answer to {event.request_id}, which this device never asked")
        elif isinstance(event, Refused):
            if event.request_id is not None:
                self._end(event.request_id, now_s, how=event.code)
            else:
                self._write(refused=event.code, at_s=now_s)

    def _end(self, request_id: int, now_s: float, *, how: str, **spent: float) -> None:
        asked_s, dropped = self._asked.pop(request_id)
        self._write(asked_s=asked_s, latency_s=now_s - asked_s, how=how, dropped=dropped, **spent)
        self._ask_s = now_s + self._chance.uniform(*THINK_S)

    def _write(self, **fields: object) -> None:
        self._records.write(msgspec.json.encode(fields) + b"\n")


def main(arguments: list[str]) -> int:
    """Ask until SIGTERM."""
    endpoint, server_key, key, bundle, number, records = arguments
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    device = Polite(endpoint, server_key, Path(key), Path(bundle), int(number), Path(records))
    while not stop.is_set():
        device.step()
    device.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
