"""The engine that spreads tails over a Ray cluster: the gateway's queue and admission, the cluster's replicas.

One thread uses Ray. It handles events in order: a new job, a replica's answer, a lost or restarted replica, changed
nodes. `ClusterJobs` decides about jobs, `Replicas` manages the replicas; this module sends batches and receives
them.
"""

# Over 300 lines: the interface of an engine, and the batches on their way.

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial

from cloud_server.engines import replica_messages as messages
from cloud_server.engines.cluster import Cluster
from cloud_server.engines.cluster_jobs import ClusterJobs, Ran, Send
from cloud_server.engines.events import Events
from cloud_server.engines.ray_cluster import Lost, Node, Raised, Reply
from cloud_server.engines.replica_messages import TailJob, TailOutcome
from cloud_server.engines.replicas import Heard, Replicas
from cloud_server.engines.supply import Supply
from cloud_server.engines.tables import RayTable
from cloud_server.errors import EngineError
from cloud_server.jobs import Done, Job, Outcome, failed
from cloud_server.tails import Tail, TailSet
from split_model.protocol import messages as wire
from split_model.protocol.server import Denial
from split_model.service.heartbeats import Heartbeats
from split_model.service.stoppable_thread import StoppableThread
from split_model.service.throttle import PER_FRAME

_log = logging.getLogger(__name__)

#: Seconds between two counts of the nodes, and between two checks of the jobs' times.
_NODES_EVERY_S, _LOOK_EVERY_S = 1.0, 0.05
#: Time limit of the first replica's start in seconds: Ray starts a process and imports this package there.
_START_S = 120.0
#: Time limit for the threads to end if no replica came up, in seconds.
_END_S = 5.0
#: Seconds after which a device may retry that was refused because no replica is up.
_RETRY_S = 1.0
#: Seconds without an answer of this machine's node, or of the head, after which the program restarts.
_NODE_S = 30.0
#: Seconds after which the engine's thread counts as stuck.
_ROUND_S = 60.0
#: Rounds of fetching files for one batch: its manifest, then its files; more only if the folder is full.
_FETCHES = 5


