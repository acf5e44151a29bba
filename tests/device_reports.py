"""A device's report on itself, for tests of the wire, of the fleet's table and of its page."""

from __future__ import annotations

import msgspec

from split_model.protocol import messages as wire
from split_model.protocol import reports


def make_report(bundle: str, **changes: object) -> wire.Report:
    """A report of a device that works; ``changes`` are fields of it."""
    report = wire.Report(
        period_s=1.0,
        uptime_s=100.0,
        software="edge-runtime 0.1.0",
        python="3.11.7",
        backend="ai-edge-litert",
        bundle=bundle,
        bundle_name="two-layers",
        split=1,
        local=2,
        moved=reports.Moved(ago_s=3.0, split_from=2, split_to=1, why="saves 12 ms of 95 ms"),
        frames=reports.FrameCounts(
            exact=False, frames_in=96, offloaded=71, local=16, fallback=6, failed=0, dropped=0, late=0, moves=1
        ),
        link=reports.LinkReport(uplink_mbit_s=4.5, rtt_s=0.03, queue_s=0.0, reconnects=0),
        expected_s=0.18,
        offload=reports.OffloadReport(frames=71, median_s=0.12, p95_s=0.3),
        board=reports.BoardReport(load=1.25, temperature_c=65, throttled=False),
        agreement=0.95,
        agreement_bound=0.91,
        ledger=reports.LedgerReport(
            whole_input_epsilon=4096.0, per_value_epsilon_max=16.0, releases=80, unprotected_releases=0, budget=1e6,
            left=995904.0, spent_in_s=None,
        ),
        alerts=(),
    )  # fmt: skip
    return msgspec.structs.replace(report, **changes)
