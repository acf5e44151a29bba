"""The status file of the running device program; see `split_model.service.status_file`.

It has nothing of a frame's content, so all users of the board may read it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from edge_runtime.loop.counters import OUTCOMES
from edge_runtime.privacy.ledger.status import LedgerStatus, duration
from edge_runtime.privacy.ledger.status import rows as ledger_rows
from split_model.service.status_file import Written
from split_model.service.terminal_text import counted, labelled, milliseconds

State = Literal["starting", "running", "reloading", "draining", "stopped"]

#: The config key of the file's path, the file's name, and systemd's folder for it.
KEY = "device.status"
NAME = "edge-runtime.status.json"
SERVICE = Path("/run/edge-runtime")
#: Conditions of a program that has ended.
OVER = frozenset({"stopped", "dead"})


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
    ``trouble``: one line for people, empty if there is none. ``trouble_kind``: its machine-readable name, a member
    of the link's `Trouble`.
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
    that are stuck; while there are any, the watchdog is not fed. ``expected_s``: the planner's prediction
    for a frame at the current split. ``offload``: from a request's first chunk to its answer. ``reload_error``: why
    the last reload changed nothing, or empty. ``fixed``: what only a restart changes (`daemon.plan.fixed_values`).
    ``privacy``: the verdict on what leaves. ``accuracy`` and ``audit``: of the cuts in use, for people.
    ``why_local``: why the last frame stayed here, a `why_local.Kind`, or empty; ``why_local_text``: for people.
    """

    state: State
    config: str
    doing: str = ""
    bundle: BundleStatus | None = None
    cuts: list[CutStatus] = msgspec.field(default_factory=list)
    privacy: str = ""
    accuracy: str = ""
    audit: list[str] = msgspec.field(default_factory=list)
    why_local: str = ""
    why_local_text: str = ""
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
    fallback = f", {late:.0f} fallback" if (late := count.get("fallback", 0)) else ""
    parts.append(counted(int(count.get("frames_in", 0)), "frame") + fallback)
    parts += [f"source {name}: {trouble}" for name, trouble in status.source_trouble.items()]
    parts += [f"sink {name}: {trouble}" for name, trouble in status.sink_trouble.items()]
    if status.overdue:
        parts.append(f"STUCK: {status.overdue[0]}")
    return "; ".join(parts)


def for_terminal(status: Status, condition: str, *, age_s: float, start: str, width: int | None) -> str:
    """The whole status as text for a terminal. Counters that are zero are left out.

    Args:
        status: What the program wrote.
        condition: How it is now, see `status_file.condition`.
        age_s: Seconds since it was written.
        start: The command that starts a program that has ended.
        width: Of the terminal, to fold at; None folds nothing.

    """
    over = condition in OVER
    rows = _program(status, condition, age_s=age_s)
    if status.bundle is not None:
        rows += [
            ("bundle", f"{status.bundle.name} ({status.bundle.identity[:12]})"),
            ("bundle", status.bundle.folder),
        ]
        rows += _frames(status)
        rows += _cuts(status)
    rows += _ends("source", status.sources, status.source_trouble)
    rows += _ends("sink", status.sinks, status.sink_trouble)
    if not over:  # else nobody measures these any more
        rows += _now(status)
    rows += [("privacy", status.privacy)] if status.privacy else []
    if status.ledger_trouble and not over:
        rows.append(("ledger", f"{status.ledger_trouble}; nothing leaves this device"))
    rows += [] if status.ledger is None else ledger_rows(status.ledger)
    return labelled([*rows, *([("start", start)] if over else [])], width)


def _program(status: Status, condition: str, *, age_s: float) -> list[tuple[str, str]]:
    ran = "ran" if condition == "stopped" else "up"
    rows = [(condition, f"pid {status.pid}, {status.software}, {ran} {duration(status.uptime_s)}")]
    if condition == "hanging":
        rows.append((condition, f"it has written nothing for {duration(age_s)}"))
    if status.state == "starting":
        rows.append(("doing", status.doing))
    rows.append(("config", status.config))
    if status.reload_error:
        rows.append(("reload", f"REFUSED, the previous config is in force: {status.reload_error}"))
    return rows


