"""The engine that spreads tails over a Ray cluster: the gateway's queue and admission, the cluster's replicas.

One thread talks to Ray. It takes events one after another: a job is there, a replica answered, is lost, is back,
nodes came or went. `ClusterJobs` decides; the I/O is here.
"""

# Over 300 lines: every event of a replica's life, and the interface of an engine.

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from cloud_server.engines import replica_messages as messages
from cloud_server.engines.cluster_jobs import ClusterJobs, Ran, Send
from cloud_server.engines.ray_cluster import Lost, Node, Raised, Reply
from cloud_server.engines.replica_messages import TailJob, TailOutcome
from cloud_server.engines.supply import Supply
from cloud_server.engines.tables import RayTable
from cloud_server.errors import EngineError
from cloud_server.jobs import Done, Job, Outcome, failed
from cloud_server.tails import Tail, TailSet
from split_model import __version__
from split_model.errors import SplitModelError
from split_model.protocol import messages as wire
from split_model.protocol.server import Denial
from split_model.service.heartbeats import Heartbeats
from split_model.service.stoppable_thread import StoppableThread
from split_model.service.throttle import PER_FRAME

_log = logging.getLogger(__name__)

#: How often the nodes are counted, and how often jobs are looked at for their time, in seconds.
_NODES_EVERY_S, _LOOK_EVERY_S = 1.0, 0.05
#: How long the first replica may take to come up, in seconds: Ray starts a process and imports us there.
_START_S = 120.0
#: How long its threads may take to end where none came up, in seconds.
_END_S = 5.0
#: After how long a lost replica is asked again, and a device that was refused because none is up, in seconds.
_AGAIN_S, _RETRY_S = 0.25, 1.0
#: A replica that does not answer within this time, in seconds, is ended and started again.
_RESTART_S = 120.0
#: A machine whose node, or the head, does not answer for this time has to begin anew, in seconds.
_NODE_S = 30.0
#: The engine's thread is stuck if it does not come round within this time, in seconds.
_ROUND_S = 60.0
#: Rounds of fetching files for one batch: its manifest, then what that names; more only in a full folder.
_FETCHES = 5


class Cluster(Protocol):
    """What the engine needs of `RayCluster`."""

    def nodes(self) -> list[Node]:
        """See `RayCluster.nodes`."""

    def create(self, name: str) -> None:
        """See `RayCluster.create`."""

    def call(
        self, name: str, method: str, *arguments: object, then: Callable[[Reply], None], wait: bool = False
    ) -> None:
        """See `RayCluster.call`."""

    def put(self, content: bytes) -> object:
        """See `RayCluster.put`."""

    def end(self, name: str) -> None:
        """See `RayCluster.end`."""

    def restart(self, name: str) -> None:
        """See `RayCluster.restart`."""

    def close(self) -> None:
        """See `RayCluster.close`."""


@dataclass(eq=False)
class _Seat:
    """A replica, up or not. ``life``: counts its starts, so that news of an earlier one are told apart."""

    life: int = 0
    up: bool = False
    stuck_since_s: float | None = None


