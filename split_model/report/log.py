"""Reads a run's log (JSON lines, each with a ``kind``) into records; every fault is named with its line."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from split_model.errors import BadInputError, MissingInputError
from split_model.report.summary import Summary, summarise

NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Release(msgspec.Struct, frozen=True):
    """How features were protected; everything is told as it stands."""

    mechanism: str = "unknown"
    epsilon: float | None = None
    allocation: str | None = None
    bits: int | None = None


class Privacy(msgspec.Struct, frozen=True):
    """What one cut releases a frame, and both kinds of ε; a field that is absent is shown as unknown.

    ``seen``: what an audit of this release found that a server sees, in words.
    """

    cut: int
    values: Count | None = None
    payload_bytes: Count | None = None
    per_value_epsilon_max: NotNegative | None = None
    per_value_epsilon_mean: NotNegative | None = None
    whole_input_epsilon: NotNegative | None = None
    seen: str | None = None


class RunLine(msgspec.Struct, frozen=True):
    """What was run, where, and what about it is emulated."""

    title: str
    started: str = "unknown"
    machine: str = "unknown"
    versions: dict[str, Any] = {}
    emulated: list[str] = []
    notes: list[str] = []
    bundle: str = "unknown"
    trace: str = "unknown"
    release: Release | None = None
    privacy: list[Privacy] = []


class Policy(msgspec.Struct, frozen=True):
    """A way of choosing the split point that was run on the same trace."""

    name: str
    role: Literal["adaptive", "local", "fixed"]


class Answer(msgspec.Struct, frozen=True):
    """One label with its score."""

    label: str
    score: float | None = None
    index: int | None = None


class Frame(msgspec.Struct, frozen=True):
    """One picture under one policy; times in seconds, ``at_s`` on the trace's clock.

    ``found``: an answer that is no class, as a device's record has it.
    """

    policy: str
    at_s: float
    split: int
    outcome: Literal["offloaded", "local", "fallback", "failed"]
    latency_s: NotNegative
    payload_bytes: Count = 0
    index: int = 0
    name: str = ""
    image: str | None = None
    split_name: str | None = None
    uplink_mbit_s: NotNegative | None = None
    answer: list[Answer] = []
    truth: str | None = None
    unprotected_top1: str | None = None
    found: dict[str, Any] | None = None

    @property
    def split_label(self) -> str:
        """Return the split point's name for people."""
        return self.split_name or f"cut {self.split}"

    @property
    def label(self) -> str | None:
        """Return the best answer's label."""
        return self.answer[0].label if self.answer else None


class LinkPoint(msgspec.Struct, frozen=True):
    """True capacity of the link from ``at_s`` on."""

    at_s: float
    mbit_s: NotNegative


class SummaryLine(msgspec.Struct, frozen=True):
    """A policy's figures as the run itself counted them."""

    policy: str
    frames: Count
    latency_mean_s: NotNegative | None = None
    latency_p50_s: NotNegative | None = None
    latency_p95_s: NotNegative | None = None
    bytes_per_frame: NotNegative = 0.0
    agreement: Share | None = None
    agreement_offloaded: Share | None = None
    accuracy: Share | None = None
    counts: dict[str, Count] = {}


class Decision(msgspec.Struct, frozen=True, rename={"from_split": "from", "to_split": "to"}):
    """A switch of the split point."""

    policy: str
    at_s: float
    from_split: int
    to_split: int
    why: str = ""


TYPES: dict[str, type[msgspec.Struct]] = {
    "run": RunLine,
    "policy": Policy,
    "frame": Frame,
    "link": LinkPoint,
    "summary": SummaryLine,
    "decision": Decision,
}
T = TypeVar("T")


@dataclass
class RunLog:
    """A run's records. ``frames`` and ``summaries`` are by policy; ``unknown`` counts lines of other kinds."""

    run: RunLine
    policies: list[Policy]
    frames: dict[str, list[Frame]]
    summaries: dict[str, Summary]
    link: list[LinkPoint]
    decisions: list[Decision]
    unknown: int = 0

    def of_role(self, role: str) -> list[Policy]:
        """Return the policies of a role that have frames, best mean latency first."""
        chosen = [policy for policy in self.policies if policy.role == role and self.frames[policy.name]]
        return sorted(chosen, key=lambda policy: _mean_or_last(self.summaries[policy.name]))


