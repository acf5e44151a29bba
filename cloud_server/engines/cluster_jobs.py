"""Assigns jobs to the replicas of a cluster, and moves them when a replica is lost. Pure.

A replica gets jobs in batches: one long job, or several short ones in one message. While a batch of short ones
runs, the next is on its way. Every accepted job has exactly one outcome. If its replica is lost or does not answer,
a job runs once more if its deadline allows, alone and on another node if there is one; a late answer of the first
replica is dropped.
"""

# Over 300 lines: an event of one replica may end, move or free the jobs of all, so they share one state.

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from cloud_server.dispatcher import Dispatcher
from cloud_server.jobs import Job, Outcome, expired, failed
from cloud_server.tails import TailId

#: Maximum batches of a replica: one runs, the next waits there.
_BATCHES = 2
#: A second batch is sent only if the first takes at most this many seconds: a job that waits at a replica can move
#: to #: no other replica, and no other job can go before it.
_SHORT_BATCH_S = 5e-3
#: Limits of a batch of short jobs: seconds, jobs and bytes.
_BATCH_S, _BATCH_JOBS, _BATCH_BYTES = 2e-3, 16, 1 << 20
#: A replica counts as stuck if a batch takes this many times its bound, and at least this many seconds ...
_STUCK_FACTOR, _STUCK_S = 10.0, 1.0
#: ... or this many, if the tail's time is unknown or its files are still being fetched.
_STUCK_UNKNOWN_S = 60.0
#: Maximum replicas lost with one job: a job that crashes every replica must not crash the whole cluster.
MOST_LOSSES = 2


@dataclass(frozen=True)
class Send:
    """A batch of jobs for a replica, to run in order; the answer has the same number."""

    replica: str
    number: int
    jobs: tuple[Job, ...]


@dataclass(frozen=True)
class Ran:
    """A replica's result of a job.

    ``used_s``: time to charge to the job's device. ``loaded``: the job's tail had to be loaded first.
    """

    outcome: Outcome
    used_s: float
    loaded: bool


@dataclass(eq=False)
class _Batch:
    number: int
    jobs: tuple[Job, ...]
    sent_s: float
    expected_s: float
    stuck_after_s: float


@dataclass(eq=False)
class _Replica:
    name: str
    node: str
    batches: list[_Batch] = field(default_factory=list)  # the oldest first
    answered_s: float = -math.inf
    stuck: bool = False


@dataclass(eq=False)
class _Taken:
    """A job that left the queue. ``number``: its batch; None while it waits for another replica."""

    job: Job
    number: int | None
    losses: int = 0
    lost_on: set[str] = field(default_factory=set)
    wanted: bool = True
    told: bool = False


