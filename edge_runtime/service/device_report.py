"""Makes a board's report to its server from the program's status. Pure.

Nothing in it may depend on the content of a frame. Times of work on the board are left out, but for the planner's
predictions; numbers of frames that may follow from such times are coarse, unless ``release.pace = "fixed"`` makes
them independent of the frames. docs/fleet.md lists the fields, docs/security.md the paths.
"""

from __future__ import annotations

import math

from edge_runtime.service.status import Status
from split_model.protocol import reports
from split_model.protocol.messages import Report

_TEMPERATURE_STEP_C = 5
_MOST = 1e15
_MOST_S = 1e9
_MOST_COUNT = (1 << 53) - 1


def report_of(status: Status, *, period_s: float, exact: bool, python: str, backend: str) -> Report | None:
    """Make the report of a program with this status; None before it has a bundle.

    Args:
        status: The status of ``edge-runtime status``.
        period_s: The time to the next report.
        exact: Whether numbers of frames may be reported exactly.
        python: Python's version.
        backend: The TFLite backend.

    """
    bundle = status.bundle
    if bundle is None or status.local is None:
        return None
    cut = next((one for one in status.cuts if one.cut == status.split), None)
    return Report(
        period_s=min(max(period_s, reports.LEAST_PERIOD_S), reports.MOST_PERIOD_S),
        uptime_s=_seconds(status.uptime_s),
        software=_line(status.software, 64),
        python=_line(python, 64),
        backend=_line(backend, 64),
        bundle=bundle.identity,
        bundle_name=_line(bundle.name, 64),
        split=status.split,
        local=status.local,
        moved=_moved(status),
        frames=_frames(status, exact=exact),
        link=_link(status),
        expected_s=None if status.expected_s is None else _seconds(status.expected_s),
        offload=_offload(status),
        board=_board(status),
        agreement=None if cut is None else cut.agreement,
        agreement_bound=None if cut is None else cut.agreement_bound,
        ledger=_ledger(status),
        alerts=alerts_of(status),
    )


def alerts_of(status: Status) -> tuple[reports.Alert, ...]:
    """The alerts of a status: the conditions that need a person's attention."""
    ledger, board = status.ledger, status.board
    found: dict[reports.Alert, bool] = {
        "source": bool(status.source_trouble),
        "sink": bool(status.sink_trouble),
        "ledger": bool(status.ledger_trouble),
        "budget": ledger is not None and bool(ledger.shortfalls),
        "accuracy": bool(status.accuracy_trouble),
        "throttled": board is not None and bool(board.throttled),
        "stuck": bool(status.overdue),
        "reload": bool(status.reload_error),
    }
    return tuple(alert for alert, raised in found.items() if raised)


def _frames(status: Status, *, exact: bool) -> reports.FrameCounts:
    def count(name: str, *, told: bool = exact) -> int:
        value = min(int(status.counters.get(name, 0)), _MOST_COUNT)
        return value if told else reports.coarse(value)

    return reports.FrameCounts(
        exact=exact,
        frames_in=count("frames_in"),
        offloaded=count("offloaded", told=True),
        local=count("local"),
        fallback=count("fallback"),
        failed=count("failed"),
        dropped=count("dropped"),
        late=count("late", told=True),
        moves=count("moves", told=True),
    )


def _moved(status: Status) -> reports.Moved | None:
    moved = status.decision
    if moved is None:
        return None
    return reports.Moved(
        ago_s=_seconds(moved.ago_s),
        split_from=moved.split_from,
        split_to=moved.split_to,
        why=_line(moved.why, 120),
    )


def _link(status: Status) -> reports.LinkReport:
    link = status.link
    if link is None:
        return reports.LinkReport(uplink_mbit_s=None, rtt_s=None, queue_s=0.0, reconnects=0)
    return reports.LinkReport(
        uplink_mbit_s=None if link.uplink_mbit_s is None else _bounded(link.uplink_mbit_s, _MOST),
        rtt_s=None if link.rtt_s is None else _seconds(link.rtt_s),
        queue_s=_seconds(link.queue_s),
        reconnects=link.reconnects,
    )


def _offload(status: Status) -> reports.OffloadReport | None:
    offload = status.offload
    if offload is None:
        return None
    return reports.OffloadReport(
        frames=offload.frames, median_s=_seconds(offload.median_s), p95_s=_seconds(offload.p95_s)
    )


def _board(status: Status) -> reports.BoardReport:
    board = status.board
    if board is None:
        return reports.BoardReport(load=1.0, temperature_c=None, throttled=None)
    warm = board.temperature_c
    return reports.BoardReport(
        load=_bounded(board.load, _MOST),
        temperature_c=None if warm is None else _TEMPERATURE_STEP_C * round(warm / _TEMPERATURE_STEP_C),
        throttled=None if board.throttled is None else bool(board.throttled),
    )


def _ledger(status: Status) -> reports.LedgerReport | None:
    ledger = status.ledger
    if ledger is None:
        return None
    lifetime = ledger.lifetime
    return reports.LedgerReport(
        whole_input_epsilon=_bounded(ledger.spent.whole_input_epsilon, _MOST),
        per_value_epsilon_max=_bounded(status.counters.get("per_value_epsilon_max", 0.0), _MOST),
        releases=ledger.spent.releases,
        unprotected_releases=ledger.spent.unprotected_releases,
        budget=None if lifetime is None else _bounded(lifetime.budget, _MOST),
        left=None if lifetime is None else _bounded(lifetime.left, _MOST),
        spent_in_s=None
        if lifetime is None or lifetime.spent_in_s is None
        else _bounded(lifetime.spent_in_s, _MOST),
    )


def _seconds(value: float) -> float:
    return _bounded(value, _MOST_S)


def _bounded(value: float, most: float) -> float:
    """Limit a number to the report's range and to five digits, which reveal less."""
    if math.isnan(value):
        return 0.0
    return float(f"{min(max(value, 0.0), most):.5g}")


def _line(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
