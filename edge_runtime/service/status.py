"""The status file of the running device program; see `split_model.service.status_file`.

It has nothing of a frame's content, so all users of the board may read it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from edge_runtime.privacy.ledger.status import LedgerStatus, as_text, duration
from split_model.service.status_file import Written

State = Literal["starting", "running", "reloading", "draining", "stopped"]

#: The config key of the file's path, the file's name, and systemd's folder for it.
KEY = "device.status"
NAME = "edge-runtime.status.json"
SERVICE = Path("/run/edge-runtime")


class BundleStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The bundle in force, and the folder of its files."""

    name: str
    identity: str
    folder: str


class CutStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Accuracy and exposure of one cut under the present release.

    ``used``: the planner may choose it. ``agreement``: the expected share of answers that agree with the unsplit
    model, ``agreement_bound`` its one-sided 80 % lower bound, both None if unmeasured. ``pictures``: their number
    in the measurement. ``text``: the same as text. ``reveals``: the audit's verdict on this release, empty without
    one; ``exposure``: the same as text.
    """

    cut: int
    used: bool
    agreement: float | None
    agreement_bound: float | None
    pictures: int | None
    text: str
    reveals: str = ""
    exposure: str = ""


class DecisionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The last move of the split point."""

    ago_s: float
    split_from: int
    split_to: int
    why: str


class LinkStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The estimated link to one server. ``hosted``: the server has the bundle.

    ``in_use``: frames are sent there; of two servers, the other one is on standby.
    ``trouble``: one line, or empty. ``trouble_kind``: the same for programs, a member of the link's `Trouble`.
    """

    address: str
    up: bool
    hosted: bool
    trouble: str
    uplink_mbit_s: float | None
    rtt_s: float | None
    queue_s: float
    reconnects: int
    trouble_kind: str = ""
    in_use: bool = True


class BoardStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The sensors, None where the board has none; ``load``: how much longer work takes than on an idle board."""

    load: float
    cpu_load: float
    temperature_c: float | None
    throttled: tuple[str, ...] | None
    memory_available_bytes: int | None
    rss_bytes: int | None


class LatencyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds over the last ``frames`` frames: from capture to answer, or for their offloading only."""

    frames: int
    median_s: float
    p95_s: float


class Status(Written, kw_only=True):
    """The content of ``status --json``.

    ``doing``: the present step of a start. ``cuts``: those at which the release can be made; ``accuracy_trouble``:
    why none of them is used, or which figures are missing, or empty; ``exposure_trouble``: why none reveals little
    enough. ``split`` equal to ``local``: everything runs here. ``links``: to every server; ``link`` is the one in
    use. ``under_way``: frames accepted and not answered yet. ``sources`` and ``sinks``: the counters of each;
    ``source_trouble`` and ``sink_trouble``: the present faults of those that do not work. ``overdue``: the tasks
    that are stuck; while there are any, the watchdog is not fed. ``expected_s``: the planner's prediction for a
    frame at the current split. ``offload``: from a request's first chunk to its answer. ``reload_error``: why the
    last reload was refused, or empty. ``fixed``: the values that only a restart changes
    (`daemon.plan.fixed_values`).
    """

    state: State
    config: str
    doing: str = ""
    bundle: BundleStatus | None = None
    cuts: list[CutStatus] = msgspec.field(default_factory=list)
    accuracy_trouble: str = ""
    exposure_trouble: str = ""
    split: int | None = None
    local: int | None = None
    decision: DecisionStatus | None = None
    link: LinkStatus | None = None
    links: list[LinkStatus] = msgspec.field(default_factory=list)
    board: BoardStatus | None = None
    counters: dict[str, float] = msgspec.field(default_factory=dict)
    sources: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)
    sinks: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)
    source_trouble: dict[str, str] = msgspec.field(default_factory=dict)
    sink_trouble: dict[str, str] = msgspec.field(default_factory=dict)
    under_way: int = 0
    latency: LatencyStatus | None = None
    offload: LatencyStatus | None = None
    expected_s: float | None = None
    ledger: LedgerStatus | None = None
    ledger_trouble: str = ""
    overdue: list[str] = msgspec.field(default_factory=list)
    reloads: int = 0
    reload_error: str = ""
    fixed: dict[str, str] = msgspec.field(default_factory=dict)


def split_name(split: int | None, local: int | None) -> str:
    """The name of a split for display."""
    if split is None:
        return "none yet"
    return "local" if split == local else f"cut {split}"


def headline(status: Status) -> str:
    """One line for ``systemctl status``."""
    if status.state == "starting":
        return status.doing or "starting"
    parts = [f"split {split_name(status.split, status.local)}"]
    if (link := status.link) is not None:
        rate = "" if link.uplink_mbit_s is None else f" {link.uplink_mbit_s:.3g} Mbit/s"
        parts.append(f"link up{rate}" if link.up else "link down")
        parts += [f"{other.address} is down" for other in status.links if not other.in_use and not other.up]
    count = status.counters
    parts.append(f"{count.get('frames_in', 0):.0f} frames, {count.get('fallback', 0):.0f} fallback")
    parts += [f"source {name}: {trouble}" for name, trouble in status.source_trouble.items()]
    parts += [f"sink {name}: {trouble}" for name, trouble in status.sink_trouble.items()]
    if status.overdue:
        parts.append(f"STUCK: {status.overdue[0]}")
    return "; ".join(parts)


def for_terminal(status: Status, condition: str, *, age_s: float) -> str:
    """The whole status as text for a terminal."""
    lines = [("", f"{condition}   pid {status.pid}, {status.software}, up {duration(status.uptime_s)}")]
    if condition == "hanging":
        lines.append(("", f"it has written nothing for {duration(age_s)}"))
    if status.state == "starting":
        lines.append(("doing", status.doing))
    lines.append(("config", status.config))
    if status.reload_error:
        lines.append(("reload", f"REFUSED, the previous config is in force: {status.reload_error}"))
    if status.bundle is not None:
        lines.append(("bundle", f"{status.bundle.name} ({status.bundle.identity[:12]}) in {status.bundle.folder}"))
        lines += _frames(status)
        lines += _cuts(status)
    for what, counters, troubles in (
        ("source", status.sources, status.source_trouble),
        ("sink", status.sinks, status.sink_trouble),
    ):
        lines += [(what, f"{name}: {_counts(of_one)}") for name, of_one in counters.items()]
        lines += [(what, f"{name}: TROUBLE: {trouble}") for name, trouble in troubles.items()]
    for link in status.links:
        lines += _link(link, alone=len(status.links) == 1)
    if status.board is not None:
        lines.append(("board", _board(status.board)))
    lines += [("overdue", what) for what in status.overdue]
    if status.ledger_trouble:
        lines.append(("ledger", f"{status.ledger_trouble}; nothing leaves this device"))
    text = "\n".join(f"{name:<10}{value}" if name else value for name, value in lines)
    return text if status.ledger is None else f"{text}\n\nprivacy ledger\n{as_text(status.ledger)}"


def _cuts(status: Status) -> list[tuple[str, str]]:
    """Accuracy and audit of the cuts in use, and why others are not used."""
    used = [one for one in status.cuts if one.used]
    lines = [("accuracy", f"cut {one.cut}: {one.text}") for one in used]
    lines += [("accuracy", status.accuracy_trouble)] if status.accuracy_trouble else []
    lines += [("audit", f"cut {one.cut}: {one.exposure}") for one in used if one.reveals]
    return lines + ([("audit", status.exposure_trouble)] if status.exposure_trouble else [])


def _frames(status: Status) -> list[tuple[str, str]]:
    count = {name: int(value) for name, value in status.counters.items()}
    ends = ("offloaded", "local", "fallback", "failed", "dropped")
    shares = ", ".join(f"{count.get(end, 0)} {end}" for end in ends)
    lines = [("split", split_name(status.split, status.local))]
    if (moved := status.decision) is not None:
        names = [split_name(split, status.local) for split in (moved.split_from, moved.split_to)]
        lines.append(("decision", f"{names[0]} to {names[1]}, {duration(moved.ago_s)} ago: {moved.why}"))
    lines.append(("frames", f"{count.get('frames_in', 0)} in: {shares}; {status.under_way} under way"))
    if count.get("failovers"):
        lines.append(
            ("", f"          {count['failovers']} releases were sent to the other server, too, and charged once")
        )
    if (latency := status.latency) is not None:
        milliseconds = f"median {latency.median_s * 1e3:.0f} ms, p95 {latency.p95_s * 1e3:.0f} ms"
        lines.append(("latency", f"{milliseconds}, of the last {latency.frames} frames"))
    return lines


def _counts(counters: dict[str, int]) -> str:
    return ", ".join(f"{value} {name}" for name, value in counters.items())


def _link(link: LinkStatus, *, alone: bool) -> list[tuple[str, str]]:
    """Lines about one link. ``alone``: there is no other server."""
    if not link.up:
        return [("link", f"down: {link.address}"), ("", f"          {link.trouble}")]
    role = "" if alone else ", in use" if link.in_use else ", stands by"
    rate = "uplink not measured yet" if link.uplink_mbit_s is None else f"uplink {link.uplink_mbit_s:.3g} Mbit/s"
    trip = "" if link.rtt_s is None else f", round trip {link.rtt_s * 1e3:.0f} ms"
    lines = [("link", f"up{role}: {link.address}; {rate}{trip}, {link.reconnects} reconnects")]
    if not link.hosted:
        what = "everything runs here" if alone else "nothing is sent there"
        lines.append(("", f"          the server does not host this bundle; {what} until it does"))
    return lines


def _board(board: BoardStatus) -> str:
    parts = [f"load {board.load:.2f} (CPUs {board.cpu_load:.0%} in use)"]
    if board.temperature_c is not None:
        parts.append(f"{board.temperature_c:.0f} degrees C")
    if board.throttled:
        parts.append("THROTTLED: " + ", ".join(board.throttled))
    if board.rss_bytes is not None:
        parts.append(f"{board.rss_bytes / 1e6:.0f} MB of memory")
    return ", ".join(parts)
