"""The benchmark's report as text of at most 80 columns, but for a table with every sensor."""

from __future__ import annotations

import textwrap

from edge_runtime.bench.figures import CutFigures, LinkFigures, Report
from edge_runtime.bench.recommend import mbit, split_name
from split_model.service.terminal_text import counted

WIDTH = 80


def render(report: Report) -> str:
    """The whole report as text for a terminal."""
    lines = _wrapped(
        f"{report.bundle} on {report.machine}, {counted(report.cpus, 'CPU')}; {report.software}; "
        f"{counted(report.threads, 'thread')}; release: {report.release}"
    )
    if report.slowdown != 1.0:
        lines += _wrapped(f"EMULATED: a board {report.slowdown:g} times slower than this machine")
    lines += [
        "",
        *_table(report),
        "",
        *_accuracy(report),
        "",
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
    """Columns that no cut has a figure for are left out."""
    cuts = report.cuts
    columns = [
        ("split", "", [cut.name + ("" if cut.allowed else "*") for cut in cuts]),
        ("head p50", "ms", [_ms(cut.head.p50_s) for cut in cuts]),
        ("p90", "ms", [_ms(cut.head.p90_s) for cut in cuts]),
        ("p99", "ms", [_ms(cut.head.p99_s) for cut in cuts]),
        ("release", "ms", [_ms(cut.release.p50_s) for cut in cuts]),
        ("sent", "kB", [_kilo(cut.payload_bytes) for cut in cuts]),
        ("tail", "ms", [_ms(cut.tail_s) for cut in cuts]),
        ("agrees", "", [_agrees(cut) for cut in cuts]),
        ("RSS", "MB", [_mega(cut.rss_delta_bytes) for cut in cuts]),
        ("temp.", "°C", [_degrees(cut.temperature_after_c) for cut in cuts]),
        ("energy", "J", [_joules(cut) for cut in cuts]),
    ]
    told = [column for column in columns if any(cell != "-" for cell in column[2])]
    widths = [max(map(len, (heading, unit, *cells))) for heading, unit, cells in told]
    rows = zip(*([heading, unit, *cells] for heading, unit, cells in told), strict=True)
    gap = "  " if sum(widths) + 2 * (len(widths) - 1) <= WIDTH else " "
    lines = [gap.join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    if not all(cut.allowed for cut in cuts):
        lines.append("* never used (earliest_cut, accuracy_floor, reveal_at_most): only measured")
    return lines


def _agrees(cut: CutFigures) -> str:
    return "-" if cut.agreement is None or cut.name == "local" else f"{cut.agreement:.2f}"


def _accuracy(report: Report) -> list[str]:
    """What the column of agreement means, and how far it can be relied on."""
    cuts = [cut for cut in report.cuts if cut.name != "local"]
    known = [cut for cut in cuts if cut.agreement is not None]
    if not known:
        return _wrapped("agreement with the unsplit model: not measured") if cuts else []
    bounds = ", ".join(f"{cut.agreement_bound or 0.0:.2f} at {cut.name}" for cut in known)
    pictures = sorted({cut.pictures for cut in known if cut.pictures})
    of = f", of {' to '.join(map(str, pictures[:: max(1, len(pictures) - 1)]))} pictures" if pictures else ""
    return _wrapped(f"agrees: with the unsplit model, expected{of}; at least (one-sided 80 %) {bounds}")


def _board(report: Report) -> list[str]:
    told = [f"{counted(report.cuts[-1].runs, 'run')} each"]
    if report.temperature_before_c is not None and report.temperature_after_c is not None:
        told.append(
            f"temperature {report.temperature_before_c:.1f} C before, {report.temperature_after_c:.1f} C after"
        )
    told += [throttling] if (throttling := _throttling(report)) else []
    if report.rss_bytes is not None:
        told.append(f"this process {report.rss_bytes / 1e6:.0f} MB")
    if report.idle_watts is not None:
        told.append(f"idle {report.idle_watts:.2f} W")
    return _wrapped("board: " + "; ".join(told))


def _throttling(report: Report) -> str:
    seen = [cut.throttled for cut in report.cuts if cut.throttled is not None]
    if not seen:
        return ""
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
    lines += [f"  {split_name(part.name):>9}  {_range(part.from_mbit_s, part.to_mbit_s)}" for part in found.ranges]
    if found.here is not None and found.frame_s is not None:
        here = next(cut.name for cut in report.cuts if cut.split == found.here)
        lines += _wrapped(
            f"on this link now: {split_name(here)}, {_ms(found.frame_s)} ms a frame (local {_ms(found.local_s)} ms)"
        )
    if found.assumed:
        lines += _wrapped("not measured but assumed: " + "; ".join(found.assumed))
    return lines


def _range(least: float, most: float | None) -> str:
    if most is None:
        return "at every uplink" if not least else f"from {mbit(least)} on"
    return f"below {mbit(most)}" if not least else f"from {mbit(least)} to {mbit(most)}"


def _ms(seconds: float | None) -> str:
    """Milliseconds in two or three digits."""
    if not seconds:
        return "-"
    milliseconds = seconds * 1e3
    return f"{milliseconds:.0f}" if milliseconds >= 1000 else f"{milliseconds:.{1 if milliseconds >= 10 else 2}f}"


def _kilo(count: int) -> str:
    return "-" if not count else f"{count / 1e3:.{1 if count >= 1000 else 2}f}"


def _mega(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else f"{size_bytes / 1e6:.1f}"


def _degrees(celsius: float | None) -> str:
    return "-" if celsius is None else f"{celsius:.1f}"


def _joules(cut: CutFigures) -> str:
    return "-" if cut.joules_per_frame is None else f"{cut.joules_per_frame:.3f}"
