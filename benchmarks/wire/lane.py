"""One direction of an emulated link: a bounded queue, a capacity over time, a fixed delay. No I/O, no clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from benchmarks.wire.traces import Trace

QUANTUM_BYTES = 1500
LEAST_QUANTUM_BYTES = 128
QUANTUM_S = 0.02
"""A quantum takes at most about this long, so that a slow link trickles evenly."""
CATCH_UP_S = 0.25
"""The longest lateness of the emulator itself that is made good with rate."""
NEVER_S = 1e12
"""Stands for infinity, so that sums and differences stay finite."""

To = TypeVar("To")


@dataclass
class Quantum(Generic[To]):
    """Bytes on their way to ``to``; no bytes means that the sender has closed its side.

    ``begin_s`` to ``through_s`` is its time of transmission, in seconds on the lane's clock.
    """

    to: To
    data: bytes
    begin_s: float = 0.0
    through_s: float = 0.0


class Lane(Generic[To]):
    """First in, first out: each quantum's finishing time is known when it enters, so nothing drifts.

    ``delay_s`` in seconds, ``limit_bytes`` bounds the queue (bytes not yet transmitted).
    ``busy_s`` is the time spent transmitting, blackouts of the trace with bytes waiting included.
    """

    def __init__(self, capacity: Trace, delay_s: float, limit_bytes: int) -> None:
        self.capacity = capacity
        self.delay_s = delay_s
        self.limit_bytes = limit_bytes
        self.queued_bytes = 0
        self.delivered_bytes = 0
        self.busy_s = 0.0
        self._free_s = -NEVER_S
        self._queued: deque[Quantum[To]] = deque()
        self._flying: deque[Quantum[To]] = deque()

    def room(self) -> int:
        """Return how many bytes may enter now; none until half the queue is empty, so that reads are few."""
        return self.limit_bytes - self.queued_bytes if self.queued_bytes <= self.limit_bytes // 2 else 0

    def enter(self, to: To, data: bytes, now_s: float, *, waited: bool = False) -> None:
        """Queue ``data`` for ``to``; ``waited`` says it was there already when the queue last ran empty."""
        self._free_s = max(self._free_s, now_s - CATCH_UP_S if waited else now_s)
        at = 0
        while at < len(data) or not data:
            bytes_s = self.capacity.mbit_s_at(self._free_s) * 125_000
            size = int(min(QUANTUM_BYTES, max(LEAST_QUANTUM_BYTES, bytes_s * QUANTUM_S)))
            quantum = Quantum(to, data[at : at + size])
            self._time(quantum)
            self._queued.append(quantum)
            self.queued_bytes += len(quantum.data)
            at += size
            if not data:
                return

    def _time(self, quantum: Quantum[To]) -> None:
        quantum.begin_s = self._free_s
        quantum.through_s = min(self.capacity.finish_s(self._free_s, len(quantum.data) * 8), NEVER_S)
        self._free_s = quantum.through_s

    def due(self, now_s: float) -> list[Quantum[To]]:
        """Return the quanta that have arrived at the far end by now, in order."""
        while self._queued and self._queued[0].through_s <= now_s:
            quantum = self._queued.popleft()
            self.queued_bytes -= len(quantum.data)
            self.busy_s += quantum.through_s - quantum.begin_s
            self._flying.append(quantum)
        arrived = []
        while self._flying and self._flying[0].through_s + self.delay_s <= now_s:
            arrived.append(self._flying.popleft())
            self.delivered_bytes += len(arrived[-1].data)
        return arrived

    def next_s(self) -> float:
        """Return when ``due`` should next be asked; NEVER_S when nothing is under way."""
        times_s = [NEVER_S]
        if self._flying or self._queued:
            times_s.append((self._flying or self._queued)[0].through_s + self.delay_s)
        over_bytes = self.queued_bytes - self.limit_bytes // 2
        for quantum in self._queued if over_bytes > 0 else ():
            over_bytes -= len(quantum.data)
            if over_bytes <= 0:  # from here on there is room
                times_s.append(quantum.through_s)
                break
        return min(times_s)

    def restart(self, now_s: float, shift_s: float) -> None:
        """Go on at ``now_s`` after a pause of ``shift_s`` (an outage, or a jump of the clock).

        What is in flight arrives that much later.
        """
        for quantum in self._flying:
            quantum.through_s += shift_s
        self._free_s = now_s
        for quantum in self._queued:
            self._time(quantum)
