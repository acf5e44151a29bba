"""Opens the sources of a plan and replaces them at a reload; one that fails does not affect the others."""

from __future__ import annotations

from collections.abc import Callable

from edge_runtime.daemon.plan import Plan
from edge_runtime.daemon.within import each_within
from edge_runtime.sinks import Sinks
from edge_runtime.sources import Source, SourceTable
from edge_runtime.sources.multiplexer import Multiplexer
from edge_runtime.sources.supply import CALL_WITHIN_S, Supply

#: A start waits this much longer for a source that hangs, once another one is ready.
_GRACE_S = 3.0


def refuse_if_none_works(plan: Plan, *, persistent: bool) -> None:
    """Raise if no source or no sink works, before the model is loaded; not if ``persistent``."""
    tables = plan.config.sources, plan.config.sinks
    for faults, those in zip((plan.source_faults(grace_s=_GRACE_S), plan.sink_faults()), tables, strict=True):
        if those and len(faults) == len(those) and not persistent:
            raise next(iter(faults.values()))


def open_sources(plan: Plan, stopped: Callable[[], bool], *, persistent: bool = False) -> Multiplexer:
    """Open all sources; they start when frames are taken. A source that cannot be opened is tried again then.

    Raises:
        SplitModelError: None can be opened, and the program is not ``persistent``.

    """
    tables = plan.config.sources
    found = each_within({f"source {table.label}": _opener(table, plan) for table in tables}, grace_s=_GRACE_S)
    supplies = {table.label: _supply(table, plan, found[f"source {table.label}"]) for table in tables}
    faults = [supply.fault for supply in supplies.values() if supply.fault is not None]
    if len(faults) == len(tables) and not persistent:
        raise faults[0]
    ahead = plan.config.planner.objective == "throughput"
    return Multiplexer(supplies, stopped=stopped, ahead=ahead, persistent=persistent)


def take_up(old: Plan, new: Plan, multiplexer: Multiplexer, sinks: Sinks) -> None:
    """Close the sources and sinks that a changed config no longer names, and open the new ones."""
    before = {table.label: table for table in old.config.sources}
    after = {table.label: table for table in new.config.sources}
    gone = [label for label, table in before.items() if after.get(label) != table]
    come = {label: _supply(table, new) for label, table in after.items() if before.get(label) != table}
    if gone or come:
        multiplexer.change(come, gone=gone)
    if old.config.sinks != new.config.sinks:
        sinks.change(new.config.sinks)


def _opener(table: SourceTable, plan: Plan) -> Callable[[], Source]:
    return lambda: table.open(plan.wanted)


def _supply(table: SourceTable, plan: Plan, opened: Source | Exception | None = None) -> Supply:
    fault = opened if isinstance(opened, Exception) else None
    return Supply(
        _opener(table, plan),
        table.subject,
        table.frame_within_s or CALL_WITHIN_S,
        opened=None if isinstance(opened, Exception) else opened,
        fault=fault,
    )
