"""The load generator: many devices in one process, with the product's own protocol over CURVE.

    python -m benchmarks.server.generator < SCENE > RESULT

Each device is a socket and a `DeviceSession`; there is no model here. The clock starts when all are welcome and
have been served for a moment, and the server's CPU time is read then and at the end.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import random
import select
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec
import zmq
from msgspec.structs import replace

from benchmarks.server import process
from benchmarks.server.in_place import tail_s
from benchmarks.server.scene import Ask, Device, Group, Result, Scene
from split_model.errors import SplitModelError
from split_model.protocol import messages as wire
from split_model.protocol.device import Answered, DeviceSession, Event, Refused, Welcomed

_CONNECT_S = 60.0
_WAIT_S = 0.05
#: Requests that a connection with a rate may have open: more are not offered.
_MOST_OPEN = 8
#: Flags as plain numbers: converting pyzmq's takes longer than receiving a frame.
_DONTWAIT, _FD, _EVENTS, _POLLIN = int(zmq.DONTWAIT), int(zmq.FD), int(zmq.EVENTS), int(zmq.POLLIN)


class Connection:
    """One connection of one device. ``at``: what was sent and has no outcome, with its time."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], scene: Scene, group: Group, key: int, at: int
    ) -> None:
        self.group = group
        self.welcome = False
        self._asks = scene.requests
        self._headers = [msgspec.msgpack.decode(ask.header, type=wire.Request) for ask in scene.requests]
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.curve_serverkey = scene.server_key.encode()
        self.socket.curve_publickey, self.socket.curve_secretkey = (half.encode() for half in scene.keys[key])
        self.socket.connect(scene.endpoint)
        self.session = DeviceSession(boot_id=f"boot-{key}-{at}", software="benchmark")
        self.session.connected()
        self._next_id = 0
        self._quiet_until_s = 0.0
        self._jitter = random.Random(key * 8 + at).random  # noqa: S311
        self._sent: dict[int, tuple[float, float]] = {}  # request id -> when, and when the answer is due
        self.next_due_s = 0.0
        self.forget()

    def forget(self) -> None:
        """Start to count."""
        self.sent = self.answered = self.in_time = 0
        self.refused: Counter[str] = Counter()
        self.latency_s: list[float] = []
        self.refusal_s: list[float] = []
        self.tail_s = self.queue_s = 0.0

    def fill(self, now_s: float) -> None:
        """Keep as many requests open as a closed loop has."""
        while len(self._sent) < self.group.open_requests:
            self.ask(now_s)

    def ask(self, now_s: float) -> None:
        """Queue one more request."""
        number = self.group.requests[self._next_id % len(self.group.requests)]
        ask: Ask = self._asks[number]
        due_s = now_s + self.group.due_s
        request = replace(
            self._headers[number],
            request_id=self._next_id,
            boot_id=self.session.boot_id,
            due_in_s=self.group.due_s,
        )
        self.session.submit(request, memoryview(ask.payload), due_at_s=due_s)
        self._sent[self._next_id] = now_s, due_s
        self._next_id += 1
        self.sent += 1

    def serve(self, *, fills: bool) -> None:
        """Take all messages that are here and send what follows from them, until nothing more is here.

        libzmq's descriptor only tells of what happens after the socket was asked last.
        """
        while True:
            if fills:
                self.fill(time.monotonic())
            self._send()
            if not int(self.socket.getsockopt(_EVENTS)) & _POLLIN:
                return
            self._receive()

    def _send(self) -> None:
        """Put on the wire what the session has, until the socket takes no more."""
        message = None
        with contextlib.suppress(zmq.Again):
            while (message := self.session.next_message(time.monotonic())) is not None:
                self.socket.send_multipart([part for part in message if part is not None], _DONTWAIT)
        if message is not None:
            self.session.put_back(message)

    def _receive(self) -> None:
        while int(self.socket.getsockopt(_EVENTS)) & _POLLIN:
            frames = self.socket.recv_multipart(_DONTWAIT)
            now_s = time.monotonic()
            for event in self.session.receive([memoryview(frame) for frame in frames], now_s):
                self._note(event, now_s)

    def _note(self, event: Event, now_s: float) -> None:
        if isinstance(event, Answered):
            sent_s, due_s = self._sent.pop(event.request_id)
            self.answered += 1
            self.in_time += now_s <= due_s
            self.latency_s.append(now_s - sent_s)
            self.tail_s += event.answer.tail_s
            self.queue_s += event.answer.queue_s
            self._heed(event.answer.load, now_s)
        elif isinstance(event, Refused):
            self.refused[event.code] += 1
            if event.request_id is None:
                raise SplitModelError(f"the server refuses a connection: {event.code}, {event.text}")
            self.refusal_s.append(now_s - self._sent.pop(event.request_id)[0])
            self._heed(event.load, now_s)
        elif isinstance(event, Welcomed):
            self.welcome = True

    def _heed(self, load: wire.Load | None, now_s: float) -> None:
        """Be quiet for as long as the server says and up to as long again, at random."""
        if self.group.heeds and load is not None and load.retry_s > 0.0:
            self._quiet_until_s = max(self._quiet_until_s, now_s + load.retry_s * (1.0 + self._jitter()))

    def may_send(self, now_s: float) -> bool:
        """Whether it offers what is due now: not where the server asked it to wait, or does not keep up."""
        return now_s >= self._quiet_until_s and len(self._sent) < _MOST_OPEN

    def report(self) -> Device:
        """What became of it."""
        return Device(
            group=self.group.name,
            sent=self.sent,
            answered=self.answered,
            in_time=self.in_time,
            refused=dict(self.refused),
            latency_s=self.latency_s,
            refusal_s=self.refusal_s,
            tail_s=self.tail_s,
            queue_s=self.queue_s,
        )