class RayEngine:
    """See `cloud_server.engine.Engine`.

    Args:
        tails: The hosted tails.
        cluster: Where they run.
        table: The config: how many replicas.
        tail_threads: Cores of one replica.
        deliver: Called from the engine's thread with every outcome.
        clock: Monotonic seconds.
        queue_places: Places for waiting jobs.
        weight_of: A device's weight, by its key.
        beats: Expects the engine's thread to come round.

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
        self._lock = threading.Lock()  # of the jobs
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._seats: dict[str, _Seat] = {}
        self._created = 0
        self._preload: list[Tail] = []
        self._first_up = threading.Event()
        self._trouble = ""
        self._backends: set[str] = set()
        self._closed = False
        self._supply = Supply(cluster)
        self._thread = StoppableThread("ray-engine", self._run, wake=self._wake)
        self._watch = StoppableThread("ray-nodes", self._watch_nodes)

    def start(self, *, preload: bool) -> None:
        """Start replicas, and wait for the first one; with ``preload``, each loads and runs every tail first.

        Raises:
            EngineError: None came up in time.
            SplitModelError: A tail cannot be loaded.

        """
        self._preload = self._tails.every() if preload else []
        self._thread.start()
        self._watch.start()
        if not self._first_up.wait(_START_S):
            self._trouble = self._trouble or f"no replica came up within {_START_S:.0f} s"
        if self._trouble:
            self.close()
            self.join(_END_S)
            raise EngineError(f"engine: {self._trouble}", remedy="see docs/cluster.md, and 'ray status' there")

    def host(self, tails: TailSet) -> None:
        """See `Engine.host`."""
        self._tails = tails
        if self._preload:
            self._preload = tails.every()
        self._events.put(self._tell_hosted)

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
        """See `Engine.submit`. A job that loses its place to this one is delivered as expired or busy."""
        with self._lock:
            if self._closed:
                return False
            accepted, outcomes = self._jobs.submit(job, self._clock())
        for outcome in outcomes:
            self._deliver(outcome)
        if accepted:
            self._wake()
        return accepted

    def cancel(self, job_id: int) -> bool:
        """See `Engine.cancel`."""
        with self._lock:
            return self._jobs.cancel(job_id, self._clock())

    def run_short(self) -> list[Outcome]:
        """See `Engine.run_short`: nothing runs here."""
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
        """Nodes that they are on."""
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

    def _wake(self) -> None:
        self._events.put(_nothing)

    # --- the engine's thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        with self._beats.alive("ray-engine", within_s=_ROUND_S) as beat:
            while not self._thread.stopping.is_set():
                beat()
                self._take_events()
                self._turn()

    def _take_events(self) -> None:
        """Wait for an event, and handle all that are there."""
        wait_s = _LOOK_EVERY_S if self._later or not self._jobs.is_idle else _NODES_EVERY_S
        try:
            self._handle(self._events.get(timeout=wait_s))
            while True:
                self._handle(self._events.get_nowait())
        except queue.Empty:
            pass
        now_s = self._clock()
        due = [what for at_s, what in self._later if at_s <= now_s]
        self._later = [(at_s, what) for at_s, what in self._later if at_s > now_s]
        for what in due:
            self._handle(what)

    @staticmethod
    def _handle(event: Callable[[], None]) -> None:
        try:
            event()
        except Exception:  # noqa: BLE001  (one event must not end the thread that all jobs need)
            _log.exception("an event of the cluster")

    def _turn(self) -> None:
        """Send waiting batches, and report finished jobs."""
        with self._lock:
            sends, outcomes = self._jobs.next(self._clock())
            stuck = self._jobs.stuck()
        for send in sends:
            self._send(send)
        for outcome in outcomes:
            self._deliver(outcome)
        for name, seat in self._seats.items():
            self._restart_if_stuck(name, seat, is_stuck=name in stuck)

    def _restart_if_stuck(self, name: str, seat: _Seat, *, is_stuck: bool) -> None:
        if not is_stuck:
            seat.stuck_since_s = None
        elif seat.stuck_since_s is None:
            seat.stuck_since_s = self._clock()
            _log.warning("replica %s does not answer; its jobs run elsewhere", name)
        elif self._clock() - seat.stuck_since_s > _RESTART_S:
            seat.stuck_since_s = None
            _log.error("replica %s does not answer for %.0f s; it is started again", name, _RESTART_S)
            self._cluster.restart(name)

    def _post(self, what: Callable[[Reply], None]) -> Callable[[Reply], None]:
        """What hands an answer over to the engine's thread."""
        return lambda reply: self._events.put(partial(what, reply))

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
        life = self._seats[send.replica].life
        self._cluster.call(
            send.replica, "run", batch, then=self._post(partial(self._answered, send, life, fetches))
        )

    def _answered(self, send: Send, life: int, fetches: int, reply: Reply) -> None:
        if isinstance(reply, Lost):
            self._lost(send.replica, life, reply)
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
            text = "the files of its tail do not stay on the node; raise engine.node_files_mib"
            self._ran(send, [_failed_run(job, text) for job in send.jobs])
        else:
            with self._lock:
                self._jobs.fetches(send.replica, send.number)
            bundles = {job.tail.bundle.identity: job.tail.bundle for job in send.jobs}
            self._supply.bring(
                send.replica,
                answer.missing,
                bundles,
                then=lambda error: self._events.put(partial(self._brought, send, life, fetches + 1, error)),
            )

    def _brought(self, send: Send, life: int, fetches: int, error: str) -> None:
        if error:
            _log.error("replica %s cannot have its files: %s", send.replica, error)
            self._ran(send, [_failed_run(job, error) for job in send.jobs])
        elif (seat := self._seats.get(send.replica)) is not None and seat.up and seat.life == life:
            self._send(send, fetches=fetches)

    def _ran(self, send: Send, ran: Sequence[Ran]) -> None:
        with self._lock:
            outcomes = self._jobs.answered(send.replica, send.number, ran, self._clock())
        for outcome in outcomes:
            self._deliver(outcome)

    # --- replicas ---------------------------------------------------------------------------------------------

    def _lost(self, name: str, life: int, lost: Lost) -> None:
        """A replica's process or node is gone. Ray starts it again where there is room."""
        seat = self._seats.get(name)
        if seat is None or seat.life != life:
            return
        if seat.up:
            _log.warning("replica %s is lost: %s", name, lost.text)
        seat.life += 1
        seat.up = False
        with self._lock:
            outcomes = self._jobs.lost(name, self._clock())
        for outcome in outcomes:
            self._deliver(outcome)
        if lost.gone:
            self._end(name)
        else:
            self._in(_AGAIN_S, partial(self._greet, name, seat.life))

    def _in(self, delay_s: float, what: Callable[[], None]) -> None:
        self._later.append((self._clock() + delay_s, what))

    def _end(self, name: str) -> None:
        self._cluster.end(name)
        self._seats.pop(name, None)

    def _greet(self, name: str, life: int) -> None:
        if (seat := self._seats.get(name)) is not None and seat.life == life:
            self._cluster.call(name, "hello", then=self._post(partial(self._greeted, name, life)), wait=True)

    def _greeted(self, name: str, life: int, reply: Reply) -> None:
        seat = self._seats.get(name)
        if seat is None or seat.life != life or seat.up:
            return
        if isinstance(reply, Lost):
            self._lost(name, life, reply)
            return
        if isinstance(reply, Raised):
            self._give_up(name, f"a replica does not start: {reply.text}")
            return
        hello = messages.decode_hello(reply)
        if hello.software != __version__:
            self._give_up(name, f"a node runs version {hello.software} of this program, here it is {__version__}")
            return
        self._backends.add(hello.backend)
        if len(self._backends) > 1:
            _log.warning("the nodes differ in backends (%s), and so may answers", ", ".join(sorted(self._backends)))
        self._load_all(name, life, hello)

    def _load_all(self, name: str, life: int, hello: messages.Hello) -> None:
        """Load every tail, where that is wanted, and let the replica take jobs."""
        if not self._preload:
            self._join(name, hello)
            return
        tails = messages.encode([tail.id for tail in self._preload])
        then = self._post(partial(self._loaded, name, life, hello))
        self._cluster.call(name, "preload", tails, then=then)

    def _loaded(self, name: str, life: int, hello: messages.Hello, reply: Reply) -> None:
        seat = self._seats.get(name)
        if seat is None or seat.life != life:
            return
        if isinstance(reply, Lost):
            self._lost(name, life, reply)
            return
        if isinstance(reply, Raised):
            self._give_up(name, reply.text)
            return
        told = messages.decode_preloaded(reply)
        if told.error:
            self._give_up(name, told.error)
        elif told.missing:
            bundles = {tail.bundle.identity: tail.bundle for tail in self._preload}
            self._supply.bring(
                name,
                told.missing,
                bundles,
                then=lambda error: self._events.put(
                    partial(self._give_up, name, error) if error else partial(self._load_all, name, life, hello)
                ),
            )
        else:
            self._join(name, hello)

    def _join(self, name: str, hello: messages.Hello) -> None:
        self._seats[name].up = True
        with self._lock:
            self._jobs.joined(name, hello.node)
            workers = self._jobs.workers
        _log.info("replica %s is up on node %s (%s); %d replicas", name, hello.node[:8], hello.backend, workers)
        self._first_up.set()

    def _give_up(self, name: str, text: str) -> None:
        """A replica that will not work. At the start that ends the program."""
        _log.error("%s", text)
        if not self._first_up.is_set():
            self._trouble = text
            self._first_up.set()
        self._end(name)

    def _tell_hosted(self) -> None:
        identities = list(self._tails.bundles)
        for name, seat in self._seats.items():
            if seat.up:
                then = self._post(partial(self._told_hosted, name, seat.life))
                self._cluster.call(name, "host", identities, then=then)

    def _told_hosted(self, name: str, life: int, reply: Reply) -> None:
        if isinstance(reply, Lost):
            self._lost(name, life, reply)

    # --- nodes ------------------------------------------------------------------------------------------------

    def _watch_nodes(self) -> None:
        """Count them, for as long as that works: else the watchdog, which is not fed then, ends the program."""
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
        """As many replicas as are wanted: more where nodes came, fewer where they went."""
        wanted = self._wanted(nodes)
        while len(self._seats) < wanted:
            name = f"tails-{self._created}"
            self._created += 1
            self._seats[name] = _Seat()
            try:
                self._cluster.create(name)
            except SplitModelError as error:
                self._give_up(name, str(error))
                return
            self._greet(name, 0)
        for name in sorted(self._seats, key=lambda name: self._seats[name].up):
            if len(self._seats) <= wanted:
                return
            with self._lock:
                is_idle = self._jobs.left(name)
            if is_idle:
                self._end(name)

    def _wanted(self, nodes: list[Node]) -> int:
        if self._table.replicas != "auto":
            return self._table.replicas
        places = sum(int(node.cpus // self._tail_threads) for node in nodes)
        return max(1, places // self._table.gateways)


def _nothing() -> None:
    """Wake the thread."""


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
