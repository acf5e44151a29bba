"""Publishes the server's state: status file, systemd's status line, watchdog."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from cloud_server import status as states
from cloud_server.engine import Engine
from cloud_server.fleet.state import Fleet
from cloud_server.gateway import Gateway
from cloud_server.reload import Reloader
from cloud_server.sessions import Sessions
from cloud_server.sinks.answers import AnswerSinks
from cloud_server.statistics.collector import Collector
from split_model import __version__
from split_model.protocol.keys import KeyPair
from split_model.service.heartbeats import Heartbeats
from split_model.service.notify import Notifier
from split_model.service.status_file import WRITE_EVERY_S, Publisher, boot_s, process_ticks

_log = logging.getLogger(__name__)


class Reporter:
    """Publishes the state; the gateway's loop calls `tick`, which shows that the loop runs.

    ``latest``: the last published status, for other threads.
    """

    def __init__(
        self,
        path: Path,
        *,
        gateway: Gateway,
        sessions: Sessions,
        engine: Engine,
        engine_kind: str,
        keys: KeyPair,
        reloader: Reloader,
        notifier: Notifier,
        beats: Heartbeats,
        statistics: Collector | None = None,
        sinks: AnswerSinks | None = None,
        fleet: Fleet | None = None,
        web_address: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._publisher = Publisher(path, key=states.KEY)
        self._gateway = gateway
        self._sessions = sessions
        self._engine = engine
        self._engine_kind = engine_kind
        self._keys = keys
        self._reloader = reloader
        self._notifier = notifier
        self._beats = beats
        self._statistics = statistics
        self._sinks = sinks
        self._fleet = fleet
        self._web_address = web_address
        self.latest: states.Status | None = None
        self._clock = clock
        self._started_s = self._written_s = clock()
        self._process_ticks = process_ticks(os.getpid()) or 0
        self._state: states.State = "starting"
        self._told_stuck: list[str] = []

    def headline(self) -> str:
        """One line for ``systemctl status``."""
        counters = self._sessions.counters
        return (
            f"{len(self._sessions.tails.bundles)} bundles, {self._sessions.peers} devices connected, "
            f"{counters.answered} of {counters.requests} requests answered"
        )

    def tick(self) -> None:
        """Feed the watchdog unless a tail is stuck, and write the status if it is due."""
        stuck = self._beats.overdue()
        if stuck and stuck != self._told_stuck:
            _log.error("stuck: %s; the watchdog is not fed", ", ".join(stuck))
        self._told_stuck = stuck
        if not stuck:
            self._notifier.alive()
        if self._clock() - self._written_s >= WRITE_EVERY_S:
            self.write("draining" if self._sessions.draining else "running")

    def write(self, state: states.State) -> None:
        """Write the status now."""
        self._written_s = self._clock()
        self._tell(state)
        self.latest = self._status(state)
        self._publisher.publish(self.latest)

    def _tell(self, state: states.State) -> None:
        """Send changes to systemd."""
        told, self._state = self._state, "reloading" if self._reloader.under_way else state
        if self._state == told:
            self._notifier.status(self.headline())
        elif self._state == "running":
            self._notifier.ready(self.headline())
        elif self._state == "reloading":
            self._notifier.reloading("reading the config again")
        else:
            self._notifier.stopping("answering the accepted requests")

    def _status(self, state: states.State) -> states.Status:
        return states.Status(
            state=state,
            pid=os.getpid(),
            process_ticks=self._process_ticks,
            written_boot_s=boot_s(),
            written_unix_s=time.time(),
            uptime_s=self._clock() - self._started_s,
            software=f"cloud-server {__version__}",
            listen=self._gateway.endpoint,
            public_key=self._keys.public.decode(),
            bundles={identity: bundle.manifest.name for identity, bundle in self._sessions.tails.bundles.items()},
            tails=len(self._sessions.tails.every()),
            threads=self._engine.workers,
            engine=self._engine_kind,
            nodes=self._engine.nodes,
            devices=len(self._gateway.allow_list.devices),
            peers=self._sessions.peers,
            queued=self._engine.queued,
            running=self._engine.running,
            held_bytes=self._sessions.held_bytes,
            counters=self._sessions.counters,
            refused_keys=self._gateway.gate.still_refused,
            reloads=self._reloader.reloads,
            reload_error=self._reloader.error,
            statistics=_statistics_of(self._statistics),
            sinks=_sinks_of(self._sinks),
            web=self._web_address,
            reports=0 if self._fleet is None else self._fleet.reports,
            reports_dropped=0 if self._fleet is None else self._fleet.dropped,
        )


def _sinks_of(sinks: AnswerSinks | None) -> dict[str, states.SinkStatus]:
    if sinks is None:
        return {}
    return {
        label: states.SinkStatus(written=written, failed=sinks.failed[label], lost=sinks.lost)
        for label, written in sinks.written.items()
    }


def _statistics_of(collector: Collector | None) -> states.StatisticsStatus | None:
    if collector is None:
        return None
    return states.StatisticsStatus(
        counted=collector.counted, copies=collector.copies, lost=collector.lost, error=collector.error
    )
