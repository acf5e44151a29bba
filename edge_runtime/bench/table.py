"""The benchmark's report as text of at most 80 columns."""

from __future__ import annotations

import textwrap

from edge_runtime.bench.figures import CutFigures, LinkFigures, Report
from edge_runtime.bench.recommend import mbit, split_name

WIDTH = 80


def render(report: Report) -> str:
    """The whole report as text for a terminal."""
    lines = _wrapped(
        f"{report.bundle} on {report.machine}, {report.cpus} CPUs; {report.software}; "
        f"threads {report.threads}; release: {report.release}"
    )
    if report.slowdown != 1.0:
        lines += _wrapped(f"EMULATED: a board {report.slowdown:g} times slower than this machine")
    lines += [
        "",
        *_table(report),
        "",
        *_accuracy(report),
        *_board(report),
        "",
        *_links(report),
        "",
        *_recommendation(report),
    ]
    return "\n".join(lines)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_long_words=True, break_on_hyphens=False)


def _table(report: Report) -> list[str]:
    energy = any(cut.joules_per_frame is not None for cut in report.cuts)
    heading = f"{'':>6} {'head ms':^23} {'release':>8} {'payload':>8} {'tail':>6} {'RSS':>6} {'temp.':>6}"
    units = f"{'split':>6} {'p50':>7} {'p90':>7} {'p99':>7} {'p50 ms':>8} {'kB':>8} {'ms':>6} {'MB':>6} {'C':>6}"
    rows = [heading + (f" {'energy':>7}" if energy else ""), units + (f" {'J':>7}" if energy else "")]
    for cut in report.cuts:
        row = (
            f"{cut.name + ('' if cut.allowed else '*'):>6} {_ms(cut.head.p50_s):>7} {_ms(cut.head.p90_s):>7} "
            f"{_ms(cut.head.p99_s):>7} {_ms(cut.release.p50_s):>8} {cut.payload_bytes / 1e3:>8.1f} "
            f"{_ms(cut.tail_s):>6} {_mega(cut.rss_delta_bytes):>6} {_degrees(cut.temperature_after_c):>6}"
        )
        rows.append(row + (f" {_joules(cut):>7}" if energy else ""))
    if not all(cut.allowed for cut in report.cuts):
        rows.append("* measured only: the config forbids it (earliest_cut, accuracy_floor, reveal_at_most)")
    return rows


def _accuracy(report: Report) -> list[str]:
    """The agreement of each cut with the unsplit model, if it was measured."""
    told = [
        f"cut {cut.name} {cut.agreement:.2f} (at least {cut.agreement_bound or 0.0:.2f}"
        + (f", {cut.pictures} pictures)" if cut.pictures else ")")
        for cut in report.cuts
        if cut.agreement is not None
    ]
    unknown = any(cut.agreement is None for cut in report.cuts if cut.name != "local")
    told += ["not measured at the others" if told else "not measured"] if unknown else []
    return _wrapped("agreement with the unsplit model: " + "; ".join(told)) if told else []


def _board(report: Report) -> list[str]:
    told = [f"{report.cuts[-1].runs} runs each"]
    if report.temperature_before_c is not None and report.temperature_after_c is not None:
        told.append(
            f"temperature {report.temperature_before_c:.1f} C before, {report.temperature_after_c:.1f} C after"
        )
    told.append(_throttling(report))
    if report.rss_bytes is not None:
        told.append(f"this process {report.rss_bytes / 1e6:.0f} MB")
    if report.idle_watts is not None:
        told.append(f"idle {report.idle_watts:.2f} W")
    return _wrapped("board: " + "; ".join(told))


def _throttling(report: Report) -> str:
    seen = [cut.throttled for cut in report.cuts if cut.throttled is not None]
    if not seen:
        return "throttling: no sensor"
    reasons = sorted({reason for throttled in seen for reason in throttled})
    now = f"THROTTLED while measuring ({', '.join(reasons)})" if reasons else "not throttled while measuring"
    boot = report.throttled_since_boot
    return now + (f", since boot: {', '.join(boot)}" if boot else "")


def _links(report: Report) -> list[str]:
    if len(report.links) <= 1:
        return _link(report.link)
    lines = [line for link in report.links for line in _link(link)]
    if report.link is not None and report.link.reachable:
        lines += _wrapped(f"soonest at {report.link.address}: its tails are in the table")
    return lines


def _link(link: LinkFigures | None) -> list[str]:
    if link is None:
        return ["link: not measured"]
    if not link.reachable:
        return _wrapped(f"link: {link.trouble}")
    told = [
        f"round trip {_ms(link.round_trip_s)} ms",
        f"uplink {mbit(link.uplink_mbit_s)}",
    ]
    if link.uplink_spread is not None:
        told[-1] += f" (spread {link.uplink_spread:.2f} of its logarithm)"
    if link.proxied:
        told.append(f"TCP ends at a proxy {_ms(link.kernel_round_trip_s)} ms away")
    return _wrapped(f"link to {link.address}: " + "; ".join(told + ([link.trouble] if link.trouble else [])))


def _recommendation(report: Report) -> list[str]:
    found = report.recommendation
    unit = "latency" if found.objective == "latency" else "throughput"
    lines = [f"best split by uplink, for {unit}:"]
    for part in found.ranges:
        to = "and faster" if part.to_mbit_s is None else f"to {mbit(part.to_mbit_s)}"
        lines.append(f"  {split_name(part.name):>9}  from {mbit(part.from_mbit_s):>14} {to}")
    if found.here is not None and found.frame_s is not None:
        here = next(cut.name for cut in report.cuts if cut.split == found.here)
        lines += _wrapped(
            f"on this link now: {split_name(here)}, {_ms(found.frame_s)} ms a frame (local {_ms(found.local_s)} ms)"
        )
    if found.assumed:
        lines += _wrapped("not measured but assumed: " + "; ".join(found.assumed))
    return lines


def _ms(seconds: float | None) -> str:
    """Milliseconds with about three digits."""
    if seconds is None:
        return "-"
    milliseconds = seconds * 1e3
    return f"{milliseconds:.0f}" if milliseconds >= 1000 else f"{milliseconds:.1f}"


def _mega(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else f"{size_bytes / 1e6:.1f}"


def _degrees(celsius: float | None) -> str:
    return "-" if celsius is None else f"{celsius:.1f}"


def _joules(cut: CutFigures) -> str:
    return "-" if cut.joules_per_frame is None else f"{cut.joules_per_frame:.3f}"
