"""The fair queue of all devices' waiting jobs, ordered by the worker time that each device used. Pure.

It is start-time fair queueing in whole nanoseconds: every device (its key) has a virtual time that grows by the
worker time of its jobs, and the device furthest behind is next. A device that was idle restarts at the queue's own
virtual time, so it gains no credit; if it was ahead of that, it stays ahead, so it loses no debt.

Each device has a weight. Its virtual time grows by the worker time over its weight, and its share of the places is
in proportion to it: a device of weight 2 gets twice the worker time and places of one of weight 1, as long as both
ask for more than they get.

Due times, which devices state, order only the device's own jobs: the earliest due goes first. A device may use
places that others leave free, and loses them when the queue is full and a device below its share needs one.

A running job cannot be interrupted. So while there are several keys, one worker is kept for keys that have no
running job and use little: they need not wait for the jobs of one busy key.
"""

# Over 300 lines: one state, whose every part changes with a job that comes, begins or leaves.

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable

from cloud_server.flows import Counts, Flow, Offered, Use

#: Seconds after its last request for which a key counts as present.
HERE_S = 1.0
#: A key uses much if it used more than this many equal parts of the use of all keys, and more than this many
#: seconds.
MUCH, MUCH_S = 1.5, 0.25
#: Up to this part of all places a key may exceed its share (`FairQueue.is_full_for`).
LENT = 0.5
#: A heap is rebuilt when its outdated entries outnumber the valid ones by more than this.
_STALE = 64


