"""Puts the device program together from its config, runs it, and takes it apart again.

This is the rim: the only place where the clock, the operating system's entropy and the sockets are handed in.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.board.board import Board
from edge_runtime.config.config import Config
from edge_runtime.daemon.assembly import (
    allowed_cuts,
    check_sources,
    make_plans,
    open_bundle,
    open_sources,
)
from edge_runtime.daemon.handover import Reloader
from edge_runtime.daemon.opening import open_account
from edge_runtime.daemon.serving import InForce, Program, Serving
from edge_runtime.link.trouble import Trouble
from edge_runtime.loop.counters import Counters
from edge_runtime.loop.results import Step
from edge_runtime.loop.stream import Feed
from edge_runtime.planner.planner import Planner
from edge_runtime.privacy.ledger import system_now
from edge_runtime.service.reporter import Reporter
from edge_runtime.sinks import Sinks
from edge_runtime.sources import Answer
from edge_runtime.sources.multiplexer import Intake
from split_model.protocol.keys import read_pair
from split_model.service.heartbeats import Heartbeats
from split_model.service.notify import Notifier

log = logging.getLogger(__name__)

#: What is late by less than this is not stuck: at least, and where no watchdog says more.
_PATIENCE_S = (1.0, 60.0)


@dataclass(frozen=True)
class Service:
    """What the command line knows beside the config: where it is, how to read it again, where to publish."""

    config: Path
    reread: Callable[[], Config]
    status: Path
    notifier: Notifier


def run(
    config: Config, *, service: Service | None = None, planner: Planner | None = None, board: Board | None = None
) -> int:
    """Answer frames until the source ends or SIGTERM or SIGINT comes; returns the exit code.

    ``planner`` and ``board`` take the place of the configured ones, for tests that force them.
    """
    stopping: list[int] = []  # signal numbers; a lock, as an Event has, could be taken twice by handlers
    hangups: queue.SimpleQueue[bool] = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: stopping.append(got))
    if service is not None and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: hangups.put(True))
    notifier = Notifier() if service is None else service.notifier
    beats = Heartbeats()
    with contextlib.ExitStack() as closing:
        closing.callback(notifier.close)
        reporter = Reporter(
            None if service is None else service.status,
            config=Path() if service is None else service.config,
            notifier=notifier,
            beats=beats,
            stopped=lambda: bool(stopping),
        )
        reporter.start()
        closing.callback(reporter.stop)
        program = Program(
            counters=Counters(),
            beats=beats,
            patience_s=max(_PATIENCE_S[0], (notifier.watchdog_s or _PATIENCE_S[1]) / 2),
            stopped=lambda: bool(stopping),
            doing=reporter.doing,
            board=board,
            planner=planner,
        )
        bundle = open_bundle(config)
        check_sources(config, bundle)
        keys = read_pair(config.device.key)
        plans = make_plans(config, bundle)
        account = open_account(config, plans, now=system_now())
        in_force = InForce(account)
        closing.callback(in_force.close)
        serving = Serving.start(config, bundle, plans=plans, keys=keys, account=account, program=program)
        if serving is None:
            return os.EX_OK
        in_force.serving = serving
        sinks = Sinks(config.sinks)
        closing.callback(sinks.close)
        intake = open_sources(config, bundle, program.stopped)
        closing.callback(intake.close)
        if service is not None:
            reloader = Reloader(service.reread, hangups, in_force, program, reporter)
            reloader.start()
            closing.callback(reloader.stop)
        reporter.serve(serving)
        feed = Feed(iter(intake), beats, within_s=lambda: max(program.patience_s, in_force.serving.frame_within_s))
        reporter.feed, reporter.intake, reporter.sinks = feed, intake, sinks
        reporter.enter("running")
        serving = _answer(
            feed,
            intake=intake,
            sinks=sinks,
            in_force=in_force,
            counters=program.counters,
            note=reporter.note,
        )
        # Answers may have come late after the last frame.
        view = serving.link.stop()
        program.counters.link(late=view.late, reconnects=view.reconnects)
    if view.trouble is Trouble.NOT_YET:  # any other trouble was told when it came
        log.warning("%s was not reached before the last frame", serving.config.server.address)
    _say_counters("source", intake.counters_by_source())
    _say_counters("sink", sinks.counters_by_sink())
    log.info("done: %s", " ".join(f"{key}={value:g}" for key, value in program.counters.as_dict().items()))
    return os.EX_OK


def _answer(
    feed: Feed,
    *,
    intake: Intake,
    sinks: Sinks,
    in_force: InForce,
    counters: Counters,
    note: Callable[[Step], None],
) -> Serving:
    """Answer every frame there is, by the config that is in force then; returns the last."""
    while True:
        serving = in_force.take_turn(counters)
        for step in serving.runtime.run(feed.until(lambda: in_force.changed)):
            result = step.result
            *moves, record = serving.records.of(step)
            for move in moves:
                sinks.write(move)
            sinks.write(record, result.outputs)
            intake.answered(Answer(result.frame, record, result.outputs))
            counters.dropped(intake.dropped)
            feed.answered(result.frame)
            note(step)
        if feed.ended:
            counters.dropped(intake.dropped)
            return serving


def check(config: Config, *, with_key: bool = True) -> None:
    """Open everything the config names, and raise the first error that `run` would meet.

    ``with_key``: the secret key too, which systemd lets nobody but the running service read.
    """
    bundle = open_bundle(config)
    check_sources(config, bundle)
    for sink in config.sinks:
        sink.check()
    if with_key:
        read_pair(config.device.key)
    make_plans(config, bundle)
    allowed_cuts(config, bundle)


def _say_counters(what: str, counters: Mapping[str, Mapping[str, int]]) -> None:
    for name, of_one in counters.items():
        log.info("%s %s: %s", what, name, " ".join(f"{key}={value}" for key, value in of_one.items()))
