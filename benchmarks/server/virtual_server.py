"""A server for many simulated devices: the protocol, admission and fair queue are real, its workers virtual."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.adaptive.simulator.clock import Clock
from benchmarks.adaptive.simulator.network import ANSWER_BYTES, Frames
from cloud_server.dispatcher import Dispatcher
from split_model.protocol import messages as wire
from split_model.protocol.server import Arrived, Cancelled, Denial, Limits, PeerSession

#: A worker that may take none of the waiting jobs looks again after this time, as the product's does.
_LOOK_AGAIN_S = 0.1
#: Runs of a tail differ by about this share.
_NOISE = 0.1


@dataclass(frozen=True)
class Job:
    """One request that has arrived, as the dispatcher sees it."""

    job_id: int
    device: str
    tail_id: int
    due_s: float
    arrived: Arrived
    queued_s: float
    door: Door


class VirtualServer:
    """Hosts one bundle; ``tail_s`` by cut. `connect` gives a device's `Door`, which goes to its transport."""

    def __init__(
        self, clock: Clock, identity: str, tail_s: Mapping[int, float], *, workers: int, places: int, seed: int = 0
    ) -> None:
        self.answered_s: list[float] = []  # when each answer went out
        self.wasted_s = 0.0  # worker time of answers that came too late
        self.busy_s = 0.0  # worker time in all
        self.refusals: list[tuple[float, str]] = []
        self.asked = 0
        self.waits_s: list[tuple[float, float]] = []
        self.dispatcher = Dispatcher(places, workers=workers)
        self._clock = clock
        self._tail_s = dict(tail_s)
        self._offers = (wire.Offer(identity=identity, name="virtual", cuts=tuple(tail_s)),)
        self._random = random.Random(seed)  # noqa: S311  a play is repeatable
        self._idle = set(range(workers))
        self._workers = workers
        self._jobs: dict[int, Job] = {}
        self._job_id = 0
        self._looks_s = 0.0

    def connect(self, device: str) -> Door:
        """Connect a device; return its door."""
        return Door(self, device, self._offers, self._clock)

    def denial(self, device: str, request: wire.Request) -> Denial | None:
        """Return the reason to deny a request, as for the product's sessions."""
        now_s = self._clock.now_s
        found = self.dispatcher.denial(device, request.cut, due_in_s=request.due_in_s, now_s=now_s)
        if found is not None:
            self.refusals.append((now_s, found.code))
        return found

    def advise(self, device: str, ask: wire.Ask) -> wire.Load:
        """Answer a device that asks before it sends."""
        self.asked += 1
        return self.dispatcher.load(device, ask.cut, due_in_s=ask.due_in_s, now_s=self._clock.now_s)

    def arrived(self, door: Door, arrived: Arrived) -> None:
        """Handle a request that has arrived completely."""
        now_s, request = self._clock.now_s, arrived.request
        due_s = arrived.started_s + request.due_in_s
        denial = self.dispatcher.denial(door.device, request.cut, due_in_s=due_s - now_s, now_s=now_s)
        if denial is not None:
            self._refuse(door, request.request_id, denial)
            return
        self._job_id += 1
        job = Job(self._job_id, door.device, request.cut, due_s, arrived, now_s, door)
        offered = self.dispatcher.offer(job, now_s)
        for job_id in offered.late:
            self._late(job_id)
        if offered.displaced is not None:
            displaced = self._jobs.pop(offered.displaced)
            self._refuse(displaced.door, displaced.arrived.request.request_id, Denial("busy", "displaced"))
        if not offered.accepted:
            self._refuse(door, request.request_id, Denial("busy", "no place"))
            return
        self._jobs[job.job_id] = job
        door.open[request.request_id] = job.job_id
        self._work()

    def cancel(self, job_id: int) -> None:
        """Cancel a job that no device waits for."""
        if not self.dispatcher.cancel(job_id):
            self._jobs.pop(job_id, None)

    def _work(self) -> None:
        now_s = self._clock.now_s
        for worker in sorted(self._idle):
            for job_id in self.dispatcher.late(now_s):
                self._late(job_id)
            taken = self.dispatcher.take(now_s, kept=worker == self._workers - 1 > 0)
            if taken is not None:
                self._begin(worker, self._jobs[taken])
        if self._idle and self.dispatcher.queued and self._looks_s <= now_s:
            self._looks_s = now_s + _LOOK_AGAIN_S
            self._clock.at(self._looks_s, self._work)

    def _begin(self, worker: int, job: Job) -> None:
        self._idle.discard(worker)
        begun_s = self._clock.now_s
        self.waits_s.append((begun_s, begun_s - job.queued_s))
        tail_s = self._tail_s[job.tail_id] * max(0.5, self._random.gauss(1.0, _NOISE))

        def over() -> None:
            now_s = self._clock.now_s
            self._idle.add(worker)
            self.dispatcher.ended(job.job_id, used_s=tail_s, busy_s=tail_s, loaded=False, now_s=now_s)
            self.busy_s += tail_s
            del self._jobs[job.job_id]
            self._answer(job, begun_s - job.queued_s, tail_s)
            self._work()

        self._clock.at(begun_s + tail_s, over)

    def _answer(self, job: Job, queue_s: float, tail_s: float) -> None:
        now_s, request = self._clock.now_s, job.arrived.request
        wanted = job.door.open.pop(request.request_id, None) == job.job_id
        if not wanted or now_s > job.due_s:
            self.wasted_s += tail_s
        if not wanted:
            return
        load = self.dispatcher.load_after(job.device, job.tail_id, due_in_s=request.due_in_s, now_s=now_s)
        answer = wire.Answer(
            request_id=request.request_id,
            tensors=(wire.AnswerTensor(dtype="float32", shape=(1, ANSWER_BYTES // 4)),),
            timed_bytes=job.arrived.timed_bytes,
            receive_s=job.arrived.receive_s,
            queue_s=queue_s,
            tail_s=tail_s,
            load=load if job.door.takes_load else None,
        )
        self.answered_s.append(now_s)
        job.door.reply(answer, bytes(ANSWER_BYTES))

    def _late(self, job_id: int) -> None:
        job = self._jobs.pop(job_id)
        now_s, request = self._clock.now_s, job.arrived.request
        load = self.dispatcher.load(job.device, job.tail_id, due_in_s=request.due_in_s, now_s=now_s)
        self._refuse(job.door, request.request_id, Denial("expired", "late", load))

    def _refuse(self, door: Door, request_id: int, denial: Denial) -> None:
        self.refusals.append((self._clock.now_s, denial.code))
        door.open.pop(request_id, None)
        load = denial.load if door.takes_load else None
        refusal = wire.Refusal(request_id=request_id, code=denial.code, text=denial.text, load=load)
        door.reply(refusal, None)


class Door:
    """One device's connection at the server, as `VirtualTransport` uses it."""

    def __init__(self, server: VirtualServer, device: str, offers: tuple[wire.Offer, ...], clock: Clock) -> None:
        self.reply: Callable[[wire.FromServer, bytes | None], None] = lambda _message, _payload: None
        self.device = device
        self.open: dict[int, int] = {}  # request id -> job id
        self._server = server
        self._clock = clock
        self._session = PeerSession(
            user_id=device,
            boot_id="0" * 32,
            offers=offers,
            admit=lambda request: server.denial(device, request),
            advise=lambda ask: server.advise(device, ask),
            limits=Limits(open_requests=8),
            now_s=clock.now_s,
        )

    @property
    def takes_load(self) -> bool:
        """Whether the device reads the server's load messages."""
        return self._session.takes_load

    def receive(self, frames: Frames) -> None:
        """Handle one message that has arrived from the device."""
        views = [memoryview(frames[0]), *([frames[1]] if frames[1] is not None else [])]
        replies, events = self._session.receive(views, self._clock.now_s)
        for reply in replies:
            self.reply(reply, None)
        for event in events:
            if isinstance(event, Arrived):
                self._server.arrived(self, event)
            elif isinstance(event, Cancelled) and (job_id := self.open.pop(event.request_id, None)) is not None:
                self._server.cancel(job_id)