def _mean_or_last(summary: Summary) -> float:
    mean_s = summary["latency_mean_s"]
    return float("inf") if mean_s is None else mean_s


@dataclass
class _Lines:
    """Records with the number of the line each stands on."""

    found: list[tuple[int, msgspec.Struct]] = field(default_factory=list)
    unknown: int = 0

    def of(self, kind: type[T]) -> list[tuple[int, T]]:
        return [(number, record) for number, record in self.found if isinstance(record, kind)]


def read_log(path: Path) -> RunLog:
    """Read RUN.jsonl. A summary that is missing is counted from the frames.

    Raises MissingInputError when the file is not there and BadInputError naming the line when
    a record is damaged, names a policy that no line introduces, or frames are missing.
    """
    lines = _decode(path)
    runs = lines.of(RunLine)
    if len(runs) != 1:
        raise BadInputError(
            f"{path}: {len(runs)} lines of kind 'run' where there must be one", remedy="record the run again"
        )
    policies = [policy for _, policy in lines.of(Policy)]
    frames: dict[str, list[Frame]] = {policy.name: [] for policy in policies}
    for number, frame in lines.of(Frame):
        if frame.policy not in frames:
            raise BadInputError(
                f"{path}: line {number}: no line of kind 'policy' introduces {frame.policy!r}",
                remedy="add such a line",
            )
        frames[frame.policy].append(frame)
    if not any(frames.values()):
        raise BadInputError(f"{path}: has no frames to report", remedy="record the run again")
    for of_policy in frames.values():
        of_policy.sort(key=lambda frame: (frame.at_s, frame.index))
    return RunLog(
        run=runs[0][1],
        policies=policies,
        frames=frames,
        summaries=_summaries(path, lines, frames),
        link=sorted((point for _, point in lines.of(LinkPoint)), key=lambda point: point.at_s),
        decisions=[decision for _, decision in lines.of(Decision)],
        unknown=lines.unknown,
    )


def _decode(path: Path) -> _Lines:
    lines = _Lines()
    try:
        raw = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise MissingInputError(
            f"{path}: no such run log", remedy="give the RUN.jsonl that a run has written"
        ) from None
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}", remedy="give a run log") from None
    for number, line in enumerate(raw, start=1):
        if line.strip():
            record = _record(path, number, line)
            if record is None:
                lines.unknown += 1
            else:
                lines.found.append((number, record))
    return lines


def _record(path: Path, number: int, line: bytes) -> msgspec.Struct | None:
    where = f"{path}: line {number}"
    try:
        tree = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadInputError(f"{where}: not JSON ({error})", remedy="record the run again") from None
    kind = tree.get("kind") if isinstance(tree, dict) else None
    if not isinstance(kind, str):
        raise BadInputError(f"{where}: has no 'kind'", remedy="give a run log")
    if kind not in TYPES:
        return None
    if kind == "frame" and "outcome" not in tree and "how" in tree:  # as logs of earlier versions have it
        tree["outcome"] = tree.pop("how")
    try:
        return msgspec.convert(tree, TYPES[kind])
    except msgspec.ValidationError as error:
        raise BadInputError(f"{where}: kind {json.dumps(kind)}: {error}", remedy="record the run again") from None


def _summaries(path: Path, lines: _Lines, frames: dict[str, list[Frame]]) -> dict[str, Summary]:
    counted = {
        name: summarise([msgspec.to_builtins(frame) for frame in of_policy])
        for name, of_policy in frames.items()
        if of_policy
    }
    for number, line in lines.of(SummaryLine):
        if line.policy not in frames:
            raise BadInputError(
                f"{path}: line {number}: no line of kind 'policy' introduces {line.policy!r}",
                remedy="add such a line",
            )
        if line.policy in counted and line.frames != len(frames[line.policy]):
            raise BadInputError(
                f"{path}: line {number}: counts {line.frames} frames of {line.policy!r} where the log has"
                f" {len(frames[line.policy])}",
                remedy="record the run again",
            )
        counted[line.policy] = Summary(
            frames=line.frames,
            latency_mean_s=line.latency_mean_s,
            latency_p50_s=line.latency_p50_s,
            latency_p95_s=line.latency_p95_s,
            bytes_per_frame=line.bytes_per_frame,
            agreement=line.agreement,
            agreement_offloaded=line.agreement_offloaded,
            accuracy=line.accuracy,
            counts=line.counts,
        )
    return counted
