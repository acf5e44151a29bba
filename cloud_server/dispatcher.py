"""Decides which job a worker does next, which requests to admit, and which to give up. Pure.

The fair queue decides whose turn it is; the measured times of tails decide what can be answered in time. An engine
guards its dispatcher by its lock. The simulated server of the benchmarks uses the same class.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol

import msgspec
from msgspec.structs import replace

from cloud_server.admission import YIELD_S, Forecast, ReturnLine, StandingQueue, TailTimes, WaitRatio
from cloud_server.fair_queue import FairQueue
from split_model.protocol import messages as wire
from split_model.protocol.server import Denial

#: A running job that exceeds its expected time is assumed to need this share of it more.
_OVERRUN = 0.1
#: Seconds for which a forecast is reused if no job came, began or ended: each request needs it several times.
_SAME_S = 1e-3
#: Seconds of the message thread for each request, however short its tail.
_ANSWER_S = 0.2e-3


class Request(Protocol):
    """The attributes of a job that are used here; times are on the caller's clock."""

    @property
    def job_id(self) -> int:
        """The job's number."""

    @property
    def device(self) -> str:
        """The key of the job's device."""

    @property
    def tail_id(self) -> Hashable:
        """The id of the job's tail."""

    @property
    def due_s(self) -> float:
        """The time when the job's answer is due."""


class Accepted(msgspec.Struct, frozen=True):
    """The result of an offer. ``late``, ``displaced``: waiting jobs that were given up for it."""

    accepted: bool
    late: tuple[int, ...] = ()
    displaced: int | None = None


class _Waiting(msgspec.Struct, frozen=True):
    tail: Hashable
    offered_s: float
    due_s: float
    wait_s: float


class _Running(msgspec.Struct, frozen=True):
    tail: Hashable
    began_s: float


class _Latest(msgspec.Struct, frozen=True):
    """The last forecast with its request."""

    device: str
    tail: Hashable
    due_s: float
    now_s: float
    forecast: Forecast

    def holds(self, device: str, tail: Hashable, due_s: float, now_s: float) -> bool:
        return (
            device == self.device
            and tail == self.tail
            and abs(due_s - self.due_s) < _SAME_S
            and now_s - self.now_s < _SAME_S
        )