class ClusterJobs:
    """Jobs from `submit` until their outcome. Not safe for several threads.

    Args:
        places: Maximum of waiting jobs.
        weight_of: A device's weight.

    """

    def __init__(self, places: int, *, weight_of: Callable[[str], int] = lambda _: 1) -> None:
        self.dispatcher = Dispatcher(places, workers=1, weight_of=weight_of)
        self._waiting: dict[int, Job] = {}
        self._taken: dict[int, _Taken] = {}
        self._again: list[tuple[float, int]] = []  # by due time; entries may be outdated
        self._due: list[tuple[float, int]] = []  # of the taken ones, likewise
        self._replicas: dict[str, _Replica] = {}
        self._next_number = 0

    @property
    def queued(self) -> int:
        """Jobs that wait for their first replica."""
        return len(self._waiting)

    @property
    def workers(self) -> int:
        """Number of replicas that take jobs."""
        return sum(not replica.stuck for replica in self._replicas.values())

    @property
    def nodes(self) -> int:
        """Number of nodes of these replicas."""
        return len({replica.node for replica in self._replicas.values() if not replica.stuck})

    @property
    def is_idle(self) -> bool:
        """Whether there is no job."""
        return not self._waiting and not self._taken

    def submit(self, job: Job, now_s: float) -> tuple[bool, list[Outcome]]:
        """Accept a job. Returns whether there was a place, and the outcomes of displaced jobs."""
        offered = self.dispatcher.offer(job, now_s)
        outcomes: list[Outcome] = [expired(self._waiting.pop(job_id)) for job_id in offered.late]
        if offered.displaced is not None:
            text = "the queue is full; another of your requests, or a device with fewer of them, took the place"
            outcomes.append(failed(self._waiting.pop(offered.displaced), text, code="busy"))
        if offered.accepted:
            self._waiting[job.job_id] = job
        return offered.accepted, outcomes

    def cancel(self, job_id: int, now_s: float) -> bool:
        """Cancel a job; returns whether a replica has it, so that its outcome will still come."""
        taken = self._taken.get(job_id)
        if taken is None:
            self._waiting.pop(job_id, None)
            self.dispatcher.cancel(job_id)
            return False
        if taken.number is None:
            self._end(taken, now_s)
            return False
        taken.wanted = False
        return not taken.told

    def joined(self, replica: str, node: str) -> None:
        """Note that a replica is up. A lost one comes back as a new one."""
        self._replicas[replica] = _Replica(replica, node)
        self._count_workers()

    def lost(self, replica: str, now_s: float) -> list[Outcome]:
        """Note that a replica is lost. Returns the outcomes of its jobs that will not run again."""
        gone = self._replicas.pop(replica, None)
        self._count_workers()
        return [] if gone is None else self._take_back(gone, now_s)

    def left(self, replica: str) -> bool:
        """Remove a superfluous replica. Returns whether it has no jobs, and so is removed already."""
        found = self._replicas.get(replica)
        if found is not None and found.batches:
            return False
        self._replicas.pop(replica, None)
        self._count_workers()
        return True

    def fetches(self, replica: str, number: int) -> None:
        """Note that a replica has to fetch files before it can run a batch."""
        found = self._replicas.get(replica)
        for batch in found.batches if found is not None else ():
            if batch.number == number:
                batch.stuck_after_s = max(batch.stuck_after_s, _STUCK_UNKNOWN_S)

    def answered(self, replica: str, number: int, ran: Sequence[Ran], now_s: float) -> list[Outcome]:
        """Note that a replica has run a batch. Returns the outcomes that were not delivered yet."""
        found = self._replicas.get(replica)
        batch = next((one for one in found.batches if one.number == number), None) if found is not None else None
        if found is None or batch is None:
            return []
        found.batches.remove(batch)
        if found.stuck and not found.batches:
            found.stuck = False
            self._count_workers()
        busy_s = (now_s - max(batch.sent_s, found.answered_s)) / len(batch.jobs)
        found.answered_s = now_s
        outcomes = []
        for job, one in zip(batch.jobs, ran, strict=True):
            taken = self._taken.get(job.job_id)
            if taken is None or taken.number != number:
                continue  # it ran on another replica meanwhile
            self._end(taken, now_s, used_s=one.used_s, busy_s=busy_s, loaded=one.loaded)
            if not taken.told:
                outcomes.append(one.outcome)
        return outcomes

    def next(self, now_s: float) -> tuple[list[Send], list[Outcome]]:
        """Return the batches to send now, and outcomes of jobs that are too late. Call it after every event."""
        outcomes: list[Outcome] = [expired(self._waiting.pop(job_id)) for job_id in self.dispatcher.late(now_s)]
        outcomes += self._too_late(now_s)
        for replica in self._replicas.values():
            if not replica.stuck and self._is_stuck(replica, now_s):
                replica.stuck = True
                outcomes += self._take_back(replica, now_s)
                self._count_workers()
        sends, hopeless = self._send_again(now_s)
        outcomes += hopeless
        while more := self._send_round(now_s):
            sends += more
        return sends, outcomes

    def close(self) -> None:
        """Drop all waiting jobs."""
        self.dispatcher.clear()
        self._waiting.clear()

    def stuck(self) -> list[str]:
        """Replicas that have not answered for too long; they get no jobs until they do."""
        return [replica.name for replica in self._replicas.values() if replica.stuck]

    def _too_late(self, now_s: float) -> list[Outcome]:
        """Outcomes of taken jobs that are overdue, so that no device waits for a slow or stuck replica."""
        outcomes: list[Outcome] = []
        while self._due and self._due[0][0] <= now_s:
            taken = self._taken.get(heapq.heappop(self._due)[1])
            if taken is None or taken.told:
                continue
            taken.told = True
            outcomes.append(_too_late(taken.job))
            if taken.number is None:
                self._end(taken, now_s)
        return outcomes

    def _take_back(self, replica: _Replica, now_s: float) -> list[Outcome]:
        """Take back the jobs of a lost or stuck replica: they wait for another one, or end here."""
        outcomes: list[Outcome] = []
        for place, batch in enumerate(replica.batches):
            for job in batch.jobs:
                taken = self._taken.get(job.job_id)
                if taken is None or taken.number != batch.number:
                    continue
                if place == 0:  # the jobs after it had not begun
                    taken.losses += 1
                    taken.lost_on.add(replica.node)
                if taken.told or not taken.wanted or taken.losses >= MOST_LOSSES:
                    self._end(taken, now_s, used_s=now_s - batch.sent_s)
                    if not taken.told:
                        text = f"{taken.losses} replicas were lost while they ran it"
                        outcomes.append(failed(job, text))
                else:
                    taken.number = None
                    heapq.heappush(self._again, (job.due_s, job.job_id))
        return outcomes

    def _send_again(self, now_s: float) -> tuple[list[Send], list[Outcome]]:
        """Send jobs that lost their replica first, each alone, if there is time; the others end."""
        sends: list[Send] = []
        hopeless: list[Outcome] = []
        kept_back: list[tuple[float, int]] = []
        while self._again:
            entry = heapq.heappop(self._again)
            taken = self._taken.get(entry[1])
            if taken is None or taken.number is not None:
                continue
            if now_s + self._expected_s(taken.job.tail_id) >= taken.job.due_s:
                self._end(taken, now_s)
                if not taken.told:
                    hopeless.append(_too_late(taken.job))
                continue
            replica = self._replica_for(taken)
            if replica is None:
                kept_back.append(entry)
                continue
            sends.append(self._send(replica, [taken.job], now_s))
        self._again = kept_back
        heapq.heapify(self._again)
        return sends, hopeless

    def _replica_for(self, taken: _Taken) -> _Replica | None:
        """Find a free replica for a job that lost one, preferably on a node where it lost none."""
        able = [replica for replica in self._replicas.values() if not replica.stuck]
        elsewhere = [replica for replica in able if replica.node not in taken.lost_on]
        free = [replica for replica in elsewhere or able if self._takes_more(replica)]
        return min(free, key=lambda replica: len(replica.batches), default=None)

    def _send_round(self, now_s: float) -> list[Send]:
        """Make one batch for each replica that can take one, idle ones first."""
        if not self._waiting:
            return []
        kept = self._kept()
        able = [replica for replica in self._replicas.values() if self._takes_more(replica)]
        able.sort(key=lambda replica: (len(replica.batches), replica is kept))
        sends: list[Send] = []
        for place, replica in enumerate(able):
            jobs = self._take(now_s, kept=replica is kept, share=math.ceil(self.queued / (len(able) - place)))
            if jobs:
                sends.append(self._send(replica, jobs, now_s))
        return sends

    def _kept(self) -> _Replica | None:
        """The replica that is kept for keys that use little, if there are several replicas."""
        able = [replica for replica in self._replicas.values() if not replica.stuck]
        return able[-1] if len(able) > 1 else None

    def _takes_more(self, replica: _Replica) -> bool:
        if replica.stuck or len(replica.batches) >= _BATCHES:
            return False
        return all(0.0 < batch.expected_s <= _SHORT_BATCH_S for batch in replica.batches)

    def _take(self, now_s: float, *, kept: bool, share: int) -> list[Job]:
        """Take the next job, or several short ones, at most ``share``."""
        jobs: list[Job] = []
        left_s, left_bytes = _BATCH_S, _BATCH_BYTES
        while len(jobs) < min(share, _BATCH_JOBS) and left_s > 0.0 and left_bytes > 0:
            job_id = self.dispatcher.take(now_s, kept=kept, only=self._is_short if jobs else None)
            if job_id is None:
                break
            job = self._waiting.pop(job_id)
            self._taken[job_id] = _Taken(job, None)
            heapq.heappush(self._due, (job.due_s, job_id))
            jobs.append(job)
            left_s -= self._expected_s(job.tail_id) or math.inf
            left_bytes -= len(job.payload)
        return jobs

    def _is_short(self, job_id: int) -> bool:
        return 0.0 < self._expected_s(self._waiting[job_id].tail_id) <= _BATCH_S

    def _expected_s(self, tail: TailId) -> float:
        return self.dispatcher.times.expected_s(tail)

    def _send(self, replica: _Replica, jobs: Sequence[Job], now_s: float) -> Send:
        number = self._next_number
        self._next_number += 1
        for job in jobs:
            self._taken[job.job_id].number = number
        bound_s = self._sum(jobs, self.dispatcher.times.bound_s)
        before_s = sum(batch.stuck_after_s for batch in replica.batches)
        stuck_s = max(_STUCK_S, _STUCK_FACTOR * bound_s) if bound_s else _STUCK_UNKNOWN_S
        batch = _Batch(number, tuple(jobs), now_s, self._sum(jobs, self._expected_s), before_s + stuck_s)
        replica.batches.append(batch)
        return Send(replica.name, number, batch.jobs)

    @staticmethod
    def _sum(jobs: Iterable[Job], time_s: Callable[[TailId], float]) -> float:
        """The sum of the jobs' times; 0 if one is unknown."""
        times = [time_s(job.tail_id) for job in jobs]
        return sum(times) if all(times) else 0.0

    @staticmethod
    def _is_stuck(replica: _Replica, now_s: float) -> bool:
        return any(now_s - batch.sent_s > batch.stuck_after_s for batch in replica.batches)

    def _end(
        self,
        taken: _Taken,
        now_s: float,
        *,
        used_s: float = 0.0,
        busy_s: float | None = None,
        loaded: bool = False,
    ) -> None:
        del self._taken[taken.job.job_id]
        self.dispatcher.ended(taken.job.job_id, used_s=used_s, busy_s=busy_s, loaded=loaded, now_s=now_s)

    def _count_workers(self) -> None:
        self.dispatcher.set_workers(max(1, self.workers))


def _too_late(job: Job) -> Outcome:
    return failed(job, "its replica did not answer in time, or was lost and no other was free", code="expired")