def _ends(what: str, counters: dict[str, dict[str, int]], troubles: dict[str, str]) -> list[tuple[str, str]]:
    """Sources or sinks."""
    rows = [(what, f"{name}: {_counts(of_one)}") for name, of_one in counters.items()]
    return rows + [(what, f"{name}: TROUBLE: {trouble}") for name, trouble in troubles.items()]


def _now(status: Status) -> list[tuple[str, str]]:
    rows = [row for link in status.links for row in _link(link, alone=len(status.links) == 1)]
    if status.board is not None:
        rows.append(("board", _board(status.board)))
    return rows + [("overdue", what) for what in status.overdue]


def _cuts(status: Status) -> list[tuple[str, str]]:
    """Accuracy and audit of the cuts in use, and why others are not used."""
    lines = [("accuracy", text) for text in (status.accuracy, status.accuracy_trouble) if text]
    return lines + [("audit", text) for text in (*status.audit, status.exposure_trouble) if text]


def _frames(status: Status) -> list[tuple[str, str]]:
    count = {name: int(value) for name, value in status.counters.items()}
    split = split_name(status.split, status.local)
    lines = [("split", f"{split}: {status.why_local_text}" if status.why_local_text else split)]
    if (moved := status.decision) is not None:
        names = [split_name(number, status.local) for number in (moved.split_from, moved.split_to)]
        lines.append(("moved", f"from {names[0]} to {names[1]}, {duration(moved.ago_s)} ago: {moved.why}"))
    ends = ", ".join(f"{count[end]:,} {end}" for end in OUTCOMES if count.get(end))
    under_way = f"{status.under_way} under way" if status.under_way else ""
    told = ", ".join(part for part in (ends, under_way) if part)
    lines.append(("frames", f"{count.get('frames_in', 0):,}" + (f": {told}" if told else "")))
    if refused := count.get("ledger_refused"):
        lines.append(("frames", f"{refused:,} stayed here since the privacy budget did not pay for every cut"))
    if both := count.get("failovers"):
        lines.append(("frames", f"{counted(both, 'release')} went to the other server, too, charged once"))
    if (latency := status.latency) is not None:
        times = f"median {milliseconds(latency.median_s)}, p95 {milliseconds(latency.p95_s)}"
        lines.append(("latency", f"{times} ({counted(latency.frames, 'frame')}, the latest)"))
    return lines


def _counts(counters: dict[str, int]) -> str:
    return ", ".join(f"{value:,} {name}" for name, value in counters.items() if value) or "nothing so far"


def _link(link: LinkStatus, *, alone: bool) -> list[tuple[str, str]]:
    """Lines about one link. ``alone``: there is no other server."""
    if not link.up:
        return [("link", f"down: {link.address}"), ("link", link.trouble)]
    role = "" if alone else ", in use" if link.in_use else ", stands by"
    told = ["uplink not measured yet" if link.uplink_mbit_s is None else f"uplink {link.uplink_mbit_s:.3g} Mbit/s"]
    if link.rtt_s is not None:
        told.append(f"round trip {milliseconds(link.rtt_s)}")
    if link.reconnects:
        told.append(counted(link.reconnects, "reconnect"))
    lines = [("link", f"up{role}: {link.address}"), ("link", ", ".join(told))]
    if not link.hosted:
        what = "everything runs here" if alone else "nothing is sent there"
        lines.append(("link", f"the server does not host this bundle; {what} until it does"))
    return lines


def _board(board: BoardStatus) -> str:
    parts = [f"load {board.load:.2f}", f"CPUs {board.cpu_load * 100:.0f} % in use"]
    if board.temperature_c is not None:
        parts.append(f"{board.temperature_c:.0f} °C")
    if board.throttled:
        parts.append("THROTTLED: " + ", ".join(board.throttled))
    if board.rss_bytes is not None:
        parts.append(f"{board.rss_bytes / 1e6:.0f} MB of memory")
    return ", ".join(parts)