class RayEngine:
    """See `cloud_server.engine.Engine`.

    Args:
        tails: The hosted tails.
        cluster: The cluster that runs them.
        table: The config table, with the number of replicas.
        tail_threads: Cores of one replica.
        deliver: Called from the engine's thread with every outcome.
        clock: Monotonic seconds.
        queue_places: Places for waiting jobs.
        weight_of: A device's weight, by its key.
        beats: Watches that the engine's thread makes progress.

    """

    kind = "ray"
    short = False

    def __init__(
        self,
        tails: TailSet,
        cluster: Cluster,
        *,
        table: RayTable,
        tail_threads: int,
        deliver: Callable[[Outcome], None],
        clock: Callable[[], float],
        queue_places: int,
        weight_of: Callable[[str], int] = lambda _: 1,
        beats: Heartbeats | None = None,
    ) -> None:
        self._tails = tails
        self._cluster = cluster
        self._table = table
        self._tail_threads = tail_threads
        self._deliver = deliver
        self._clock = clock
        self._beats = beats or Heartbeats()
        self._jobs = ClusterJobs(queue_places, weight_of=weight_of)
        self._lock = threading.Lock()  # guards the jobs
        self._events = Events(clock)
        self._closed = False
        self._supply = Supply(cluster)
        heard = Heard(joined=self._joined, lost=self._lost, left=self._left)
        self._replicas = Replicas(cluster, self._supply, self._events, heard=heard, clock=clock)
        self._thread = StoppableThread("ray-engine", self._run, wake=self._events.wake)
        self._watch = StoppableThread("ray-nodes", self._watch_nodes)

    def start(self, *, preload: bool) -> None:
        """Start replicas, and wait for the first; with ``preload``, each loads and runs every tail first.

        Raises:
            EngineError: None came up in time.
            SplitModelError: A tail cannot be loaded.

        """
        self._replicas.preload = self._tails.every() if preload else ()
        self._thread.start()
        self._watch.start()
        is_up = self._replicas.first_up.wait(_START_S)
        if trouble := self._replicas.trouble or ("" if is_up else f"no replica came up within {_START_S:.0f} s"):
            self.close()
            self.join(_END_S)
            raise EngineError(f"engine: {trouble}", remedy="see docs/cluster.md, and run 'ray status' on a node")

    def host(self, tails: TailSet) -> None:
        """See `Engine.host`."""
        self._tails = tails
        if self._replicas.preload:
            self._replicas.preload = tails.every()
        self._events.put(partial(self._replicas.host, list(tails.bundles)))

    def denial(self, device: str, tail: Tail, *, due_in_s: float) -> Denial | None:
        """See `Engine.denial`."""
        with self._lock:
            if not self._jobs.workers:
                return Denial("busy", "no replica of the cluster is up", self._load_of_none())
            return self._jobs.dispatcher.denial(device, tail.id, due_in_s=due_in_s, now_s=self._clock())

    def load(self, device: str, tail: Tail, *, due_in_s: float) -> wire.Load:
        """See `Engine.load`."""
        with self._lock:
            if not self._jobs.workers:
                return self._load_of_none()
            return self._jobs.dispatcher.load(device, tail.id, due_in_s=due_in_s, now_s=self._clock())

    def load_after(self, device: str, tail: Tail, *, due_in_s: float) -> wire.Load:
        """See `Engine.load_after`."""
        with self._lock:
            if not self._jobs.workers:
                return self._load_of_none()
            return self._jobs.dispatcher.load_after(device, tail.id, due_in_s=due_in_s, now_s=self._clock())

    def submit(self, job: Job) -> bool:
        """See `Engine.submit`. A job displaced by this one is delivered as expired or busy."""
        with self._lock:
            if self._closed:
                return False
            accepted, outcomes = self._jobs.submit(job, self._clock())
        for outcome in outcomes:
            self._deliver(outcome)
        if accepted:
            self._events.wake()
        return accepted

    def cancel(self, job_id: int) -> bool:
        """See `Engine.cancel`."""
        with self._lock:
            return self._jobs.cancel(job_id, self._clock())

    def run_short(self) -> list[Outcome]:
        """See `Engine.run_short`: no job runs on this machine's own threads."""
        return []

    @property
    def queued(self) -> int:
        """Jobs waiting."""
        return self._jobs.queued

    @property
    def running(self) -> int:
        """Jobs that replicas have."""
        return self._jobs.dispatcher.running

    @property
    def workers(self) -> int:
        """Replicas that take jobs."""
        with self._lock:
            return self._jobs.workers

    @property
    def nodes(self) -> int:
        """Number of nodes of these replicas."""
        with self._lock:
            return self._jobs.nodes

    def close(self) -> None:
        """See `Engine.close`."""
        with self._lock:
            self._closed = True
            self._jobs.close()

    def join(self, timeout_s: float) -> None:
        """Wait for the running jobs after `close`, and end the replicas."""
        end_s = self._clock() + timeout_s
        while self.running and self._clock() < end_s:
            self._thread.stopping.wait(_LOOK_EVERY_S)
        self._watch.stop(timeout_s)
        self._thread.stop(timeout_s)
        self._supply.close()
        self._cluster.close()

    @staticmethod
    def _load_of_none() -> wire.Load:
        return wire.Load(queue_s=_RETRY_S, retry_s=_RETRY_S)

    # --- the engine's thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        with self._beats.alive("ray-engine", within_s=_ROUND_S) as beat:
            while not self._thread.stopping.is_set():
                beat()
                is_busy = self._events.has_later or not self._jobs.is_idle
                self._events.handle(_LOOK_EVERY_S if is_busy else _NODES_EVERY_S)
                self._turn()

    def _turn(self) -> None:
        """Send waiting batches, and report finished jobs."""
        with self._lock:
            sends, outcomes = self._jobs.next(self._clock())
            stuck = self._jobs.stuck()
        for send in sends:
            self._send(send)
        for outcome in outcomes:
            self._deliver(outcome)
        self._replicas.restart_stuck(stuck)

    def _send(self, send: Send, *, fetches: int = 0) -> None:
        batch = messages.encode(
            [
                TailJob(
                    job_id=job.job_id,
                    device=job.device,
                    tail=job.tail.id,
                    release=job.release,
                    payload=job.payload,
                )
                for job in send.jobs
            ]
        )
        life = self._replicas.life(send.replica)
        then = self._events.handing(partial(self._answered, send, life, fetches))
        self._cluster.call(send.replica, "run", batch, then=then)

    def _answered(self, send: Send, life: int, fetches: int, reply: Reply) -> None:
        if isinstance(reply, Lost):
            self._replicas.lose(send.replica, life, reply)
            return
        if isinstance(reply, Raised):
            self._ran(send, [_failed_run(job, reply.text) for job in send.jobs])
            return
        answer = messages.decode_answer(reply)
        if not answer.missing:
            now_s = self._clock()
            self._ran(
                send,
                [
                    Ran(_outcome(job, one, now_s), one.used_s, one.loaded or fetches > 0)
                    for job, one in zip(send.jobs, answer.outcomes, strict=True)
                ],
            )
        elif fetches >= _FETCHES:
            text = "its tail's files do not fit on the node; raise engine.node_files_mib"
            self._ran(send, [_failed_run(job, text) for job in send.jobs])
        else:
            with self._lock:
                self._jobs.fetches(send.replica, send.number)
            bundles = {job.tail.bundle.identity: job.tail.bundle for job in send.jobs}
            then = self._events.handing(partial(self._brought, send, life, fetches + 1))
            self._supply.bring(send.replica, answer.missing, bundles, then=then)

    def _brought(self, send: Send, life: int, fetches: int, error: str) -> None:
        if error:
            _log.error("replica %s cannot get its files: %s", send.replica, error)
            self._ran(send, [_failed_run(job, error) for job in send.jobs])
        elif self._replicas.is_up(send.replica, life):
            self._send(send, fetches=fetches)

    def _ran(self, send: Send, ran: Sequence[Ran]) -> None:
        with self._lock:
            outcomes = self._jobs.answered(send.replica, send.number, ran, self._clock())
        for outcome in outcomes:
            self._deliver(outcome)

    # --- replicas come and go -------------------------------------------------------------------------------------

    def _joined(self, name: str, node: str) -> int:
        with self._lock:
            self._jobs.joined(name, node)
            return self._jobs.workers

    def _lost(self, name: str) -> None:
        with self._lock:
            outcomes = self._jobs.lost(name, self._clock())
        for outcome in outcomes:
            self._deliver(outcome)

    def _left(self, name: str) -> bool:
        with self._lock:
            return self._jobs.left(name)

    # --- nodes ------------------------------------------------------------------------------------------------

    def _watch_nodes(self) -> None:
        """Count the nodes. If that fails for long, the watchdog is not fed and ends the program."""
        with self._beats.alive("this machine's Ray node", within_s=_NODE_S) as beat:
            beat()
            while not self._watch.stopping.is_set():
                try:
                    nodes = self._cluster.nodes()
                except (RuntimeError, OSError) as error:
                    text = " ".join(str(error).split())[:200]
                    _log.warning("the nodes of the cluster cannot be counted: %s", text, extra=PER_FRAME)
                else:
                    beat()
                    self._events.put(partial(self._scale, nodes))
                self._watch.stopping.wait(_NODES_EVERY_S)

    def _scale(self, nodes: list[Node]) -> None:
        """Change the number of replicas to fit the nodes."""
        self._replicas.scale(self._wanted(nodes))

    def _wanted(self, nodes: list[Node]) -> int:
        if self._table.replicas != "auto":
            return self._table.replicas
        places = sum(int(node.cpus // self._tail_threads) for node in nodes)
        return max(1, places // self._table.gateways)


def _failed_run(job: Job, text: str) -> Ran:
    return Ran(failed(job, text), 0.0, loaded=True)


def _outcome(job: Job, told: TailOutcome, now_s: float) -> Outcome:
    if told.code is not None:
        return failed(job, told.text, code=told.code)
    return Done(
        job_id=job.job_id,
        tensors=told.tensors,
        payload=told.payload,
        queue_s=max(0.0, now_s - job.queued_s - told.tail_s),
        tail_s=told.tail_s,
    )
