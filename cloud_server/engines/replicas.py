"""Manages the replicas of a cluster: creation, greeting, tails, loss, restart and end.

Everything runs on the engine's thread; `Events` brings the cluster's answers there. `ClusterJobs` handles the jobs,
and is notified when replicas come and go.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from cloud_server.engines import replica_messages as messages
from cloud_server.engines.cluster import Cluster
from cloud_server.engines.events import Events
from cloud_server.engines.ray_cluster import Lost, Raised, Reply
from cloud_server.engines.supply import Supply
from cloud_server.tails import Tail
from split_model import __version__
from split_model.errors import SplitModelError
from split_model.service.throttle import PER_FRAME

_log = logging.getLogger(__name__)

#: Seconds after which a lost replica is tried again.
_AGAIN_S = 0.25
#: Seconds without an answer after which a replica is restarted.
_RESTART_S = 120.0


@dataclass(eq=False)
class _Seat:
    """A replica, up or not. ``life``: the number of its starts; an answer with a smaller one is an old one."""

    life: int = 0
    up: bool = False
    stuck_since_s: float | None = None


@dataclass(frozen=True)
class Heard:
    """Callbacks for changes of the replicas.

    ``joined``: one is up, by name and node; returns how many are up. ``lost``: one is down. ``left``: one must take
    no more jobs; returns whether it has none.
    """

    joined: Callable[[str, str], int]
    lost: Callable[[str], None]
    left: Callable[[str], bool]


class Replicas:
    """See the module.

    Args:
        cluster: The cluster that runs them.
        supply: Brings them files.
        events: The queue of the engine's thread.
        heard: Callbacks for changes.
        clock: Monotonic seconds.

    """

    def __init__(
        self, cluster: Cluster, supply: Supply, events: Events, *, heard: Heard, clock: Callable[[], float]
    ) -> None:
        #: Set when the first one is up, or if none will be: then ``trouble`` has the reason.
        self.first_up = threading.Event()
        self.trouble = ""
        #: Tails that each replica loads before it takes jobs.
        self.preload: Sequence[Tail] = ()
        self._cluster = cluster
        self._supply = supply
        self._events = events
        self._heard = heard
        self._clock = clock
        self._seats: dict[str, _Seat] = {}
        self._created = 0
        self._backends: set[str] = set()

    def life(self, name: str) -> int:
        """Return the number of a replica's start; answers of an earlier start are ignored."""
        return self._seats[name].life

    def is_up(self, name: str, life: int) -> bool:
        """Return whether a replica is up, and has been since that start."""
        return (seat := self._seats.get(name)) is not None and seat.up and seat.life == life

    def scale(self, wanted: int) -> None:
        """Make more replicas, or end some that have no jobs, until there are as many as wanted."""
        while len(self._seats) < wanted:
            name = f"tails-{self._created}"
            self._created += 1
            self._seats[name] = _Seat()
            try:
                self._cluster.create(name)
            except SplitModelError as error:
                self._give_up(name, 0, str(error))
                return
            self._greet(name, 0)
        for name in sorted(self._seats, key=lambda name: self._seats[name].up):
            if len(self._seats) <= wanted:
                return
            if self._heard.left(name):
                self._end(name)

    def host(self, identities: list[str]) -> None:
        """Tell every replica which bundles are hosted now."""
        for name, seat in self._seats.items():
            if seat.up:
                self._cluster.call(
                    name, "host", identities, then=self._events.handing(partial(self._told_hosted, name, seat.life))
                )

    def restart_stuck(self, stuck: Collection[str]) -> None:
        """Restart replicas that have not answered for long. ``stuck``: those that do not answer now."""
        for name, seat in self._seats.items():
            if name not in stuck:
                seat.stuck_since_s = None
            elif seat.stuck_since_s is None:
                seat.stuck_since_s = self._clock()
                _log.warning("replica %s does not answer; its jobs run elsewhere", name)
            elif self._clock() - seat.stuck_since_s > _RESTART_S:
                seat.stuck_since_s = None
                _log.error("replica %s has not answered for %.0f s; it is restarted", name, _RESTART_S)
                self._cluster.restart(name)

    def lose(self, name: str, life: int, lost: Lost) -> None:
        """Note that a replica's process or node is gone. Ray restarts it if there is room."""
        seat = self._of(name, life)
        if seat is None:
            return
        if seat.up:
            _log.warning("replica %s is lost: %s", name, lost.text)
        seat.life += 1
        seat.up = False
        self._heard.lost(name)
        if lost.gone:
            self._end(name)
        else:
            self._events.after(_AGAIN_S, partial(self._greet, name, seat.life))

    def _of(self, name: str, life: int) -> _Seat | None:
        """Return the replica, if it was not restarted since."""
        seat = self._seats.get(name)
        return seat if seat is not None and seat.life == life else None

    def _end(self, name: str) -> None:
        self._cluster.end(name)
        self._seats.pop(name, None)

    def _greet(self, name: str, life: int) -> None:
        if self._of(name, life) is not None:
            then = self._events.handing(partial(self._greeted, name, life))
            self._cluster.call(name, "hello", then=then, wait=True)

    def _greeted(self, name: str, life: int, reply: Reply) -> None:
        seat = self._of(name, life)
        if seat is None or seat.up:
            return
        if isinstance(reply, Lost):
            self.lose(name, life, reply)
            return
        if isinstance(reply, Raised):
            self._give_up(name, life, f"a replica does not start: {reply.text}")
            return
        hello = messages.decode_hello(reply)
        if hello.software != __version__:
            text = f"a node runs version {hello.software} of this program, here it is {__version__}"
            self._give_up(name, life, text)
            return
        self._backends.add(hello.backend)
        if len(self._backends) > 1:
            _log.warning("the nodes' backends (%s) and so answers may differ", ", ".join(sorted(self._backends)))
        self._load_all(name, life, hello)

    def _load_all(self, name: str, life: int, hello: messages.Hello) -> None:
        """Load every tail if wanted, and let the replica take jobs."""
        if self._of(name, life) is None:
            return
        if not self.preload:
            self._join(name, hello)
            return
        tails = messages.encode([tail.id for tail in self.preload])
        then = self._events.handing(partial(self._loaded, name, life, hello))
        self._cluster.call(name, "preload", tails, then=then)

    def _loaded(self, name: str, life: int, hello: messages.Hello, reply: Reply) -> None:
        if self._of(name, life) is None:
            return
        if isinstance(reply, Lost):
            self.lose(name, life, reply)
            return
        if isinstance(reply, Raised):
            self._give_up(name, life, reply.text)
            return
        told = messages.decode_preloaded(reply)
        if told.error:
            self._give_up(name, life, told.error)
        elif told.missing:
            bundles = {tail.bundle.identity: tail.bundle for tail in self.preload}
            then = self._events.handing(partial(self._brought, name, life, hello))
            self._supply.bring(name, told.missing, bundles, then=then)
        else:
            self._join(name, hello)

    def _brought(self, name: str, life: int, hello: messages.Hello, error: str) -> None:
        if error:
            self._give_up(name, life, error)
        else:
            self._load_all(name, life, hello)

    def _join(self, name: str, hello: messages.Hello) -> None:
        self._seats[name].up = True
        count = self._heard.joined(name, hello.node)
        _log.info("replica %s is up on node %s (%s); %d replicas", name, hello.node[:8], hello.backend, count)
        self.first_up.set()

    def _give_up(self, name: str, life: int, text: str) -> None:
        """End a replica that cannot work. At the start that ends the program; later another one is tried."""
        if self._of(name, life) is None:
            return
        if self.first_up.is_set():
            _log.error("%s", text, extra=PER_FRAME)  # a new one is made at the next count of the nodes
        else:
            _log.error("%s", text)
            self.trouble = text
            self.first_up.set()
        self._end(name)

    def _told_hosted(self, name: str, life: int, reply: Reply) -> None:
        if isinstance(reply, Lost):
            self.lose(name, life, reply)
