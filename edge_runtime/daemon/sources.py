"""Checks and opens the sources and sinks of a plan, beside each other and each within a time.

A folder whose disk hangs, or a library that does not load, is that source's trouble and no other's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TypeVar

from edge_runtime.daemon.plan import Plan
from edge_runtime.sources import Source, SourceTable
from edge_runtime.sources.multiplexer import Multiplexer
from edge_runtime.sources.supply import CALL_WITHIN_S, Supply
from split_model.errors import BackendError, SplitModelError
from split_model.service.stoppable_thread import StoppableThread

T = TypeVar("T")

#: A source that is not checked or opened within this time hangs; where another one is ready, a start waits less.
_WITHIN_S = 10.0
_GRACE_S = 3.0
_LOOK_EVERY_S = 0.01


def each_within(
    work: Mapping[str, Callable[[], T]], within_s: float = _WITHIN_S, *, grace_s: float | None = None
) -> dict[str, T | Exception]:
    """Do several things at once, each in a thread that is left behind if it hangs; the results, or errors.

    Args:
        work: By name.
        within_s: For each.
        grace_s: For the others, once one of them has a result.

    """
    results: dict[str, T | Exception] = {}

    def run(name: str, do: Callable[[], T]) -> None:
        try:
            results[name] = do()
        except Exception as error:  # noqa: BLE001  whoever asked looks at it
            results[name] = error

    threads = {name: StoppableThread(f"open-{name}", partial(run, name, do)) for name, do in work.items()}
    for thread in threads.values():
        thread.start()
    until_s = time.monotonic() + within_s
    while len(results) < len(work) and (left_s := until_s - time.monotonic()) > 0:
        if grace_s is not None and any(not isinstance(found, Exception) for found in list(results.values())):
            until_s, grace_s = min(until_s, time.monotonic() + grace_s), None
        time.sleep(min(left_s, _LOOK_EVERY_S))
    done = dict(results)
    for name in work:
        if name not in done:
            done[name] = BackendError(
                f"{name} does not answer within {within_s:.3g} s: its disk, driver or library hangs",
                remedy="look after it, or leave it out",
            )
    return done


def check_each(plan: Plan, *, connect: bool = False, grace_s: float | None = None) -> dict[str, Exception]:
    """The faults of sources and sinks, by name (``source porch``); touches nothing that a program uses.

    Args:
        plan: Whose they are.
        connect: Try whether what is on the network can be reached, too.
        grace_s: See `each_within`.

    """

    def check(source: SourceTable) -> Callable[[], None]:
        def both() -> None:
            source.check(plan.wanted)
            if connect:
                source.reach()

        return both

    work: dict[str, Callable[[], None]] = {f"source {table.label}": check(table) for table in plan.config.sources}
    work |= {f"sink {table.label}": table.check for table in plan.config.sinks}
    return {
        name: found for name, found in each_within(work, grace_s=grace_s).items() if isinstance(found, Exception)
    }


def refuse_faults(faults: Iterable[Exception]) -> None:
    """Raise the first fault, with the others in its text."""
    errors = list(faults)
    if not errors:
        return
    first = errors[0]
    if len(errors) > 1 and isinstance(first, SplitModelError):
        more = ". And: ".join([first.remedy, *(str(error) for error in errors[1:])])
        raise type(first)(first.problem, remedy=more) from None
    raise first


def refuse_if_none_works(plan: Plan, *, persistent: bool) -> None:
    """Tell the faults of sources and sinks before the model is loaded; raise where no source, or no sink, works."""
    faults = check_each(plan, grace_s=_GRACE_S)
    for what, tables in (("source", plan.config.sources), ("sink", plan.config.sinks)):
        found = [faults[name] for table in tables if (name := f"{what} {table.label}") in faults]
        if tables and len(found) == len(tables) and not persistent:
            raise found[0]


def open_sources(plan: Plan, stopped: Callable[[], bool], *, persistent: bool = False) -> Multiplexer:
    """All sources, open; they start when frames are taken. One that cannot be opened is tried again then.

    Raises:
        SplitModelError: None can be opened, and the program is not ``persistent``.

    """
    tables = plan.config.sources

    def opener(table: SourceTable) -> Callable[[], Source]:
        return lambda: table.open(plan.wanted)

    found = each_within({f"source {table.label}": opener(table) for table in tables}, grace_s=_GRACE_S)
    supplies = {}
    for table in tables:
        opened = found[f"source {table.label}"]
        fault = opened if isinstance(opened, Exception) else None
        supplies[table.label] = Supply(
            opener(table),
            table.subject,
            table.frame_within_s or CALL_WITHIN_S,
            opened=None if isinstance(opened, Exception) else opened,
            fault=fault,
        )
    faults = [supply.fault for supply in supplies.values() if supply.fault is not None]
    if len(faults) == len(tables) and not persistent:
        raise faults[0]
    ahead = plan.config.planner.objective == "throughput"
    return Multiplexer(supplies, stopped=stopped, ahead=ahead, persistent=persistent)
