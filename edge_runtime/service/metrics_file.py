"""Writes the board's metrics as a text file for node_exporter's textfile collector.

It needs no library. The file has the figures of a report to the server, so nothing of a frame's content. Point the
collector at its
folder: ``--collector.textfile.directory``. docs/fleet.md lists the metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from split_model.protocol.messages import Report
from split_model.service.atomic_file import write_atomically

_ENDS = ("offloaded", "local", "fallback", "failed", "dropped")
_ALERTS = ("source", "sink", "ledger", "budget", "accuracy", "throttled", "stuck", "reload")


def write(path: Path, report: Report, *, link_up: bool) -> None:
    """Replace the file atomically: a collector never reads half of it. Raises `OSError`."""
    write_atomically(path, exposition(report, link_up=link_up).encode(), durable=False)


def exposition(report: Report, *, link_up: bool) -> str:
    """Format the report in Prometheus' text format, version 0.0.4."""
    lines: list[str] = []
    for name, kind, text, samples in _families(report, link_up=link_up):
        lines += [f"# HELP edge_runtime_{name} {text}", f"# TYPE edge_runtime_{name} {kind}"]
        lines += [f"edge_runtime_{name}{_labels(labels)} {value!r}" for labels, value in samples]
    return "\n".join(lines) + "\n"


#: Values with their labels.
Samples: TypeAlias = Sequence[tuple[Mapping[str, str], float]]


def _families(report: Report, *, link_up: bool) -> Iterator[tuple[str, str, str, Samples]]:
    frames, link, board, ledger = report.frames, report.link, report.board, report.ledger
    software = {"software": report.software, "python": report.python, "backend": report.backend}
    bundle = {"bundle": report.bundle_name, "identity": report.bundle[:12]}
    yield "info", "gauge", "Versions and bundle; always 1.", [({**software, **bundle}, 1)]
    yield "uptime_seconds", "gauge", "Time since the program started.", _one(report.uptime_s)
    ends: Samples = [({"outcome": end}, int(getattr(frames, end))) for end in _ENDS]
    rounding = "" if frames.exact else " Rounded down to two binary digits, but for offloaded."
    yield "frames_total", "counter", f"Frames by outcome.{rounding}", ends
    yield "split_moves_total", "counter", "Decisions that moved the split point.", _one(frames.moves)
    yield "late_answers_total", "counter", "Answers of the server that came too late.", _one(frames.late)
    local = report.split is None or report.split == report.local
    yield "split_local", "gauge", "1 while everything runs on the board.", _one(int(local))
    yield "split_cut", "gauge", "The current split point, an operation's index.", _one(report.split)
    yield "expected_seconds", "gauge", "Predicted time of a frame at the current split.", _one(report.expected_s)
    yield "link_up", "gauge", "1 while the server takes requests.", _one(int(link_up))
    yield "uplink_mbit_per_second", "gauge", "The uplink as estimated.", _one(link.uplink_mbit_s)
    yield "round_trip_seconds", "gauge", "The round trip as estimated.", _one(link.rtt_s)
    yield "reconnects_total", "counter", "Number of reconnections to the server.", _one(link.reconnects)
    yield "load_factor", "gauge", "How much longer work takes than on an idle board.", _one(board.load)
    yield "temperature_celsius", "gauge", "The processor's temperature, in steps of 5.", _one(board.temperature_c)
    yield "agreement_ratio", "gauge", "Expected agreement with the unsplit model.", _one(report.agreement)
    if ledger is not None:
        spent = ledger.whole_input_epsilon
        yield "whole_input_epsilon", "gauge", "Whole-input epsilon spent in the device's life.", _one(spent)
        yield "whole_input_epsilon_left", "gauge", "Remaining lifetime budget.", _one(ledger.left)
        per_value = ledger.per_value_epsilon_max
        yield "per_value_epsilon_max", "gauge", "Largest per-value epsilon since the start.", _one(per_value)
        yield "releases_total", "counter", "Releases in the device's life.", _one(ledger.releases)
    alerts: Samples = [({"alert": alert}, int(alert in report.alerts)) for alert in _ALERTS]
    yield "alert", "gauge", "1 while something needs attention.", alerts


def _one(value: float | None) -> Samples:
    return [] if value is None else [({}, value)]


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
