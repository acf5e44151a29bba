"""The ways to run a tail that `benchmarks.server.engines` compares; each can be called, flooded and closed."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable
from typing import Any

from benchmarks.server.case import Case
from cloud_server.engine import Done, Engine, Job, LocalEngine, Outcome
from cloud_server.engines import ray_access
from cloud_server.engines import replica_messages as messages
from cloud_server.engines.ray_cluster import RayCluster, Reply
from cloud_server.engines.ray_engine import RayEngine
from cloud_server.engines.replica_messages import Settings, TailJob
from cloud_server.engines.tables import RayTable
from cloud_server.tails import TailSet

#: Jobs at a time where it is flooded.
UNDER_WAY = 32
PATIENCE_S = 60.0


class Run:
    """An engine and the jobs of one case."""

    def __init__(self, case: Case, make: Callable[[TailSet, Callable[[Outcome], None]], Engine]) -> None:
        self._case = case
        self.tails = TailSet([case.bundle])
        self.delivered: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self.engine = make(self.tails, self.delivered.put)
        self._submitted = 0
        self.engine.start(preload=False)

    def submit(self) -> int:
        """Submit one more job."""
        self._submitted += 1
        now_s = time.monotonic()
        job = Job(
            job_id=self._submitted,
            device="a device",
            tail=self.tails.tails[self._case.bundle.identity, self._case.cut.index],
            release=self._case.request().release,
            payload=bytearray(self._case.payload),
            queued_s=now_s,
            due_s=now_s + PATIENCE_S,
        )
        if not self.engine.submit(job):
            raise RuntimeError("the queue has no place")
        return self._submitted

    def next(self) -> Outcome:
        """Return the next outcome."""
        return self.delivered.get(timeout=PATIENCE_S)

    def close(self) -> None:
        """End the engine."""
        self.engine.close()
        self.engine.join(5.0)

    def call(self) -> None:
        """One job, waited for."""
        self.submit()
        _check(self.next())

    def flood(self, count: int) -> None:
        """So many jobs, `UNDER_WAY` of them at a time."""
        for sent in range(count):
            self.submit()
            if sent >= UNDER_WAY:
                _check(self.next())
        for _ in range(min(count, UNDER_WAY)):
            _check(self.next())


def _check(outcome: Outcome) -> None:
    if not isinstance(outcome, Done):
        raise TypeError(f"no answer: {outcome}")


def local(tails: TailSet, deliver: Callable[[Outcome], None]) -> Engine:
    return LocalEngine(
        tails,
        deliver=deliver,
        clock=time.monotonic,
        threads=1,
        tail_threads=1,
        queue=1000,
        cache_bytes=1 << 30,
    )


def on_ray(
    table: RayTable, folder: str, *, emulated_tail_s: float = 0.0
) -> Callable[[TailSet, Callable[[Outcome], None]], Engine]:
    settings = Settings(
        tail_threads=1,
        cache_bytes=1 << 30,
        node_files=folder,
        node_files_bytes=1 << 32,
        emulated_tail_s=emulated_tail_s,
    )

    def make(tails: TailSet, deliver: Callable[[Outcome], None]) -> Engine:
        return RayEngine(
            tails,
            RayCluster(table, settings, cpus=1),
            table=table,
            tail_threads=1,
            deliver=deliver,
            clock=time.monotonic,
            queue_places=1000,
        )

    return make


def _batch(case: Case) -> bytes:
    job = TailJob(
        job_id=1,
        device="a device",
        tail=(case.bundle.identity, case.cut.index, None),
        release=case.request().release,
        payload=bytearray(case.payload),
    )
    return messages.encode([job])


class Actor:
    """A bare call of the engine's actor; its node has the files already."""

    def __init__(self, case: Case, folder: str) -> None:
        self._batch = _batch(case)
        settings = Settings(
            tail_threads=1, cache_bytes=1 << 30, node_files=folder, node_files_bytes=1 << 32, emulated_tail_s=0.0
        )
        self._cluster = RayCluster(RayTable(replicas=1), settings, cpus=1)
        self._cluster.create("replica")
        self._replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()

    def call(self) -> None:
        """One call, waited for."""
        self.flood(1)

    def flood(self, count: int) -> None:
        """So many, `UNDER_WAY` of them at a time."""
        for sent in range(count):
            self._cluster.call("replica", "run", self._batch, then=self._replies.put)
            if sent >= UNDER_WAY:
                self._take()
        for _ in range(min(count, UNDER_WAY)):
            self._take()

    def _take(self) -> None:
        reply = self._replies.get(timeout=PATIENCE_S)
        if not isinstance(reply, bytes) or messages.decode_answer(reply).missing:
            raise RuntimeError(f"no answer: {reply!r}")

    def close(self) -> None:
        """End it."""
        self._cluster.close()


class Serve:
    """The same replica as a deployment of Ray Serve, called by its handle from this process; no HTTP."""

    def __init__(self, case: Case, folder: str) -> None:
        os.environ.update(ray_access.environment(RayTable(), token=os.urandom(32).hex()))
        import ray
        from ray import serve

        from cloud_server.engines.replica import Replica

        self._ray, self._serve, self._batch = ray, serve, _batch(case)
        settings = messages.encode(
            Settings(
                tail_threads=1,
                cache_bytes=1 << 30,
                node_files=folder,
                node_files_bytes=1 << 32,
                emulated_tail_s=0.0,
            )
        )
        ray.init(
            address="local",
            num_cpus=3,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            object_store_memory=256 << 20,
            _node_ip_address=ray_access.LOOPBACK,
        )
        serve.start(proxy_location="Disabled")

        class Deployed:
            """Runs batches."""

            def __init__(self) -> None:
                self._replica = Replica(settings)

            async def run(self, batch: bytes) -> bytes:
                """See `Replica.run`."""
                return self._replica.run(batch)

        deployment: Any = serve.deployment(num_replicas=1, max_ongoing_requests=UNDER_WAY)(Deployed)
        self._handle = serve.run(deployment.bind(), route_prefix=None)

    def call(self) -> None:
        """One call, waited for."""
        self._take(self._handle.run.remote(self._batch))

    def flood(self, count: int) -> None:
        """So many, `UNDER_WAY` of them at a time."""
        waiting: list[Any] = []
        for _ in range(count):
            waiting.append(self._handle.run.remote(self._batch))
            if len(waiting) > UNDER_WAY:
                self._take(waiting.pop(0))
        for one in waiting:
            self._take(one)

    def _take(self, response: Any) -> None:
        if messages.decode_answer(response.result(timeout_s=PATIENCE_S)).missing:
            raise RuntimeError("the replica lacks its files")

    def close(self) -> None:
        """End it."""
        self._serve.shutdown()
        self._ray.shutdown()
