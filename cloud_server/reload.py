"""Applies a changed config to the running server: other bundles and limits. The rest needs a restart."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from cloud_server.config import Config
from cloud_server.engine import Engine
from cloud_server.engines.emulated_tails import tail_set
from cloud_server.limits import ServerLimits
from cloud_server.sessions import Reply, Sessions
from cloud_server.tails import TailSet
from split_model.errors import ConfigError, SplitModelError
from split_model.protocol.server import Limits
from split_model.service.config_file import as_plain
from split_model.service.stoppable_thread import StoppableThread

_log = logging.getLogger(__name__)

#: Keys that need a restart: sockets, key pair, threads and their shares.
FIXED = {
    "server": ("listen", "key", "devices", "threads", "tail_threads", "status", "drain_s"),
    "limits": ("queue", "tail_cache_mib"),
    "statistics": ("path", "keep_days", "max_mib"),
}


def server_limits(config: Config) -> ServerLimits:
    """The limits of a config file in bytes."""
    limits = config.limits
    return ServerLimits(
        peer=Limits(
            request_bytes=limits.request_mib << 20,
            open_requests=limits.open_requests,
            window_bytes=limits.window_kib << 10,
        ),
        peers=limits.peers,
        connections_per_device=limits.connections_per_device,
        held_bytes=limits.held_mib << 20,
        peer_timeout_s=config.server.peer_timeout_s,
        bytes_per_s=float(limits.device_mib_per_s << 20),
        messages_per_s=float(limits.device_messages_per_s),
        gateway_share=limits.device_gateway_percent / 100.0,
    )


def open_tails(config: Config) -> TailSet:
    """Open all bundles of a config, checked by hash."""
    found = TailSet.open(config.server.bundles)
    tails = tail_set(found.bundles.values(), emulated_tail_s=config.emulation.tail_s)
    if config.emulation.tail_s:
        _log.warning("emulation: every tail sleeps for %g s before it runs", config.emulation.tail_s)
    for bundle in tails.bundles.values():
        _log.info("hosting %s (%s): %d cuts", bundle.manifest.name, bundle.identity[:12], len(bundle.manifest.cuts))
    return tails


def refuse_fixed_changes(old: Config, new: Config) -> None:
    """Refuse changes of the keys of `FIXED`, with a `ConfigError` that names them."""
    before, after = as_plain(old), as_plain(new)
    changed = [
        f"{table}.{key}" for table, keys in FIXED.items() for key in keys if before[table][key] != after[table][key]
    ]
    changed += [table for table in ("sink", "web", "engine", "emulation") if before[table] != after[table]]
    if changed:
        raise ConfigError(
            f"{', '.join(changed)} cannot change while the program runs", remedy="restart the service"
        )


class Reloader:
    """Reloads the config: `request` it from a signal handler; the gateway's loop calls `take_up`.

    `take_up` never waits for a disk. ``error``: why the last reload was refused, or empty.
    """

    def __init__(
        self, config: Config, reread: Callable[[], Config] | None, sessions: Sessions, engine: Engine
    ) -> None:
        self.error = ""
        self.reloads = 0
        self._config = config
        self._reread = reread
        self._sessions = sessions
        self._engine = engine
        self._requested = False
        self._thread: StoppableThread | None = None
        self._opened: tuple[Config, TailSet] | None = None

    @property
    def under_way(self) -> bool:
        """Whether a config is being read."""
        return self._requested or self._thread is not None

    def request(self) -> None:
        """Request a reload."""
        self._requested = True

    def take_up(self) -> list[Reply]:
        """Start a requested reload, or switch to an opened config; returns the replies for the devices."""
        if self._thread is not None:
            if self._thread.is_alive():
                return []
            self._thread = None
            if self._opened is not None:
                return self._put_in_force(*self._opened)
        elif self._requested and self._reread is not None:
            self._requested, self._opened = False, None
            self._thread = StoppableThread("reload", partial(self._open, self._reread))
            self._thread.start()
        return []

    def close(self) -> None:
        """Wait a short time for a config that is being opened."""
        if self._thread is not None:
            self._thread.stop()

    def _open(self, reread: Callable[[], Config]) -> None:
        try:
            config = reread()
            refuse_fixed_changes(self._config, config)
            self._opened = (config, open_tails(config))
        except SplitModelError as error:
            self._refused(str(error))
        except Exception as error:  # noqa: BLE001  a new config must never end a server that works with the old one
            _log.exception("reload")
            self._refused(f"{type(error).__name__}: {error}")

    def _refused(self, why: str) -> None:
        self.error = why
        _log.error("reload refused, the previous config stays in force: %s", why)

    def _put_in_force(self, config: Config, tails: TailSet) -> list[Reply]:
        same = tails.offers == self._sessions.tails.offers and server_limits(config) == server_limits(self._config)
        self._config, self._opened, self.error = config, None, ""
        self.reloads += 1
        _log.info("the changed config is in force; %d bundles", len(tails.bundles))
        self._engine.host(tails)
        if same:  # their folder may have changed; devices need no notice of that
            self._sessions.tails = tails
            return []
        return self._sessions.host(tails, server_limits(config))