class FairQueue:
    """Waiting jobs by number, each of one key; an accepted job is taken, cancelled, expired or displaced.

    A call costs the logarithm of the number of jobs. Equal histories give equal orders. Every key that was ever
    here keeps a few bytes, so keys must come from a finite set, such as the allow-list. Not safe for several
    threads.
    """

    def __init__(self, limit: int, weight_of: Callable[[str], int] = lambda _: 1) -> None:
        """Make a queue of ``limit`` places; ``weight_of`` gives a key's weight, at least 1."""
        self._limit = limit
        self._weight_of = weight_of
        self._use = Use()
        self._here: OrderedDict[str, tuple[float, int]] = OrderedDict()  # time of the last request, weight
        self._weight_here = 0
        self._costs_ns: dict[int, int] = {}  # expected times of the waiting jobs
        self._work_ns = 0
        self._virtual_ns = 0
        self._typical_ns = 1
        self._turns = 0
        self._flows: dict[str, Flow] = {}
        self._jobs: dict[int, tuple[Flow, float]] = {}
        self._running: dict[int, tuple[Flow, int]] = {}
        self._ready: list[tuple[int, int, str]] = []  # the flows with jobs waiting
        self._due: list[tuple[float, int]] = []
        self._counts: dict[int, Counts] = {}  # by weight
        self._keys_waiting = 0
        self._weight_waiting = 0

    def __len__(self) -> int:
        """Jobs waiting."""
        return len(self._jobs)

    def waiting(self, key: str) -> int:
        """Number of waiting jobs of one key."""
        flow = self._flows.get(key)
        return len(flow.waiting) if flow else 0

    @property
    def work_s(self) -> float:
        """Expected worker time of all waiting jobs."""
        return self._work_ns / 1e9

    def ahead_s(self, key: str, *, due_s: float) -> float:
        """Expected worker time of the waiting jobs that go before a job that this key offers now.

        Keys that come later and have used less will also go before it; they do not count here. The cost is linear
        in the number of waiting keys, which the number of places bounds.
        """
        flow = self._flows.get(key)
        begins_ns, ahead_ns = self._virtual_ns, 0
        if flow is not None:
            ahead_ns = sum(self._costs_ns[job_id] for due, job_id in flow.waiting if due <= due_s)
            begins_ns = flow.virtual_ns if flow.waiting else max(flow.virtual_ns, self._virtual_ns)
            begins_ns += ahead_ns // flow.weight
        for counts in self._counts.values():
            for name in counts.waiting():
                other = self._flows[name]
                lead_ns = begins_ns - other.virtual_ns
                if other is not flow and lead_ns >= 0:
                    # It is served until its virtual time exceeds ours, always by whole jobs.
                    ahead_ns += min(other.work_ns, lead_ns * other.weight + other.work_ns // len(other.waiting))
        return ahead_ns / 1e9

    def is_next(self, key: str, *, due_s: float) -> bool:
        """Whether a job that this key offers now would be the next one to be taken."""
        flow = self._flows.get(key)
        begins_ns = self._virtual_ns
        if flow is not None:
            if flow.waiting and flow.waiting[0][0] <= due_s:
                return False
            begins_ns = flow.virtual_ns if flow.waiting else max(flow.virtual_ns, begins_ns)
        first = self._first()
        return first is None or first is flow or first.virtual_ns > begins_ns

    def _first(self) -> Flow | None:
        """The flow furthest behind among those with waiting jobs; drops outdated entries before it."""
        while self._ready:
            entry = self._ready[0]
            flow = self._flows[entry[2]]
            if flow.waiting and flow.entry == entry:
                return flow
            heapq.heappop(self._ready)
        return None

    def is_full_for(self, key: str, *, due_s: float, now_s: float) -> bool:
        """Whether a job that this key offers now gets no place.

        If many places are taken, a key gets only its share among all present keys, even those without waiting jobs
        at this moment: otherwise it would soon lose the place to one of them, and its device would learn that late.
        """
        waiting = self.waiting(key)
        if waiting and len(self._jobs) >= LENT * self._limit and waiting >= self._share_here(key, now_s):
            return due_s >= self._flows[key].waiting[-1][0]
        return len(self._jobs) >= self._limit and self._furthest_above(key) is None

    def _share_here(self, key: str, now_s: float) -> int:
        """Places of this key if every key with a recent request needs one."""
        self._several_here(now_s)
        flow = self._flows[key]
        return self._places(flow.weight, max(self._weight_here, flow.weight, self._weight_waiting))

    def passes_over(self, key: str, now_s: float) -> bool:
        """Whether the kept worker skips the jobs of this key now."""
        flow = self._flows.get(key)
        if flow is None or not (flow.running or flow.use.is_over(MUCH_S, now_s)):
            return False
        return self._several_here(now_s) and self._uses_much(flow, self._much_s(now_s), now_s)

    def share(self, key: str) -> int:
        """Places of this key if it needs one now, by the weights; at least one."""
        flow = self._flows.get(key)
        if flow is not None and flow.waiting:
            return self._places(flow.weight, self._weight_waiting)
        weight = self._weight_of(key)
        return self._places(weight, self._weight_waiting + weight)

    def _places(self, weight: int, of_weight: int) -> int:
        return max(1, self._limit * weight // of_weight)

    def offer(self, job_id: int, key: str, *, due_s: float, now_s: float, cost_s: float = 0.0) -> Offered:
        """Accept a job if there is a place for it, or one that its key may claim. ``cost_s``: expected time.

        A full queue first drops the jobs past their due time. Then a key below its share displaces the last job of
        the key that exceeds its own share most; a key at its share keeps those of its own jobs that are due first.
        """
        self._come(key, now_s)
        full = len(self._jobs) >= self._limit
        expired = self.expire(now_s) if full else ()
        displaced: int | None = None
        if len(self._jobs) >= self._limit:
            own = self.waiting(key) >= self.share(key)
            loser = self._flows.get(key) if own else self._furthest_above(key)
            if loser is None or (own and due_s >= loser.waiting[-1][0]):
                return Offered(accepted=False, expired=expired)
            displaced = loser.waiting[-1][1]
            self.cancel(displaced)
        self._add(job_id, key, due_s, max(0, round(cost_s * 1e9)))
        return Offered(accepted=True, expired=expired, displaced=displaced)

    def _furthest_above(self, key: str) -> Flow | None:
        """The flow that exceeds its share most, if ``key`` needs a place; None if no flow does."""
        weight = self._weight_waiting + (0 if self.waiting(key) else self._weight_of(key))
        above = [
            (most[0] / own_weight, most[1])
            for own_weight, counts in self._counts.items()
            if (most := counts.most()) is not None and most[0] > self._places(own_weight, weight)
        ]
        return self._flows[max(above)[1]] if above else None

    def _come(self, key: str, now_s: float) -> None:
        """Note a request of a key."""
        weight = self._weight_of(key)
        self._weight_here += weight - self._here.get(key, (0.0, 0))[1]
        self._here[key] = now_s, weight
        self._here.move_to_end(key)

    def cancel(self, job_id: int) -> None:
        """Drop a waiting job; does nothing if it is not waiting."""
        if job_id in self._jobs:
            flow, due_s = self._jobs.pop(job_id)
            self._recount(flow, -1)
            cost_ns = self._costs_ns.pop(job_id)
            flow.work_ns -= cost_ns
            self._work_ns -= cost_ns
            del flow.waiting[bisect_left(flow.waiting, (due_s, job_id))]

    def expire(self, now_s: float) -> tuple[int, ...]:
        """Drop the waiting jobs that were due by ``now_s`` and return them, the earliest first."""
        expired = []
        while self._due and self._due[0][0] <= now_s:
            job_id = heapq.heappop(self._due)[1]
            if job_id in self._jobs:
                self.cancel(job_id)
                expired.append(job_id)
        return tuple(expired)

    def take(self, now_s: float, *, kept: bool = False, only: Callable[[int], bool] | None = None) -> int | None:
        """Take the next job: the earliest due one of the key furthest behind that may have this worker.

        Until `finished` reports its real cost, the key is charged the cost of its last job.

        Args:
            now_s: The time.
            kept: Whether this is the worker kept for keys that have no running job and use little.
            only: Accepts the jobs that this worker can run; None for all.

        Returns:
            The job, or None if no job waits that this worker may take.

        """
        kept = kept and self._several_here(now_s)
        much_s = self._much_s(now_s) if kept else 0.0
        passed_over: list[tuple[int, int, str]] = []
        job_id: int | None = None
        while self._ready and job_id is None:
            entry = heapq.heappop(self._ready)
            flow = self._flows[entry[2]]
            if not flow.waiting or flow.entry != entry:
                continue  # the entry is outdated
            uses_much = kept and self._uses_much(flow, much_s, now_s)
            if uses_much or (only is not None and not only(flow.waiting[0][1])):
                passed_over.append(entry)
                continue
            job_id = self._begin(flow)
        for entry in passed_over:
            heapq.heappush(self._ready, entry)
        return job_id

    def _begin(self, flow: Flow) -> int:
        job_id = flow.waiting[0][1]
        self._virtual_ns = max(self._virtual_ns, flow.virtual_ns)
        cost_ns = flow.last_cost_ns or self._typical_ns
        flow.virtual_ns += _virtual(cost_ns, flow.weight)
        flow.running += 1
        self._running[job_id] = (flow, _virtual(cost_ns, flow.weight))
        self.cancel(job_id)  # no longer waiting
        self._enter(flow)
        return job_id

    def _much_s(self, now_s: float) -> float:
        """Recent worker time above which a key of weight 1 uses much. Call `_several_here` before."""
        return MUCH * self._use.at(now_s) / self._weight_here

    @staticmethod
    def _uses_much(flow: Flow, much_s: float, now_s: float) -> bool:
        """Whether the kept worker must not serve this flow."""
        return flow.running > 0 or flow.use.is_over(max(MUCH_S, much_s * flow.weight), now_s)

    def _several_here(self, now_s: float) -> bool:
        """Whether more than one key had a recent request."""
        while self._here and next(iter(self._here.values()))[0] < now_s - HERE_S:
            self._weight_here -= self._here.popitem(last=False)[1][1]
        return len(self._here) > 1

    def finished(self, job_id: int, used_s: float, now_s: float) -> None:
        """Charge the key of a job that was taken the worker time it used."""
        flow, charged_ns = self._running.pop(job_id)
        flow.running -= 1
        used_ns = max(1, round(used_s * 1e9))
        flow.virtual_ns += _virtual(used_ns, flow.weight) - charged_ns
        flow.use.add(used_s, now_s)
        self._use.add(used_s, now_s)
        flow.last_cost_ns = self._typical_ns = used_ns
        self._enter(flow)

    def _add(self, job_id: int, key: str, due_s: float, cost_ns: int) -> None:
        flow = self._flows.get(key)
        if flow is None:
            flow = self._flows[key] = Flow(key, self._virtual_ns)
        first = not flow.waiting
        if first:
            flow.weight = self._weight_of(key)
        self._recount(flow, 1)
        insort(flow.waiting, (due_s, job_id))
        self._jobs[job_id] = (flow, due_s)
        self._costs_ns[job_id] = cost_ns
        flow.work_ns += cost_ns
        self._work_ns += cost_ns
        if first:
            flow.virtual_ns = max(flow.virtual_ns, self._virtual_ns)  # idle time gives no credit
            self._enter(flow)
        heapq.heappush(self._due, (due_s, job_id))
        if len(self._due) > 2 * len(self._jobs) + _STALE:
            self._due = [(due_s, job_id) for job_id, (_, due_s) in self._jobs.items()]
            heapq.heapify(self._due)

    def _enter(self, flow: Flow) -> None:
        """Insert a flow with waiting jobs by its virtual time."""
        if not flow.waiting:
            return
        self._turns += 1
        flow.turn = self._turns  # among equals, the latest goes last
        heapq.heappush(self._ready, flow.entry)
        if len(self._ready) > 2 * self._keys_waiting + _STALE:
            self._ready = [other.entry for other in self._flows.values() if other.waiting]
            heapq.heapify(self._ready)

    def _recount(self, flow: Flow, change: int) -> None:
        """Update the counts for a key's new number of jobs; call it before the change."""
        before, after = len(flow.waiting), len(flow.waiting) + change
        self._counts.setdefault(flow.weight, Counts()).move(flow.key, before, after)
        change_of_keys = (after > 0) - (before > 0)
        self._keys_waiting += change_of_keys
        self._weight_waiting += change_of_keys * flow.weight


def _virtual(cost_ns: int, weight: int) -> int:
    """The growth of a flow's virtual time by a job's worker time, at least 1 ns."""
    return max(1, cost_ns // weight)
