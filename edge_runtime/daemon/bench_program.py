"""Puts the benchmark together from the device's config: its rim, as the daemon is that of `run`."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping

from edge_runtime.bench import command
from edge_runtime.bench.command import Options, Parts
from edge_runtime.bench.figures import LinkFigures, Report
from edge_runtime.bench.link import LinkBench, Sample
from edge_runtime.board.sensors import Sensors
from edge_runtime.config.config import Config
from edge_runtime.daemon.assembly import (
    allowed_cuts,
    make_board,
    make_heads,
    make_link,
    make_plans,
    open_bundle,
    profile_path,
    release_name,
)
from edge_runtime.inference import profile as profiles
from split_model.protocol.keys import read_pair

log = logging.getLogger(__name__)


def run(config: Config, options: Options) -> Report:
    """Measure this board and, unless told not to, the link; keep the profile for `run`."""
    sensors = Sensors()
    rss_before_bytes = sensors.read().rss_bytes
    bundle = open_bundle(config)
    allowed = allowed_cuts(config, bundle)
    with contextlib.ExitStack() as closing:
        heads = make_heads(config, bundle, make_plans(config, bundle))
        closing.callback(heads.close)
        parts = Parts(
            bundle=bundle,
            heads=heads,
            board=make_board(config),
            sensors=sensors,
            allowed=allowed,
            release=release_name(config),
            threads=config.device.threads,
            objective=config.planner.objective,
            rss_before_bytes=rss_before_bytes,
        )

        def measure_link(samples: Mapping[int, Sample]) -> tuple[LinkFigures, dict[int, float]]:
            boot_id = os.urandom(16).hex()
            link = make_link(config, bundle, read_pair(config.device.key), boot_id, closing)
            link.start()
            closing.callback(link.end)
            return LinkBench(link, config.server.address, bundle.identity, boot_id).measure(samples)

        report, profile = command.run(parts, options, measure_link, log.info)
    profiles.store(profile_path(config, bundle), profile)
    return report
