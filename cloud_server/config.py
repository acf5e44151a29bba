"""The server's config file: the keys, their meaning and their defaults."""

from __future__ import annotations

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
_STATUS_FILE = "cloud-server.status.json"
_SERVICE = Path("/run/cloud-server")


class ServerTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[server]``: where to listen, whom to trust, what to host.

    ``threads``: inferences at a time, by default one a core; ``tail_threads``: cores one inference may use.
    ``preload``: load every tail at start, once a thread, rather than at its first request.
    ``peer_timeout_s``: a device silent for longer is dropped with all it holds here (devices ping every 2 s).
    ``drain_s``: how long a stopping server goes on answering accepted requests.
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
    """``[limits]``: what devices may make this server hold.

    ``queue``: requests waiting for a thread; when it is full, the devices that have some share it by their weights.
    ``peers``: connections of allowed devices, and ``connections_per_device`` of one of them. ``open_requests``: of
    one connection at a time. ``request_mib``: one request's features. ``window_kib``: what a device may send ahead
    of our acknowledgement. ``held_mib``: payloads of all requests together; one device may hold as much as is free.
    ``tail_cache_mib``: memory of all loaded tails together, as the kernel counts it (PSS): idle ones go above it.
    ``device_mib_per_s`` and ``device_messages_per_s``: what one device may send. Who sends more is slowed down by
    later acknowledgements and answers; who ignores that is disconnected.
    ``device_gateway_percent``: the same for the time its messages take the gateway, while others send some.
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
    """``[statistics]``: how often each codeword of the codebook release was true; docs/statistics.md.

    ``path``: the file of counts, an SQLite database; without it nothing is counted. ``keep_days``: counts older
    than this are deleted. ``max_mib``: where the file would grow beyond, the oldest counts are deleted.
    ``labels``: names for groups of devices, each with names or patterns of devices: ``entrance = ["porch*"]``.
    """

    path: Path | None = None
    keep_days: Annotated[float, msgspec.Meta(gt=0, le=36_500)] = 90.0
    max_mib: Mebibytes = 512
    labels: dict[str, tuple[str, ...]] = {}


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A whole config file."""

    server: ServerTable
    limits: LimitsTable = LimitsTable()
    engine: EngineTable = LocalTable()
    emulation: EmulationTable = EmulationTable()
    statistics: StatisticsTable = StatisticsTable()
    sink: tuple[JsonlTable | PubTable | MqttTable, ...] = ()


def load(path: Path) -> Config:
    """Read and check a config file and its ``conf.d``; `ConfigError` names file and key."""
    return load_layers(path)[0]


def load_layers(path: Path) -> tuple[Config, Layers]:
    """`load`, and where every value is from."""
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
            f"{where}: server.listen: {listen!r} is no address", remedy="write it as 'tcp://0.0.0.0:5555'"
        )
    if key.suffix != ".key":
        where = layers.where("server.key")
        raise ConfigError(
            f"{where}: server.key: {key} does not end in '.key'",
            remedy="name the secret key; the public one lies beside it",
        )
    if isinstance(config.engine, RayTable):
        ray_access.check(config.engine)
    return config, layers


def status_path(config: Config | None, config_path: Path, *, runtime_directory: str | None) -> Path:
    """Where ``run`` writes its state: as configured, else systemd's runtime folder, else beside the config."""
    configured = None if config is None else config.server.status
    return status_file.find(
        _STATUS_FILE, configured, config_path, runtime_directory=runtime_directory, service=_SERVICE
    )
