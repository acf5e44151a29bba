"""``cloud-server run``: put the parts together, serve, and tell the world how it goes."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from cloud_server import status as status_file
from cloud_server.allow_list import AllowList
from cloud_server.config import Config
from cloud_server.counters import Counters
from cloud_server.engine import LocalEngine
from cloud_server.gateway import Gateway
from cloud_server.hub import Hub, HubLimits
from cloud_server.tails import TailSet
from split_model import __version__
from split_model.errors import OutputError
from split_model.keys import KeyPair, read_pair
from split_model.protocol.server import Limits

_log = logging.getLogger(__name__)


def hub_limits(config: Config) -> HubLimits:
    """The limits of a config file in bytes."""
    limits = config.limits
    return HubLimits(
        peer=Limits(
            request_bytes=limits.request_mib << 20,
            open_requests=limits.open_requests,
            window_bytes=limits.window_kib << 10,
        ),
        peers=limits.peers,
        connections_per_device=limits.connections_per_device,
        held_bytes=limits.held_mib << 20,
        peer_timeout_s=config.server.peer_timeout_s,
    )


def serve(config: Config, status_path: Path, *, ready_fd: int | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain. Call it in the main thread, which takes the signals.

    With ``ready_fd``, writes the endpoint and a newline to that descriptor once devices can connect.
    """
    server = config.server
    keys = read_pair(server.key)
    tails = TailSet.open(server.bundles)
    for bundle in tails.bundles.values():
        _log.info("hosting %s (%s): %d cuts", bundle.manifest.name, bundle.identity[:12], len(bundle.manifest.cuts))
    with closing(Gateway(listen=server.listen, keys=keys, allow_list=AllowList(server.devices))) as gateway:
        engine = LocalEngine(
            tails,
            deliver=gateway.mailbox.put,
            clock=time.monotonic,
            threads=server.threads,
            tail_threads=server.tail_threads,
            queue=config.limits.queue,
            cache_bytes=config.limits.tail_cache_mib << 20,
        )
        engine.start(preload=server.preload)
        hub = Hub(
            tails=tails,
            engine=engine,
            name_of=gateway.allow_list.name_of,
            boot_id=secrets.token_hex(8),
            limits=hub_limits(config),
            counters=Counters(),
        )
        reporter = Reporter(status_path, gateway, hub, engine, keys, threads=server.threads)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: gateway.stop())
        reporter.write("running")
        _log.info("listening on %s, public key %s", gateway.endpoint, keys.public.decode())
        if ready_fd is not None:
            os.write(ready_fd, gateway.endpoint.encode() + b"\n")
            os.close(ready_fd)
        try:
            gateway.run(hub, drain_s=server.drain_s, on_sweep=reporter.tick)
        finally:
            engine.close()
            engine.join(timeout_s=1.0)
            reporter.write("stopped")
    _log.info("stopped: %d requests, %d answered", hub.counters.requests, hub.counters.answered)


class Reporter:
    """Writes the status file, every second."""

    def __init__(
        self,
        path: Path,
        gateway: Gateway,
        hub: Hub,
        engine: LocalEngine,
        keys: KeyPair,
        *,
        threads: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._gateway = gateway
        self._hub = hub
        self._engine = engine
        self._keys = keys
        self._threads = threads
        self._clock = clock
        self._started_s = self._written_s = clock()
        self._process_unix_s = status_file.process_started(os.getpid()) or 0.0
        self._tails = hub.tails
        self._complained = False

    def tick(self) -> None:
        """Write if it is time to."""
        if self._clock() - self._written_s >= status_file.WRITE_EVERY_S:
            self.write("draining" if self._hub.draining else "running")

    def write(self, state: status_file.State) -> None:
        """Write now. A full disk does not stop the server: it is said once in the log."""
        self._written_s = self._clock()
        try:
            status_file.write(self._path, self._status(state))
            self._complained = False
        except OutputError as error:
            if not self._complained:
                _log.warning("%s", error)
            self._complained = True

    def _status(self, state: status_file.State) -> status_file.Status:
        return status_file.Status(
            state=state,
            pid=os.getpid(),
            process_unix_s=self._process_unix_s,
            written_unix_s=time.time(),
            uptime_s=self._clock() - self._started_s,
            software=f"cloud-server {__version__}",
            listen=self._gateway.endpoint,
            public_key=self._keys.public.decode(),
            bundles={identity: bundle.manifest.name for identity, bundle in self._tails.bundles.items()},
            tails=len(self._tails.tails),
            threads=self._threads,
            devices=len(self._gateway.allow_list.devices),
            peers=self._hub.peers,
            queued=self._engine.queued,
            running=self._engine.running,
            held_bytes=self._hub.held_bytes,
            counters=self._hub.counters,
            refused_keys=self._gateway.gate.still_refused,
        )
