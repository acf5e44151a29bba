"""Runs the device program: signals, sources and sinks around a `Device`, and the shutdown.

The parts of a device are opened in `daemon.device`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.board.board import Board, make_board
from edge_runtime.config.config import Config
from edge_runtime.daemon.device import Device
from edge_runtime.daemon.handover import InForce, Reloader
from edge_runtime.daemon.program import Program
from edge_runtime.daemon.shutdown import Shutdown
from edge_runtime.daemon.sources import open_sources, take_up
from edge_runtime.link.link_view import LinkView
from edge_runtime.link.trouble import Trouble
from edge_runtime.loop.counters import Counters
from edge_runtime.loop.results import Step
from edge_runtime.loop.stream import FrameStream
from edge_runtime.service.reporter import Reporter
from edge_runtime.service.why_local import why_none_offloaded
from edge_runtime.sinks import Sinks
from edge_runtime.sources import Answer
from edge_runtime.sources.multiplexer import Multiplexer
from split_model.service.heartbeats import Heartbeats
from split_model.service.notify import Notifier

log = logging.getLogger(__name__)

#: Minimum and default patience, in seconds, before late work counts as stuck.
_PATIENCE_S = (1.0, 60.0)


@dataclass(frozen=True)
class Service:
    """Settings from the command line: the config's path, how to read it again, where to publish the status.

    ``make_board``: returns the board that heads run on, given a slowdown.
    """

    config: Path
    reread: Callable[[], Config]
    status: Path
    notifier: Notifier
    make_board: Callable[[float], Board] = make_board


def run(config: Config, service: Service) -> int:
    """Answer frames until the source ends or SIGTERM or SIGINT comes; returns the exit code."""
    stopping: list[int] = []  # signal numbers; a lock, as an Event has, could be taken twice by handlers
    hangups: queue.SimpleQueue[bool] = queue.SimpleQueue()
    shutdown = Shutdown()

    def stop(number: int, _: object) -> None:
        stopping.append(number)
        shutdown.begin()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: hangups.put(True))
    notifier, beats = service.notifier, Heartbeats()
    with contextlib.ExitStack() as closing, contextlib.ExitStack() as ending:
        closing.callback(notifier.close)
        shutdown.start()
        closing.callback(shutdown.over)
        ending.callback(shutdown.begin)  # before anything is closed, whatever the cause
        reporter = Reporter(
            service.status,
            config=service.config,
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
            make_board=service.make_board,
            persistent=notifier.is_heard,
        )
        device = Device.open(config, program)
        if device is None:
            return os.EX_OK
        in_force = InForce(device)
        closing.callback(in_force.close)
        shutdown.guard(in_force.close_ledger, frame_within_s=lambda: in_force.device.frame_within_s)
        sinks = Sinks(config.sinks, persistent=program.persistent)
        closing.callback(sinks.close)
        multiplexer = open_sources(device.plan, program.stopped, persistent=program.persistent)
        closing.callback(multiplexer.close)
        closing.callback(in_force.close_ledger)  # before a source that may hang is closed
        reloader = Reloader(
            service.reread,
            hangups,
            in_force,
            program,
            reporter,
            take_up=lambda old, new: take_up(old, new, multiplexer, sinks),
        )
        reloader.start()
        closing.callback(reloader.stop)
        reporter.serve(device)
        stream = FrameStream(
            iter(multiplexer), beats, within_s=lambda: max(program.patience_s, in_force.device.frame_within_s)
        )
        reporter.stream, reporter.multiplexer, reporter.sinks = stream, multiplexer, sinks
        reporter.enter("running")

        def note(step: Step) -> None:
            shutdown.answered()
            reporter.note(step)

        device = _answer(
            stream, multiplexer=multiplexer, sinks=sinks, in_force=in_force, counters=program.counters, note=note
        )
        shutdown.begin()
        # Answers may have come late after the last frame.
        views = device.stop_links()
        program.counters.links(views)
    _say_end(device, views, reporter.last_step, counters=program.counters)
    _say_counters("source", multiplexer.counters_by_source())
    _say_counters("sink", sinks.counters_by_sink())
    log.info("done: %s", _pairs(program.counters.as_dict()))
    return os.EX_OK


def _answer(
    stream: FrameStream,
    *,
    multiplexer: Multiplexer,
    sinks: Sinks,
    in_force: InForce,
    counters: Counters,
    note: Callable[[Step], None],
) -> Device:
    """Answer every frame with the device in force at that time; returns the last device."""
    while True:
        device = in_force.take_turn(counters)
        for step in device.loop.run(stream.until(lambda: in_force.changed)):
            result = step.result
            *moves, record = device.records.of(step)
            for move in moves:
                sinks.write(move)
            kept = sinks.write(record, result.outputs)
            multiplexer.answered(Answer(result.frame, record, result.outputs), kept=kept)
            counters.dropped(multiplexer.dropped)
            stream.answered(result.frame)
            note(step)
        if stream.ended:
            counters.dropped(multiplexer.dropped)
            return device


def _say_end(device: Device, views: Sequence[LinkView], last: Step | None, *, counters: Counters) -> None:
    """Log why nothing was offloaded, if nothing was."""
    for link, view in zip(device.links, views, strict=True):
        if view.trouble is Trouble.NOT_YET:  # any other trouble was logged when it began
            log.warning("%s was not reached before the last frame", link.address)
    reason = why_none_offloaded(last, device.plan)
    if reason is not None and not counters.as_dict()["offloaded"]:
        log.info("%s", reason)


def _say_counters(what: str, counters: Mapping[str, Mapping[str, int]]) -> None:
    for name, of_one in counters.items():
        log.info("%s %s: %s", what, name, _pairs(of_one))


def _pairs(counters: Mapping[str, float]) -> str:
    """All counters that are not zero."""
    return " ".join(f"{key}={value:.15g}" for key, value in counters.items() if value) or "nothing"
