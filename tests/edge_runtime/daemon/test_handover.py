"""A reload that is refused: nothing of it stays, and what was in force goes on."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from edge_runtime.config.config import Config, load
from edge_runtime.daemon.assembly import make_plans, open_bundle
from edge_runtime.daemon.handover import Reloader
from edge_runtime.daemon.opening import open_account
from edge_runtime.daemon.serving import InForce, Program, Serving
from edge_runtime.loop.counters import Counters
from edge_runtime.privacy.ledger import Account, system_now
from edge_runtime.privacy.ledger.state import Refusal
from edge_runtime.service.reporter import Reporter
from split_model.errors import BackendError
from split_model.protocol.keys import read_pair
from split_model.service.heartbeats import Heartbeats
from split_model.service.notify import Notifier

YEAR_S = 365.25 * 86400


@dataclass
class Served:
    """A config in force in this process, without frames; ``reload`` takes up another."""

    config: Config
    program: Program
    in_force: InForce
    reporter: Reporter
    passed_s: list[float]

    def reload(self, config: Config) -> str:
        """Why it was refused, or empty."""
        hangups: queue.SimpleQueue[bool] = queue.SimpleQueue()
        reloader = Reloader(lambda: config, hangups, self.in_force, self.program, self.reporter)
        before, self.reporter.reload_error = self.reporter.reloads, ""
        reloader.start()
        hangups.put(True)
        until_s = time.monotonic() + 30.0
        while self.reporter.reloads == before and not self.reporter.reload_error:
            assert time.monotonic() < until_s
            time.sleep(0.01)
        reloader.stop()
        return self.reporter.reload_error

    def stuck(self) -> list[str]:
        """What the watchdog would find a year later, but for the link, which says that it lives."""
        self.passed_s[0] += YEAR_S
        return [name for name in self.program.beats.overdue() if not name.startswith("the link to")]


@pytest.fixture
def serve(rig: Any) -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def start(account: Account | None = None, beats: Heartbeats | None = None) -> Served:
        config = load(rig.configure(planner_split="local", device_state=str(rig.folder / "state")))
        bundle = open_bundle(config)
        plans = make_plans(config, bundle)
        passed_s = [0.0]
        beats = beats or Heartbeats(now=lambda: passed_s[0])
        program = Program(Counters(), beats, 1.0, lambda: False, lambda _: None)
        reporter = Reporter(None, config=Path(), notifier=Notifier(), beats=beats, stopped=lambda: False)
        account = account or open_account(config, plans, now=system_now())
        in_force = InForce(account)
        serving = Serving.start(
            config, bundle, plans=plans, keys=read_pair(config.device.key), account=account, program=program
        )
        assert serving is not None
        in_force.serving = serving
        in_force.take_turn(program.counters)
        made.append(Served(config, program, in_force, reporter, passed_s))
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


def test_a_link_that_cannot_open_is_not_put_in_force(serve: Callable[..., Served]) -> None:
    """Were the address let through: whatever the library does not take shows when its socket opens."""
    served = serve()
    before, running = served.in_force.serving, threads()
    assert "tcp://_gateway:5555" in served.reload(changed(served.config, "server", address="tcp://_gateway:5555"))
    assert served.in_force.serving is before
    assert threads() == running
    assert served.reload(served.config) == ""
    assert served.in_force.serving is not before


class Noting(Heartbeats):
    """Notes what beats and what is over, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.expected: set[str] = set()
        self.over: list[str] = []

    def expect(self, name: str, *, within_s: float) -> None:
        super().expect(name, within_s=within_s)
        self.expected.add(name)

    def done(self, name: str) -> None:
        super().done(name)
        self.over.append(name)


def test_the_link_before_a_reload_does_not_end_the_watch_over_the_one_after_it(
    serve: Callable[..., Served],
) -> None:
    """Both are links to one server, and for a while both are alive."""
    beats = Noting()
    served = serve(beats=beats)
    before = served.in_force.serving
    assert served.reload(served.config) == ""
    links = {name for name in beats.expected if name.startswith("the link to")}
    assert len(links) == 2
    assert served.in_force.serving is not before
    served.in_force.take_turn(served.program.counters)  # from here on the one before is closed
    until_s = time.monotonic() + 30.0
    while not (ended := links.intersection(beats.over)):
        assert time.monotonic() < until_s
        time.sleep(0.01)
    assert len(ended) == 1


def unmeasured(*_: Any, progress: Callable[[str], None], **__: Any) -> None:
    """Measuring the board fails half way through."""
    progress("cut 2")
    raise BackendError("no memory for cut 2")


def refuse(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload that is refused, since the board cannot be measured."""
    with monkeypatch.context() as patch:
        patch.setattr("edge_runtime.daemon.serving.find_profile", unmeasured)
        assert "no memory" in served.reload(served.config)


def test_a_board_that_could_not_be_measured_does_not_starve_the_watchdog(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()
    refuse(served, monkeypatch)
    assert served.stuck() == []


def test_a_ledger_that_a_refused_reload_opened_can_be_opened_by_the_next(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve(Account(Refusal("ledger", "it could not be opened"), costs={}))
    refuse(served, monkeypatch)
    assert served.in_force.serving.account.books is None
    assert served.reload(served.config) == ""
    assert served.in_force.serving.account.books is not None


def test_a_refused_reload_keeps_the_ledger_that_is_in_force(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()
    refuse(served, monkeypatch)
    assert served.in_force.serving.account.trouble == ""


class Closing:
    """Counts how often it is closed."""

    def __init__(self) -> None:
        self.closed = 0
        self.link = self

    def view(self) -> Any:
        return self

    late = reconnects = 0

    def close(self) -> None:
        self.closed += 1


def test_one_that_is_replaced_while_it_gets_its_turn_is_closed_once() -> None:
    taking: list[threading.Thread] = []

    class Racing(InForce):
        """The frame loop comes between the two halves of `put`, if it can."""

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name == "serving" and self._turn is not None:
                taking.append(threading.Thread(target=self.take_turn, args=(Counters(),)))
                taking[0].start()
                taking[0].join(0.3)

    first, second = Closing(), Closing()
    in_force = Racing(Account(Refusal("ledger", "none"), costs={}))
    in_force.serving = cast("Serving", first)
    in_force.take_turn(Counters())
    in_force.put(cast("Serving", second))
    taking[0].join()
    for thread in in_force._retiring:
        thread.join()
    assert (first.closed, second.closed) == (1, 0)
