"""Makes the fleet's table: one row for each device on the allow-list. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from cloud_server.fleet.state import Known
from split_model.protocol.messages import Report
from split_model.protocol.reports import Alert

#: Seconds after which a device counts as silent: a healthy one pings every 2 s.
SILENT_S = 8.0
#: Number of missing reports after which the figures of the last one count as old.
MISSING = 3

#: ``up``: heard just now. ``silent``: it was connected, and is not. ``never``: not seen since the server's start.
Condition = Literal["up", "silent", "never"]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """The row of one device, for display and programs; None: unknown.

    Attributes:
        name: As in the allow-list.
        public_key: Its key.
        condition: See `Condition`.
        heard_ago_s: Seconds since anything came from it.
        report_ago_s: Seconds since its last report.
        stale: Whether its reports have stopped: the figures below are old.
        bundle: The bundle's name: the server's own, or ``other`` for one that is not hosted.
        identity: The bundle's hash.
        hosted: Whether the server hosts it.
        split: The current cut.
        local: Whether the split is ``local``.
        here: Frames finished on the board.
        there: Frames that the server answered.
        frames_in: Frames in all.
        failed: Frames that failed.
        dropped: Frames that a source dropped.
        exact: Whether all these counts are exact; otherwise all but ``there`` are rounded down.
        frames_per_s: Frames a second; see `Known.frames_per_s`.
        expected_s: Predicted time of a frame at this split.
        offload_s: Median time from a request to its answer.
        offload_p95_s: Its 95th percentile.
        uplink_mbit_s: The uplink.
        rtt_s: The round trip.
        load: How much longer work takes than on an idle board.
        temperature_c: The processor's temperature, in steps of 5.
        throttled: Whether the board is throttled.
        whole_input_epsilon: Spent in the device's life.
        whole_input_epsilon_left: Of its budget.
        whole_input_budget: The budget, None where unlimited.
        per_value_epsilon_max: Largest per-value ε since the program's start.
        unprotected_releases: Releases without protection.
        agreement: Expected agreement with the unsplit model at this split.
        agreement_bound: Its one-sided 80 % lower bound.
        alerts: What needs attention.
        uptime_s: Of the device program.
        software: Of the device.
        python: Of the device.
        backend: Of the device.

    """

    name: str
    public_key: str
    condition: Condition
    heard_ago_s: float | None = None
    report_ago_s: float | None = None
    stale: bool = False
    bundle: str | None = None
    identity: str | None = None
    hosted: bool = False
    split: int | None = None
    local: bool | None = None
    here: int | None = None
    there: int | None = None
    frames_in: int | None = None
    failed: int | None = None
    dropped: int | None = None
    exact: bool = False
    frames_per_s: float | None = None
    expected_s: float | None = None
    offload_s: float | None = None
    offload_p95_s: float | None = None
    uplink_mbit_s: float | None = None
    rtt_s: float | None = None
    load: float | None = None
    temperature_c: int | None = None
    throttled: bool | None = None
    whole_input_epsilon: float | None = None
    whole_input_epsilon_left: float | None = None
    whole_input_budget: float | None = None
    per_value_epsilon_max: float | None = None
    unprotected_releases: int | None = None
    agreement: float | None = None
    agreement_bound: float | None = None
    alerts: tuple[Alert, ...] = ()
    uptime_s: float | None = None
    software: str | None = None
    python: str | None = None
    backend: str | None = None

    @property
    def troubled(self) -> bool:
        """Whether the device needs attention."""
        return bool(self.alerts) or self.stale or self.condition == "silent"


def rows(
    admitted: Mapping[str, str], known: Mapping[str, Known], bundles: Mapping[str, str], now_s: float
) -> list[Row]:
    """The whole table, by name.

    Args:
        admitted: Names of the allowed devices, by key.
        known: The known state of devices, by key.
        bundles: Names of the hosted bundles, by identity.
        now_s: The time, on the clock of ``known``.

    """
    made = [row_of(key, name, known.get(key, Known()), bundles, now_s) for key, name in admitted.items()]
    return sorted(made, key=lambda row: (row.name, row.public_key))


def row_of(key: str, name: str, known: Known, bundles: Mapping[str, str], now_s: float) -> Row:
    """The row of one device."""
    if known.heard_s is None:
        return Row(name=name, public_key=key, condition="never")
    heard_ago_s = max(0.0, now_s - known.heard_s)
    # Frames and pings keep a connection alive; without a connection the device is silent at once.
    up = known.connected and heard_ago_s <= SILENT_S
    row = Row(name=name, public_key=key, condition="up" if up else "silent", heard_ago_s=heard_ago_s)
    return row if known.report is None else _with_report(row, known.report, known, bundles, now_s)


def _with_report(row: Row, report: Report, known: Known, bundles: Mapping[str, str], now_s: float) -> Row:
    frames, link, board, ledger = report.frames, report.link, report.board, report.ledger
    ago_s = max(0.0, now_s - known.report_s)
    offload = report.offload
    return msgspec.structs.replace(
        row,
        report_ago_s=ago_s,
        stale=ago_s > MISSING * report.period_s,
        bundle=bundles.get(report.bundle, "other"),
        identity=report.bundle,
        hosted=report.bundle in bundles,
        split=report.split,
        local=None if report.split is None else report.split == report.local,
        here=frames.local + frames.fallback,
        there=frames.offloaded,
        frames_in=frames.frames_in,
        failed=frames.failed,
        dropped=frames.dropped,
        exact=frames.exact,
        frames_per_s=known.frames_per_s,
        expected_s=report.expected_s,
        offload_s=None if offload is None else offload.median_s,
        offload_p95_s=None if offload is None else offload.p95_s,
        uplink_mbit_s=link.uplink_mbit_s,
        rtt_s=link.rtt_s,
        load=board.load,
        temperature_c=board.temperature_c,
        throttled=board.throttled,
        whole_input_epsilon=None if ledger is None else ledger.whole_input_epsilon,
        whole_input_epsilon_left=None if ledger is None else ledger.left,
        whole_input_budget=None if ledger is None else ledger.budget,
        per_value_epsilon_max=None if ledger is None else ledger.per_value_epsilon_max,
        unprotected_releases=None if ledger is None else ledger.unprotected_releases,
        agreement=report.agreement,
        agreement_bound=report.agreement_bound,
        alerts=report.alerts,
        uptime_s=report.uptime_s,
        software=report.software,
        python=report.python,
        backend=report.backend,
    )
