"""Puts the device program together from its config, runs it, and takes it apart again.

This is the rim: the only place where the clock, the operating system's entropy and the sockets are handed in.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import threading
from collections.abc import Mapping

from edge_runtime import profile as profiles
from edge_runtime.assembly import (
    allowed_cuts,
    check_sources,
    find_profile,
    make_board,
    make_heads,
    make_link,
    make_planner,
    make_plans,
    open_bundle,
    open_sources,
    profile_path,
    release_name,
    say_privacy,
)
from edge_runtime.bench import command as bench_command
from edge_runtime.bench.command import Options, Parts
from edge_runtime.bench.figures import LinkFigures, Report
from edge_runtime.bench.link import LinkBench, Sample
from edge_runtime.conditions.board import Board
from edge_runtime.conditions.load import LoadEstimator
from edge_runtime.conditions.sensors import Sensors
from edge_runtime.config import Config
from edge_runtime.heads import Heads
from edge_runtime.ledger import Account, system_now
from edge_runtime.ledger.opening import open_account
from edge_runtime.offload import NOT_YET, Offload
from edge_runtime.pipeline import Pipeline
from edge_runtime.planner import Planner
from edge_runtime.profile import Profile
from edge_runtime.records import Records
from edge_runtime.runtime import Runtime
from edge_runtime.sinks import Sinks
from edge_runtime.sources import Answer
from split_model.bundle import Bundle
from split_model.keys import KeyPair, read_pair

log = logging.getLogger(__name__)


def run(config: Config, *, planner: Planner | None = None) -> int:
    """Answer frames until the source ends or SIGTERM or SIGINT comes; returns the exit code.

    ``planner`` decides instead of the configured one, for tests that force it.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    bundle = open_bundle(config)
    check_sources(config, bundle)
    keys = read_pair(config.device.key)
    plans = make_plans(config, bundle)
    say_privacy(config, bundle, plans)
    allowed = allowed_cuts(config, bundle)
    board = make_board(config)
    with contextlib.ExitStack() as closing:
        account = open_account(config, plans, now=system_now())
        closing.callback(account.close)
        heads = make_heads(config, bundle, plans)
        closing.callback(heads.close)
        profile = find_profile(config, bundle, heads, board, stop.is_set)
        if profile is None:
            return os.EX_OK
        sinks = Sinks(config.sinks)
        closing.callback(sinks.close)
        runtime, offload = _start(
            config=config,
            bundle=bundle,
            heads=heads,
            board=board,
            profile=profile,
            keys=keys,
            account=account,
            planner=planner or make_planner(config, bundle, profile, allowed),
            closing=closing,
        )
        intake = open_sources(config, bundle, stop.is_set)
        closing.callback(intake.close)
        records = Records(bundle)
        counters = runtime.counters
        for step in runtime.run(intake):
            result = step.result
            *moves, record = records.of(step)
            for move in moves:
                sinks.write(move)
            sinks.write(record, result.outputs)
            intake.answered(Answer(result.frame, record, result.outputs))
            counters.dropped(intake.dropped)
        counters.dropped(intake.dropped)
        # Answers may have come late after the last frame.
        view = offload.stop()
        counters.late, counters.reconnects = view.late, view.reconnects
    if view.trouble == NOT_YET:  # any other trouble was told when it came
        log.warning("%s was not reached before the last frame", config.server.address)
    _say_counters("source", intake.counters_by_source())
    _say_counters("sink", sinks.counters_by_sink())
    log.info("done: %s", " ".join(f"{key}={value:g}" for key, value in counters.as_dict().items()))
    return os.EX_OK


def _start(
    *,
    config: Config,
    bundle: Bundle,
    heads: Heads,
    board: Board,
    profile: Profile,
    keys: KeyPair,
    account: Account,
    planner: Planner,
    closing: contextlib.ExitStack,
) -> tuple[Runtime, Offload]:
    """The frame loop, and the link thread, started; ``closing`` ends both."""
    boot_id = secrets.token_hex(16)
    offload = make_link(config, bundle, keys, boot_id, closing)
    cpus = os.cpu_count() or 1
    frame_loop = Pipeline if config.planner.objective == "throughput" else Runtime
    runtime = frame_loop(
        bundle=bundle,
        heads=heads,
        board=board,
        planner=planner,
        offload=offload,
        profile=profile,
        boot_id=boot_id,
        answer_within_s=config.planner.answer_within_s,
        load=LoadEstimator(board.cpu_load, cpus=cpus, threads=config.device.threads),
        account=account,
        # Without a core to spare, a second run at the same time would only slow the first one.
        hedge_above=config.planner.hedge_above if cpus > config.device.threads else 1.0,
    )
    offload.start()
    closing.callback(offload.end)
    closing.callback(runtime.close)
    return runtime, offload


def bench(config: Config, options: Options) -> Report:
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
            boot_id = secrets.token_hex(16)
            offload = make_link(config, bundle, read_pair(config.device.key), boot_id, closing)
            offload.start()
            closing.callback(offload.end)
            return LinkBench(offload, config.server.address, bundle.identity, boot_id).measure(samples)

        report, profile = bench_command.run(parts, options, measure_link, log.info)
    profiles.store(profile_path(config, bundle), profile)
    return report


def check(config: Config) -> None:
    """Open everything the config names, and raise the first error that `run` would meet."""
    bundle = open_bundle(config)
    check_sources(config, bundle)
    read_pair(config.device.key)
    make_plans(config, bundle)
    allowed_cuts(config, bundle)


def _say_counters(what: str, counters: Mapping[str, Mapping[str, int]]) -> None:
    for name, of_one in counters.items():
        log.info("%s %s: %s", what, name, " ".join(f"{key}={value}" for key, value in of_one.items()))
