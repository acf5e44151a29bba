"""The server's config file: its keys with meanings and defaults."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated

import msgspec

from cloud_server.engines import ray_access
from cloud_server.engines.tables import EmulationTable, EngineTable, LocalTable, RayTable
from cloud_server.sinks.jsonl import JsonlTable
from cloud_server.sinks.mqtt import MqttTable
from cloud_server.sinks.pub import PubTable
from split_model.errors import ConfigError
from split_model.service import status_file
from split_model.service.config_file import Layers, read_layers

Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
Mebibytes = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=3600)]

_LISTEN = re.compile(r"tcp://[^\s:]+:\d+|tcp://\[[0-9a-fA-F:]+\]:\d+")
_WEB_LISTEN = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}")
_MOST_PORT = (1 << 16) - 1
_STATUS_FILE = "cloud-server.status.json"
_SERVICE = Path("/run/cloud-server")


class ServerTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[server]``: address, key, allow-list and bundles.

    ``threads``: inferences at a time, by default one per core; ``tail_threads``: cores for one inference.
    ``preload``: load every tail at the start, once for each thread, instead of at its first request.
    ``peer_timeout_s``: seconds of silence after which a device and its requests are dropped (devices ping every 2
    s). ``drain_s``: seconds for which a stopping server still answers accepted requests.
    """

    listen: str = "tcp://0.0.0.0:5555"
    key: Path
    devices: Path
    bundles: Annotated[tuple[Path, ...], msgspec.Meta(min_length=1)]
    threads: Count = os.cpu_count() or 1
    tail_threads: Count = 1
    preload: bool = False
    status: Path | None = None
    peer_timeout_s: Seconds = 15.0
    drain_s: Seconds = 5.0


class LimitsTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[limits]``: limits of the devices' use of this server.

    ``queue``: requests waiting for a thread; when it is full, devices share it by their weights.
    ``peers``: connections of allowed devices, and ``connections_per_device`` of one of them. ``open_requests``: of
    one connection at a time. ``request_mib``: features of one request. ``window_kib``: bytes that a device may send
    before our acknowledgement. ``held_mib``: payloads of all requests together; one device may hold as much as is
    free. ``tail_cache_mib``: memory of all loaded tails together, as the kernel counts it (PSS); above it idle
    tails are dropped. ``device_mib_per_s`` and ``device_messages_per_s``: rate limits of one device. A device that
    sends more is slowed down by delayed acknowledgements and answers; one that ignores this is disconnected.
    ``device_gateway_percent``: the same for the gateway's time for its messages, while other devices send some.
    """

    queue: Count = 64
    peers: Count = 256
    connections_per_device: Count = 4
    open_requests: Count = 8
    request_mib: Mebibytes = 16
    window_kib: Annotated[int, msgspec.Meta(ge=64, le=1 << 20)] = 1024
    held_mib: Mebibytes = 512
    tail_cache_mib: Mebibytes = 1024
    device_mib_per_s: Annotated[int, msgspec.Meta(ge=8, le=1 << 20)] = 128
    device_messages_per_s: Annotated[int, msgspec.Meta(ge=1000, le=1 << 24)] = 10_000
    device_gateway_percent: Annotated[int, msgspec.Meta(ge=1, le=100)] = 10


class StatisticsTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[statistics]``: counts of released codewords; see docs/statistics.md.

    ``path``: the file of counts, an SQLite database; without it nothing is counted. ``keep_days``: counts older
    than this are deleted. ``max_mib``: limit of the file; above it the oldest counts are deleted.
    ``labels``: names for groups of devices, each with names or patterns of devices: ``entrance = ["porch*"]``.
    """

    path: Path | None = None
    keep_days: Annotated[float, msgspec.Meta(gt=0, le=36_500)] = 90.0
    max_mib: Mebibytes = 512
    labels: dict[str, tuple[str, ...]] = {}


class WebTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[web]``: the fleet page, and metrics for Prometheus; see docs/fleet.md. Off without this table.

    ``listen``: HOST:PORT. ``password``: the file that ``cloud-server web password`` writes. ``metrics_token``: a
    file with the bearer token of a scraper; ``cloud-server web token`` makes it. ``certificate`` and
    ``certificate_key``: for TLS; without them only loopback addresses are allowed. ``hosts``: names by which
    browsers may ask for the page, beside ``listen``'s and localhost.
    """

    listen: str = "127.0.0.1:8480"
    password: Path
    metrics_token: Path | None = None
    certificate: Path | None = None
    certificate_key: Path | None = None
    hosts: tuple[str, ...] = ()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of ``listen``; an IPv6 address without its brackets."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def has_tls(self) -> bool:
        """Whether the page is served over HTTPS."""
        return self.certificate is not None


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The whole config file."""

    server: ServerTable
    limits: LimitsTable = LimitsTable()
    engine: EngineTable = LocalTable()
    emulation: EmulationTable = EmulationTable()
    statistics: StatisticsTable = StatisticsTable()
    sink: tuple[JsonlTable | PubTable | MqttTable, ...] = ()
    web: WebTable | None = None


def load(path: Path) -> Config:
    """Read and check a config file and its ``conf.d``; `ConfigError` names file and key."""
    return load_layers(path)[0]


def load_layers(path: Path) -> tuple[Config, Layers]:
    """`load`, and the origin of every value."""
    layers = read_layers(path)
    config = layers.parse(Config)
    labels = [sink.label for sink in config.sink]
    if len(set(labels)) < len(labels):
        where, twice = layers.where("sink"), next(label for label in labels if labels.count(label) > 1)
        raise ConfigError(f"{where}: two sinks are called {twice!r}", remedy="give each a name of its own")
    listen, key = config.server.listen, config.server.key
    if not _LISTEN.fullmatch(listen):
        where = layers.where("server.listen")
        raise ConfigError(
            f"{where}: server.listen: {listen!r} is not an address", remedy="write it as 'tcp://0.0.0.0:5555'"
        )
    if key.suffix != ".key":
        where = layers.where("server.key")
        raise ConfigError(
            f"{where}: server.key: {key} does not end in '.key'",
            remedy="name the secret key; the public one lies beside it",
        )
    if isinstance(config.engine, RayTable):
        ray_access.check(config.engine)
    if config.web is not None:
        _check_web(config.web, layers)
    return config, layers


def _check_web(web: WebTable, layers: Layers) -> None:
    """Refuse a page that other machines can reach without TLS."""
    where = layers.where("web.listen")
    if not _WEB_LISTEN.fullmatch(web.listen) or web.address[1] > _MOST_PORT:
        raise ConfigError(
            f"{where}: web.listen: {web.listen!r} is not an address", remedy="write it as '127.0.0.1:8480'"
        )
    if (web.certificate is None) != (web.certificate_key is None):
        raise ConfigError(
            f"{layers.where('web.certificate', 'web.certificate_key')}: web.certificate and web.certificate_key go "
            "together",
            remedy="set both or neither",
        )
    host = web.address[0]
    try:
        alone = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise ConfigError(
            f"{where}: web.listen: {host!r} is not an IP address",
            remedy="name an address of this machine, as 127.0.0.1",
        ) from None
    if not alone and not web.has_tls:
        raise ConfigError(
            f"{where}: web.listen: {host} can be reached by other machines, but there is no TLS",
            remedy="set web.certificate and web.certificate_key, or listen on 127.0.0.1 and come through 'ssh -L'",
        )


def status_path(config: Config | None, config_path: Path, *, runtime_directory: str | None) -> Path:
    """The path of the status file: as configured, else in systemd's runtime folder, else beside the config."""
    configured = None if config is None else config.server.status
    return status_file.find(
        _STATUS_FILE, configured, config_path, runtime_directory=runtime_directory, service=_SERVICE
    )
