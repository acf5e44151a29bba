"""Makes the engine of a config."""

from __future__ import annotations

import time
from collections.abc import Callable

from cloud_server.config import Config
from cloud_server.engine import SHORT_S, Engine, LocalEngine, Outcome
from cloud_server.engines.tables import RayTable
from cloud_server.held_bytes import HeldBytes
from cloud_server.tails import TailSet
from split_model.service.heartbeats import Heartbeats


def open_engine(
    config: Config,
    tails: TailSet,
    *,
    deliver: Callable[[Outcome], None],
    held: HeldBytes,
    weight_of: Callable[[str], int],
    beats: Heartbeats,
) -> Engine:
    """Make the engine; it is not started.

    Args:
        config: The config.
        tails: The hosted tails.
        deliver: Called from any thread with every outcome.
        held: Payload bytes in this process.
        weight_of: A device's weight, by its key.
        beats: Watches that tails and the engine's threads make progress.

    Raises:
        ConfigError: The cluster is open to strangers.
        EngineError: The cluster is unavailable.

    """
    if isinstance(config.engine, RayTable):
        return _ray_engine(config, config.engine, tails, deliver=deliver, weight_of=weight_of, beats=beats)
    return LocalEngine(
        tails,
        deliver=deliver,
        clock=time.monotonic,
        threads=config.server.threads,
        tail_threads=config.server.tail_threads,
        queue=config.limits.queue,
        cache_bytes=config.limits.tail_cache_mib << 20,
        held_bytes=lambda: held.total,
        short_s=0.0 if config.emulation.tail_s else SHORT_S,  # otherwise the gateway's thread would sleep
        weight_of=weight_of,
        beats=beats,
    )


def _ray_engine(
    config: Config,
    table: RayTable,
    tails: TailSet,
    *,
    deliver: Callable[[Outcome], None],
    weight_of: Callable[[str], int],
    beats: Heartbeats,
) -> Engine:
    from cloud_server.engines.ray_cluster import RayCluster
    from cloud_server.engines.ray_engine import RayEngine
    from cloud_server.engines.replica_messages import Settings

    tail_threads = config.server.tail_threads
    replicas = config.server.threads if table.replicas == "auto" else table.replicas
    settings = Settings(
        tail_threads=tail_threads,
        cache_bytes=config.limits.tail_cache_mib << 20,
        node_files="" if table.node_files is None else str(table.node_files),
        node_files_bytes=table.node_files_mib << 20,
        emulated_tail_s=config.emulation.tail_s,
    )
    return RayEngine(
        tails,
        RayCluster(table, settings, cpus=replicas * tail_threads),
        table=table,
        tail_threads=tail_threads,
        deliver=deliver,
        clock=time.monotonic,
        queue_places=config.limits.queue,
        weight_of=weight_of,
        beats=beats,
    )
