"""Opens the sources of a plan, beside each other; one that cannot be opened is no other's trouble."""

from __future__ import annotations

from collections.abc import Callable

from edge_runtime.daemon.plan import Plan
from edge_runtime.daemon.within import each_within
from edge_runtime.sources import Source, SourceTable
from edge_runtime.sources.multiplexer import Multiplexer
from edge_runtime.sources.supply import CALL_WITHIN_S, Supply

#: A start waits this much longer for a source that hangs, once another one is ready.
_GRACE_S = 3.0


def refuse_if_none_works(plan: Plan, *, persistent: bool) -> None:
    """Raise before the model is loaded where no source or no sink works, unless ``persistent``."""
    tables = plan.config.sources, plan.config.sinks
    for faults, those in zip((plan.source_faults(grace_s=_GRACE_S), plan.sink_faults()), tables, strict=True):
        if those and len(faults) == len(those) and not persistent:
            raise next(iter(faults.values()))


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