class Dispatcher:
    """Jobs by number, from `offer` until they are taken and `ended`, or given up. Not safe for several threads.

    Args:
        places: Maximum of waiting jobs.
        workers: Jobs that run at a time, which may change; if there are several workers, one is kept
                (`FairQueue.take`).
        weight_of: A device's weight.

    """

    def __init__(self, places: int, *, workers: int, weight_of: Callable[[str], int] = lambda _: 1) -> None:
        self.times = TailTimes()
        self._queue = FairQueue(places, weight_of)
        self._workers = workers
        self._ratio = WaitRatio()
        self._standing = StandingQueue()
        self._line = ReturnLine()
        self._waiting: dict[int, _Waiting] = {}
        self._running: dict[int, _Running] = {}
        self._latest: _Latest | None = None

    @property
    def queued(self) -> int:
        """Jobs waiting."""
        return len(self._waiting)

    def set_workers(self, workers: int) -> None:
        """Set the number of workers, at least one."""
        self._latest = None
        self._workers = workers

    def denial(self, device: str, tail: Hashable, *, due_in_s: float, now_s: float) -> Denial | None:
        """Why a request that comes now is refused: it would be late, or finds no place; None if it is not."""
        forecast = self.forecast(device, tail, due_in_s=due_in_s, now_s=now_s)
        if forecast.is_late(due_in_s):
            code: wire.RefusalCode = "expired"
            text = (
                f"the answer is due in {max(0.0, due_in_s) * 1e3:.0f} ms and might take "
                f"{(forecast.wait_bound_s + forecast.tail_s) * 1e3:.0f} ms; {self.queued} requests wait already"
            )
        elif self.queued and self._queue.is_full_for(device, due_s=now_s + due_in_s - forecast.tail_s, now_s=now_s):
            code = "busy"
            text = f"{self.queued} requests wait already, and this device has its share of the queue"
        else:
            return None
        retry_s = self._retry_s(device, tail, forecast, due_in_s=due_in_s, now_s=now_s)
        return Denial(code, text, wire.Load(queue_s=forecast.wait_bound_s, retry_s=retry_s))

    @property
    def running(self) -> int:
        """Jobs being run."""
        return len(self._running)

    def forecast(self, device: str, tail: Hashable, *, due_in_s: float, now_s: float) -> Forecast:
        """Forecast for a request of a device that comes now."""
        due_s = now_s + due_in_s
        if self._latest is None or not self._latest.holds(device, tail, due_s, now_s):
            found = self._forecast(device, tail, due_in_s=due_in_s, now_s=now_s)
            self._latest = _Latest(device, tail, due_s, now_s, found)
        return self._latest.forecast

    def _forecast(self, device: str, tail: Hashable, *, due_in_s: float, now_s: float) -> Forecast:
        tail_s = self.times.bound_s(tail)
        waiting, free = self._waiting, self._workers - len(self._running)
        if not waiting and (free > 1 or free == self._workers):
            return Forecast(0.0, 0.0, tail_s)
        workers = self._workers
        if workers > 1 and self._queue.passes_over(device, now_s):
            workers, free = workers - 1, free - 1
        due_s = now_s + max(0.0, due_in_s - tail_s)
        if free > 0 and (not waiting or self._queue.is_next(device, due_s=due_s)):
            return Forecast(0.0, 0.0, tail_s)
        running_s = sum(self._left_s(one, now_s) for one in self._running.values())
        most_s = (running_s + self._queue.work_s) / workers
        ratio = self._ratio.bound
        if most_s * ratio + tail_s > due_in_s:  # then the order matters
            most_s = (running_s + self._queue.ahead_s(device, due_s=due_s)) / workers
        wait_s = max(most_s, 1e-6)  # it has to wait, even if nothing was measured yet
        return Forecast(wait_s, wait_s * ratio, tail_s)

    def load(self, device: str, tail: Hashable, *, due_in_s: float, now_s: float) -> wire.Load:
        """The load report for a device that asked or lost its place: the wait, and the time to come back.

        Its first request goes before those of devices that have used more, and is not typical of the next ones. So
        the wait is at least that of the others.
        """
        forecast = self.forecast(device, tail, due_in_s=due_in_s, now_s=now_s)
        if not forecast.idle:
            forecast = replace(forecast, wait_bound_s=max(forecast.wait_bound_s, self._standing.mean_s))
        retry_s = 0.0
        stands = not forecast.idle and self._standing.is_long(now_s=now_s)
        if stands or forecast.is_late(due_in_s):
            retry_s = self._retry_s(device, tail, forecast, due_in_s=due_in_s, now_s=now_s)
            retry_s = max(retry_s, YIELD_S) if stands else retry_s
        return wire.Load(queue_s=forecast.wait_bound_s, retry_s=retry_s)

    def load_after(self, device: str, tail: Hashable, *, due_in_s: float, now_s: float) -> wire.Load:
        """The load report with an answer: the expected wait, and seconds to stay away if the queue stays long."""
        forecast = self.forecast(device, tail, due_in_s=due_in_s, now_s=now_s)
        leave = not forecast.idle and self._standing.asks_to_leave(now_s=now_s)
        return wire.Load(queue_s=forecast.wait_bound_s, retry_s=YIELD_S if leave else 0.0)

    def offer(self, job: Request, now_s: float) -> Accepted:
        """Accept a job if there is a place for it, or one that its device may claim."""
        due_in_s = job.due_s - now_s
        forecast = self.forecast(job.device, job.tail_id, due_in_s=due_in_s, now_s=now_s)
        cost_s = self.times.expected_s(job.tail_id)
        # The last moment at which it can begin and be in time; ignored for a job that may begin at once.
        begin_by_s = job.due_s if forecast.idle else job.due_s - cost_s
        self._latest = None
        offered = self._queue.offer(job.job_id, job.device, due_s=begin_by_s, now_s=now_s, cost_s=cost_s)
        self._give_up(offered.expired, now_s)
        if offered.displaced is not None:
            del self._waiting[offered.displaced]
        if offered.accepted:
            self._waiting[job.job_id] = _Waiting(job.tail_id, now_s, job.due_s, forecast.wait_s)
        return Accepted(offered.accepted, offered.expired, offered.displaced)

    def late(self, now_s: float) -> tuple[int, ...]:
        """Give up waiting jobs that can no longer be in time; returns their numbers."""
        late = self._queue.expire(now_s)
        self._give_up(late, now_s)
        return late

    def take(self, now_s: float, *, kept: bool, only: Callable[[int], bool] | None = None) -> int | None:
        """Begin the next job, if there is one for this worker (see `FairQueue.take`). Call `late` before."""
        job_id = self._queue.take(now_s, kept=kept, only=only)
        if job_id is None:
            return None
        self._latest = None
        waiting = self._waiting.pop(job_id)
        waited_s = now_s - waiting.offered_s
        self._ratio.observed(waited_s, waiting.wait_s)
        self._standing.waited(waited_s, waiting.due_s - waiting.offered_s, now_s=now_s)
        self._running[job_id] = _Running(waiting.tail, now_s)
        return job_id

    def ended(self, job_id: int, *, used_s: float, busy_s: float | None, loaded: bool, now_s: float) -> None:
        """Note that a taken job is done.

        Args:
            job_id: Its number.
            used_s: Worker time charged to its device.
            busy_s: Seconds that it kept its worker; None if they are not typical of its tail.
            loaded: Whether its tail had to be loaded.
            now_s: The time.

        """
        self._latest = None
        running = self._running.pop(job_id)
        if busy_s is not None:
            self.times.observed(running.tail, busy_s, loaded=loaded)
        self._queue.finished(job_id, used_s, now_s)

    def cancel(self, job_id: int) -> bool:
        """Cancel a job; returns whether it runs already."""
        self._latest = None
        self._queue.cancel(job_id)
        self._waiting.pop(job_id, None)
        return job_id in self._running

    def clear(self) -> None:
        """Drop all waiting jobs."""
        for job_id in list(self._waiting):
            self.cancel(job_id)

    def _retry_s(self, device: str, tail: Hashable, forecast: Forecast, *, due_in_s: float, now_s: float) -> float:
        cost_s = max(self.times.expected_s(tail) / self._workers, _ANSWER_S)
        return self._line.retry_s(device, forecast.retry_s(due_in_s), cost_s=cost_s, now_s=now_s)

    def _give_up(self, late: tuple[int, ...], now_s: float) -> None:
        for job_id in late:
            self._latest = None
            waiting = self._waiting.pop(job_id)
            self._ratio.observed(now_s - waiting.offered_s, waiting.wait_s)

    def _left_s(self, running: _Running, now_s: float) -> float:
        expected_s = self.times.expected_s(running.tail)
        return max(_OVERRUN * expected_s, expected_s - (now_s - running.began_s))
