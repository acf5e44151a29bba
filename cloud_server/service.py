"""``cloud-server run``: makes the parts, serves, and publishes the state."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cloud_server.allow_list import AllowList
from cloud_server.config import Config
from cloud_server.counters import Counters
from cloud_server.engine import Done
from cloud_server.engines.opening import open_engine
from cloud_server.fleet.overview import FleetWriter, Overview, fleet_path
from cloud_server.gateway import Gateway
from cloud_server.held_bytes import HeldBytes
from cloud_server.open_requests import OpenRequest
from cloud_server.reload import Reloader, open_tails, server_limits
from cloud_server.reporter import Reporter
from cloud_server.sessions import Reply, Sessions
from cloud_server.sinks.answers import AnswerSinks, open_sinks
from cloud_server.statistics.collector import Collector
from cloud_server.statistics.store import Store
from cloud_server.status import Status
from split_model.protocol.keys import read_pair
from split_model.service.heartbeats import Heartbeats
from split_model.service.notify import Notifier
from split_model.service.privileges import warn_root

if TYPE_CHECKING:
    from cloud_server.web.server import WebServer

_log = logging.getLogger(__name__)

#: Seconds of start time requested from systemd, to open and load the bundles.
_START_S = 600.0
#: Seconds that a worker may keep the GIL while the gateway waits for it (CPython's default: 5 ms).
_SWITCH_S = 0.0005


def serve(
    config: Config,
    status_path: Path,
    *,
    ready_fd: int | None = None,
    reread: Callable[[], Config] | None = None,
    notifier: Notifier | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Call it in the main thread, which takes the signals.

    With ``ready_fd``, writes the endpoint and a newline to that descriptor once devices can connect. ``reread``
    reads the config again at a SIGHUP.
    """
    sys.setswitchinterval(_SWITCH_S)
    server, notifier, beats = config.server, notifier or Notifier(), Heartbeats()
    notifier.starting("opening the bundles", within_s=_START_S)
    keys = read_pair(server.key)
    tails = open_tails(config)
    allow_list, held = AllowList(server.devices), HeldBytes()
    statistics, sinks = open_statistics(config), open_sinks(config.sink)
    reporter: Reporter | None = None

    def latest() -> Status | None:
        return None if reporter is None else reporter.latest

    overview = Overview(names=lambda: allow_list.devices, status=latest, clock=time.monotonic)
    with (
        closing(notifier),
        open_web(config, overview) as web,
        closing(Gateway(listen=server.listen, keys=keys, allow_list=allow_list)) as gateway,
    ):
        engine = open_engine(
            config, tails, deliver=gateway.mailbox.put, held=held, weight_of=allow_list.weight_of, beats=beats
        )
        if server.preload:
            notifier.starting("loading every tail", within_s=_START_S)
        engine.start(preload=server.preload)
        sessions = Sessions(
            tails=tails,
            engine=engine,
            name_of=gateway.allow_list.name_of,
            boot_id=secrets.token_hex(8),
            limits=server_limits(config),
            counters=Counters(),
            held=held,
            statistics=statistics,
            on_answer=_on_answer(overview, sinks),
            on_report=overview.fleet.reported,
        )
        reloader = Reloader(config, reread, sessions, engine)
        reporter = Reporter(
            status_path,
            gateway=gateway,
            sessions=sessions,
            engine=engine,
            keys=keys,
            reloader=reloader,
            engine_kind=str(config.engine.__struct_config__.tag),
            notifier=notifier,
            beats=beats,
            statistics=statistics,
            sinks=sinks,
            fleet=overview.fleet,
            web_address="" if web is None else web.address,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: gateway.stop())
        if reread is not None and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, lambda _number, _frame: reloader.request())

        def sweep() -> list[Reply]:
            replies = reloader.take_up()
            overview.fleet.heard(sessions.heard_s(), allow_list.devices)
            reporter.tick()
            return replies

        reporter.write("running")
        _log.info("listening on %s, public key %s", gateway.endpoint, keys.public.decode())
        warn_root("cloud-server")
        if ready_fd is not None:
            os.write(ready_fd, gateway.endpoint.encode() + b"\n")
            os.close(ready_fd)
        beside: list[Collector | AnswerSinks | FleetWriter] = [
            *(part for part in (statistics, sinks) if part is not None),
            FleetWriter(fleet_path(status_path), overview),
        ]
        for part in beside:
            part.start()
        try:
            gateway.run(sessions, drain_s=server.drain_s, on_sweep=sweep)
        finally:
            engine.close()
            engine.join(timeout_s=1.0)
            reloader.close()
            for part in beside:
                part.close()
            reporter.write("stopped")
    _log.info("stopped: %d requests, %d answered", sessions.counters.requests, sessions.counters.answered)


def _on_answer(overview: Overview, sinks: AnswerSinks | None) -> Callable[[str, OpenRequest, Done], None]:
    """Return the callback for every answer, in the gateway's thread: it counts and queues, and never waits."""

    def answered(device: str, ended: OpenRequest, outcome: Done) -> None:
        arrived = ended.arrived
        overview.times.answered(
            ended.tail.bundle.manifest.name,
            arrived.request.cut,
            total_s=time.monotonic() - arrived.started_s,
            queue_s=outcome.queue_s,
            tail_s=outcome.tail_s,
            received_bytes=len(arrived.payload),
            sent_bytes=len(outcome.payload),
        )
        if sinks is not None:
            sinks.answered(device, ended, outcome)

    return answered


@contextmanager
def open_web(config: Config, overview: Overview) -> Iterator[WebServer | None]:
    """Open the page and the metrics, in a separate thread; None without ``[web]``. Raises `ConfigError`."""
    if config.web is None:
        yield None
        return
    from cloud_server.web.server import WebServer  # its libraries are an extra of the package

    web = WebServer(config.web, overview, statistics=config.statistics)
    web.start()
    _log.info("page at %s", web.address)
    try:
        yield web
    finally:
        web.close()


def open_statistics(config: Config) -> Collector | None:
    """Open the counting of released codewords; None without ``[statistics]``. Raises `OutputError`."""
    table = config.statistics
    if table.path is None:
        return None
    return Collector(Store(table.path, keep_days=table.keep_days, limit_bytes=table.max_mib << 20))
