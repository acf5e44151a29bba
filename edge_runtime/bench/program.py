"""Opens the parts of a device that the benchmark needs, measures them, and stores the profile."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping

import msgspec

from edge_runtime.bench import command
from edge_runtime.bench.command import Options, Parts
from edge_runtime.bench.figures import LinkFigures, Report
from edge_runtime.bench.link import LinkBench, Sample
from edge_runtime.board.board import make_board
from edge_runtime.board.cpu_speed import speed_of
from edge_runtime.board.sensors import Sensors
from edge_runtime.config.config import Config, ServerTable
from edge_runtime.daemon.device import open_link
from edge_runtime.daemon.models import open_heads
from edge_runtime.daemon.plan import Plan
from edge_runtime.inference import profile as profiles
from split_model.errors import SplitModelError
from split_model.protocol.keys import KeyPair

log = logging.getLogger(__name__)


def run(config: Config, options: Options, keys: KeyPair | SplitModelError | None) -> Report:
    """Measure this board and, if wanted, the link; store the profile for `edge-runtime run`.

    Args:
        config: The device's config.
        options: What the command line asks for.
        keys: This device's keys for the link, or the error if they cannot be read, which the report then gives as
            the reason why the link was not measured. None if the link is not wanted.

    """
    sensors = Sensors()
    rss_before_bytes = sensors.read().rss_bytes
    plan = Plan.of(config)
    for line in plan.cut_lines():
        if line.level > logging.INFO:  # the table has the others
            log.log(line.level, "%s", line.text)
    with contextlib.ExitStack() as closing:
        board = make_board(config.emulation.slowdown)
        speed = speed_of(board)
        parts = Parts(
            bundle=plan.bundle,
            heads=open_heads(plan, closing),
            board=board,
            sensors=sensors,
            allowed=plan.allowed,
            accuracy=plan.accuracy,
            release=config.release.name,
            threads=config.device.threads,
            objective=config.planner.objective,
            rss_before_bytes=rss_before_bytes,
        )

        def measure_link(
            server: ServerTable, samples: Mapping[int, Sample]
        ) -> tuple[LinkFigures, dict[int, float]]:
            assert keys is not None
            if isinstance(keys, SplitModelError):
                trouble = f"not measured: {keys}"
                return LinkFigures(address=server.address, reachable=False, trouble=trouble), {}
            boot_id = os.urandom(16).hex()
            with contextlib.ExitStack() as link_closing:
                link = open_link(plan, server, keys, link_closing, boot_id=boot_id)
                return LinkBench(link, server.address, plan.bundle.identity, boot_id).measure(samples)

        def measure_links(samples: Mapping[int, Sample]) -> list[tuple[LinkFigures, dict[int, float]]]:
            return [measure_link(server, samples) for server in config.servers]

        report, profile = command.run(parts, options, measure_links, log.info)
    profile = msgspec.structs.replace(profile, spin_cpu_s=speed.spin_s, clock_mhz=speed.clock_mhz, cpus=speed.cpus)
    profiles.keep_for_later(profiles.path_in(config.device.state, plan.bundle.identity), profile)
    return report