class Fleet:
    """All connections, driven by one loop."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        context.set(zmq.MAX_SOCKETS, 8192)
        self._by_device: list[list[Connection]] = []
        for group in scene.groups:
            for _ in range(group.devices):
                key = len(self._by_device)
                self._by_device.append(
                    [Connection(context, scene, group, key, at) for at in range(group.connections)]
                )
        self._all = [connection for device in self._by_device for connection in device]
        self._by_fd = {int(connection.socket.getsockopt(_FD)): connection for connection in self._all}
        self._epoll = select.epoll()  # `zmq.Poller` asks every socket at each call
        for fd in self._by_fd:
            self._epoll.register(fd, select.EPOLLIN)
        self._due: list[tuple[float, int]] = []
        self._running = False
        self._phase = random.Random(0)  # noqa: S311

    def greet(self) -> None:
        """Wait until the server has welcomed everybody."""
        end_s = time.monotonic() + _CONNECT_S
        while not all(connection.welcome for connection in self._all):
            if time.monotonic() > end_s:
                missing = sum(not connection.welcome for connection in self._all)
                raise SplitModelError(
                    f"{missing} of {len(self._all)} connections were not welcomed in {_CONNECT_S:g} s"
                )
            for connection in self._all:
                connection.serve(fills=False)
            self._take(0.02)

    def run(self) -> Result:
        """Warm up, measure, report."""
        self._running = True
        now_s = time.monotonic()
        for number, connection in enumerate(self._all):
            if connection.group.rate_s:
                heapq.heappush(self._due, (now_s + self._phase.random() / connection.group.rate_s, number))
            else:
                connection.serve(fills=True)
        self._serve(self._scene.warm_s)
        for connection in self._all:
            connection.forget()
        cpu_s, own_s, began_s = process.cpu_s(self._scene.pids), time.process_time(), time.monotonic()
        tails_s = self._tails_s()
        self._serve(self._scene.seconds)
        return Result(
            took_s=time.monotonic() - began_s,
            server_cpu_s=process.cpu_s(self._scene.pids) - cpu_s,
            own_cpu_s=time.process_time() - own_s,
            pss_mb=process.pss_mb(self._scene.pids),
            tails_cpu_s=self._tails_s() - tails_s,
            devices=[merged([connection.report() for connection in device]) for device in self._by_device],
        )

    def _tails_s(self) -> float:
        return tail_s(Path(self._scene.counter)) if self._scene.counter else 0.0

    def _serve(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while (now_s := time.monotonic()) < end_s:
            self._offer(now_s)
            wait_s = self._due[0][0] - time.monotonic() if self._due else _WAIT_S
            self._take(max(0.0, min(_WAIT_S, wait_s)))

    def _offer(self, now_s: float) -> None:
        """The requests that are due by now, of devices with a rate."""
        while self._due and self._due[0][0] <= now_s:
            due_s, number = heapq.heappop(self._due)
            connection = self._all[number]
            if connection.may_send(now_s):
                connection.ask(now_s)
                connection.serve(fills=False)
            heapq.heappush(self._due, (max(now_s, due_s + 1 / connection.group.rate_s), number))

    def _take(self, wait_s: float) -> None:
        for fd, _ in self._epoll.poll(wait_s):
            connection = self._by_fd[fd]
            connection.serve(fills=self._running and not connection.group.rate_s)


def merged(parts: list[Device]) -> Device:
    """The connections of one device as one."""
    refused: Counter[str] = Counter()
    for part in parts:
        refused.update(part.refused)
    return Device(
        group=parts[0].group,
        sent=sum(part.sent for part in parts),
        answered=sum(part.answered for part in parts),
        in_time=sum(part.in_time for part in parts),
        refused=dict(refused),
        latency_s=[value for part in parts for value in part.latency_s],
        refusal_s=[value for part in parts for value in part.refusal_s],
        tail_s=sum(part.tail_s for part in parts),
        queue_s=sum(part.queue_s for part in parts),
    )


def main() -> int:
    """Read a scene, print the result."""
    scene = msgspec.json.decode(sys.stdin.buffer.read(), type=Scene)
    if scene.core is not None:
        os.sched_setaffinity(0, {scene.core})
    fleet = Fleet(scene)
    try:
        fleet.greet()
        result = fleet.run()
    except SplitModelError as error:
        print(f"generator: {error}", file=sys.stderr)
        return error.exit_code
    sys.stdout.buffer.write(msgspec.json.encode(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
