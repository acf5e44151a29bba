"""The requests in the engine that devices wait for, with their bytes. No I/O.

A running tail cannot be stopped: a request that is cancelled while it runs keeps its place and bytes until it ends.
A request has a request id for its device, and a job id for the engine.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from cloud_server.engine import Engine, Job
from cloud_server.held_bytes import HeldBytes
from cloud_server.tails import Tail
from split_model.protocol.server import Arrived


class OpenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request whose features have arrived; ``routing_id``: the connection that the answer leaves by."""

    job_id: int
    routing_id: bytes
    device: str
    arrived: Arrived
    tail: Tail

    @property
    def request_id(self) -> int:
        """The number that the device gave to the request."""
        return self.arrived.request.request_id


class OpenRequests:
    """Gives requests to the engine, and remembers their connections until they end.

    Args:
        engine: Runs the tails.
        held: Charged with the bytes of each request while it is open.

    """

    def __init__(self, engine: Engine, held: HeldBytes) -> None:
        self._engine = engine
        self._held = held
        self._by_job: dict[int, OpenRequest] = {}
        self._by_connection: dict[bytes, dict[int, int]] = {}  # routing id -> request id -> job id
        self._ending: dict[int, OpenRequest] = {}  # cancelled, and still running
        self._ending_on: Counter[bytes] = Counter()  # by routing id
        self._next_job_id = 0

    def __len__(self) -> int:
        return len(self._by_job)

    def of(self, routing_id: bytes) -> list[int]:
        """The open request ids of a connection, oldest first."""
        return list(self._by_connection.get(routing_id, ()))

    def places(self, routing_id: bytes) -> int:
        """Number of requests of a connection that are open or still run."""
        return len(self._by_connection.get(routing_id, ())) + self._ending_on[routing_id]

    def submit(self, routing_id: bytes, device: str, arrived: Arrived, tail: Tail, *, now_s: float) -> bool:
        """Give a request to the engine. Returns False, and drops it, if the engine has no place for it."""
        job_id = self._next_job_id
        self._next_job_id += 1
        request = arrived.request
        self._by_job[job_id] = OpenRequest(
            job_id=job_id, routing_id=routing_id, device=device, arrived=arrived, tail=tail
        )
        self._by_connection.setdefault(routing_id, {})[request.request_id] = job_id
        self._held.change(device, request.total_bytes)
        job = Job(
            job_id=job_id,
            device=device,
            tail=tail,
            release=request.release,
            payload=arrived.payload,
            queued_s=now_s,
            due_s=arrived.started_s + request.due_in_s,
        )
        if self._engine.submit(job):
            return True
        self.finish(job_id)
        return False

    def finish(self, job_id: int) -> OpenRequest | None:
        """Remove a request that has its outcome. Returns None if it was cancelled."""
        stopped = self._ending.pop(job_id, None)
        if stopped is not None:
            self._ending_on[stopped.routing_id] -= 1
            if not self._ending_on[stopped.routing_id]:
                del self._ending_on[stopped.routing_id]
            self._held.change(stopped.device, -stopped.arrived.request.total_bytes)
            return None
        ended = self._forget(job_id)
        if ended is not None:
            self._held.change(ended.device, -ended.arrived.request.total_bytes)
        return ended

    def cancel(self, routing_id: bytes, request_id: int) -> bool:
        """Cancel one request. Returns whether it was open."""
        ended = self._forget(self._by_connection.get(routing_id, {}).get(request_id))
        if ended is None:
            return False
        if self._engine.cancel(ended.job_id):
            self._ending[ended.job_id] = ended
            self._ending_on[routing_id] += 1
        else:
            self._held.change(ended.device, -ended.arrived.request.total_bytes)
        return True

    def _forget(self, job_id: int | None) -> OpenRequest | None:
        """Remove a request that is no longer waited for."""
        ended = None if job_id is None else self._by_job.pop(job_id, None)
        if ended is not None:
            left = self._by_connection[ended.routing_id]
            del left[ended.request_id]
            if not left:
                del self._by_connection[ended.routing_id]
        return ended

    def cancel_all(self, routing_id: bytes) -> int:
        """Cancel every request of a connection. Returns their number."""
        request_ids = self.of(routing_id)
        for request_id in request_ids:
            self.cancel(routing_id, request_id)
        return len(request_ids)
