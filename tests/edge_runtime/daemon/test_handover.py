"""A reload: the new device beside the old one, and what is left of one that is refused."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar, cast

import msgspec
import pytest

from edge_runtime.board.board import Board, EmulatedBoard
from edge_runtime.config.config import Config, load
from edge_runtime.daemon.device import Device
from edge_runtime.daemon.handover import InForce, Reloader
from edge_runtime.daemon.program import Program
from edge_runtime.loop.counters import Counters
from edge_runtime.privacy.ledger import read
from edge_runtime.privacy.ledger.store import store_path
from edge_runtime.service.reporter import Reporter
from split_model.errors import BackendError, ConfigError
from split_model.service.heartbeats import Heartbeats
from split_model.service.notify import Notifier

T = TypeVar("T")
YEAR_S = 365.25 * 86400
#: The slowdown of a board that fails.
FAILS = 333.0


class Failing(EmulatedBoard):
    """Fails half way through being measured."""

    def __init__(self) -> None:
        super().__init__(1.0)
        self.done = 0

    def run(self, work: Callable[[], T]) -> tuple[T, float]:
        self.done += 1
        if self.done > 12:
            raise BackendError("no memory for cut 2")
        return super().run(work)


def board(slowdown: float) -> Board:
    return Failing() if slowdown == FAILS else EmulatedBoard(slowdown)


class Heard(Heartbeats):
    """Remembers what was ever expected, and what is now."""

    def __init__(self) -> None:
        self.passed_s = 0.0
        super().__init__(now=lambda: self.passed_s)
        self.ever: set[str] = set()
        self.expected: set[str] = set()

    def expect(self, name: str, *, within_s: float) -> None:
        super().expect(name, within_s=within_s)
        self.ever.add(name)
        self.expected.add(name)

    def done(self, name: str) -> None:
        super().done(name)
        self.expected.discard(name)


@dataclass
class Served:
    """A config in force in this process, without frames; ``reload`` takes up another."""

    config: Config
    program: Program
    in_force: InForce
    reporter: Reporter
    beats: Heard

    def reload(self, config: Config) -> str:
        """Why it was refused, or empty."""
        hangups: queue.SimpleQueue[bool] = queue.SimpleQueue()
        reloader = Reloader(
            lambda: config, hangups, self.in_force, self.program, self.reporter, take_up=lambda *_: None
        )
        before, self.reporter.reload_error = self.reporter.reloads, ""
        reloader.start()
        hangups.put(True)
        until(lambda: self.reporter.reloads != before or self.reporter.reload_error)
        reloader.stop()
        return self.reporter.reload_error

    def stuck(self) -> list[str]:
        """What the watchdog would find a year later, but for the link, which says that it lives."""
        self.beats.passed_s += YEAR_S
        return [name for name in self.beats.overdue() if not name.startswith("the link to")]


def until(holds: Callable[[], Any]) -> None:
    until_s = time.monotonic() + 30.0
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.01)


@pytest.fixture
def serve(rig: Any) -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def start(**changes: Any) -> Served:
        config = load(rig.configure(planner_split="local", device_state=str(rig.folder / "state"), **changes))
        beats = Heard()
        program = Program(Counters(), beats, 1.0, lambda: False, lambda _: None, make_board=board)
        reporter = Reporter(None, config=Path(), notifier=Notifier(), beats=beats, stopped=lambda: False)
        device = Device.open(config, program)
        assert device is not None
        in_force = InForce(device)
        in_force.take_turn(program.counters)
        made.append(Served(config, program, in_force, reporter, beats))
        return made[-1]

    yield start
    for served in made:
        served.in_force.close()
    assert threads() == []


def threads() -> list[str]:
    return sorted(t.name for t in threading.enumerate() if t.name.startswith(("link", "heads", "local", "ledger")))


def changed(config: Config, table: str, **changes: Any) -> Config:
    replaced = msgspec.structs.replace(getattr(config, table), **changes)
    return cast("Config", msgspec.structs.replace(config, **{table: replaced}))


def refuse(served: Served) -> None:
    """A reload that is refused, since the board cannot be measured."""
    assert "no memory" in served.reload(changed(served.config, "emulation", slowdown=FAILS))


def test_a_link_that_cannot_open_is_not_put_in_force(serve: Callable[..., Served]) -> None:
    """Were the address let through: whatever the library does not take shows when its socket opens."""
    served = serve()
    before, running = served.in_force.device, threads()
    assert "tcp://_gateway:5555" in served.reload(changed(served.config, "server", address="tcp://_gateway:5555"))
    assert served.in_force.device is before
    assert threads() == running
    assert served.reload(served.config) == ""
    assert served.in_force.device is not before


def test_a_start_whose_link_cannot_open_leaves_nothing_open(rig: Any) -> None:
    config = load(rig.configure(planner_split="local", device_state="state"))
    program = Program(Counters(), Heard(), 1.0, lambda: False, lambda _: None, make_board=board)
    with pytest.raises(ConfigError, match="_gateway"):
        Device.open(changed(config, "server", address="tcp://_gateway:5555"), program)
    assert threads() == []
    device = Device.open(config, program)  # it would find the ledger taken
    assert device is not None
    assert device.account.trouble == ""
    device.close()
    assert threads() == []


def test_a_board_that_could_not_be_measured_does_not_starve_the_watchdog(serve: Callable[..., Served]) -> None:
    served = serve()
    refuse(served)
    assert "measuring this board" in served.beats.ever
    assert served.stuck() == []


def test_a_ledger_that_a_refused_reload_opened_can_be_opened_by_the_next(
    serve: Callable[..., Served], rig: Any
) -> None:
    served = serve()
    lost = store_path(served.config.device.state)
    served.in_force.close()
    whole = lost.read_bytes()
    lost.write_bytes(bytes(len(whole)))
    served = serve()
    assert served.in_force.device.account.ledger_state is None
    lost.write_bytes(whole)
    refuse(served)
    assert served.in_force.device.account.ledger_state is None
    assert served.reload(served.config) == ""
    assert served.in_force.device.account.ledger_state is not None


def test_a_refused_reload_keeps_the_ledger_that_is_in_force(serve: Callable[..., Served]) -> None:
    served = serve()
    refuse(served)
    assert served.in_force.device.account.trouble == ""


def test_a_replaced_device_hands_its_ledger_over(serve: Callable[..., Served]) -> None:
    served = serve()
    first = served.in_force.device
    assert served.reload(changed(served.config, "privacy", block_frames=3)) == ""
    served.in_force.take_turn(served.program.counters)
    until(lambda: not first.links[0].is_alive())
    second = served.in_force.device
    assert second.account.trouble == ""
    assert second.account.charge(2, "default")
    served.in_force.close()
    assert not second.account.charge(2, "default")
    stored = read(served.config.device.state)
    assert stored is not None
    assert (stored.total.releases, stored.reserved) == (1, {})  # the rest of the block is given back


def test_the_watchdog_tells_the_old_link_from_the_new_one(serve: Callable[..., Served]) -> None:
    served = serve()
    first = served.in_force.device
    (old,) = {name for name in served.beats.expected if name.startswith("the link to")}
    assert served.reload(served.config) == ""
    new = {name for name in served.beats.expected if name.startswith("the link to")} - {old}
    assert len(new) == 1
    served.in_force.take_turn(served.program.counters)
    until(lambda: not first.links[0].is_alive() and old not in served.beats.expected)
    assert served.beats.expected >= new


class Closing:
    """Counts how often it is closed; in the place of a device."""

    late = reconnects = 0

    def __init__(self, closed: Counter[int]) -> None:
        self.account = self
        self._closed = closed

    def views(self) -> list[Any]:
        return [self]

    def close(self) -> None:
        self._closed[id(self)] += 1

    def close_ledger(self) -> None:
        pass


def test_each_device_is_closed_once_wherever_a_turn_falls_into_a_change() -> None:
    """The frame loop comes between any two lines of `put`, if it can."""
    closed: Counter[int] = Counter()
    made = [Closing(closed) for _ in range(3)]
    in_force = InForce(cast("Device", made[0]))
    in_force.take_turn(Counters())
    taking: list[threading.Thread] = []

    def between(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_name == "put" and event == "line":
            taking.append(threading.Thread(target=in_force.take_turn, args=(Counters(),)))
            taking[-1].start()
            taking[-1].join(0.1)
        return between

    def put() -> None:
        sys.settrace(between)
        for device in made[1:]:
            in_force.put(cast("Device", device))

    putting = threading.Thread(target=put)
    putting.start()
    for thread in [putting, *taking]:
        thread.join()
    assert len(taking) >= 6
    in_force.close()
    assert closed == dict.fromkeys(map(id, made), 1)


def test_one_that_comes_after_the_end_is_closed_too() -> None:
    closed: Counter[int] = Counter()
    first, late = Closing(closed), Closing(closed)
    in_force = InForce(cast("Device", first))
    in_force.close()
    in_force.put(cast("Device", late))
    until(lambda: closed == {id(first): 1, id(late): 1})
