"""Reads the answers of one device (JSON lines, as its sink writes them) as a run that can be drawn."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import msgspec

from split_model.answers.lines import without_png
from split_model.errors import BadInputError
from split_model.report.answer_drawing import DRAWN
from split_model.report.log import Answer, Decision, Frame, Policy, RunLine, RunLog
from split_model.report.summary import summarise

_POLICY = "device"
_MAX_LINE_BYTES = 16 << 20


def is_device_log(path: Path) -> bool:
    """Whether a file's first line is a frame or a decision of a device."""
    try:
        with path.open("rb") as file:
            first = json.loads(file.readline(_MAX_LINE_BYTES))
    except (OSError, ValueError):
        return False  # the next reader names the fault
    return isinstance(first, dict) and first.get("kind") in ("frame", "decision") and "policy" not in first


def read_device_log(path: Path, pictures: Path | None) -> RunLog:
    """Read a device's answers.

    Args:
        path: The file.
        pictures: The folder that the frames' names count from; without one no picture is shown.

    Raises:
        BadInputError: A line is no record of a device, or no frame is among them.

    """
    frames: list[Frame] = []
    decisions: list[Decision] = []
    began_s: float | None = None
    started = "unknown"
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            record = msgspec.json.decode(line)
            if record["kind"] == "frame":
                if began_s is None:
                    began_s, started = record["captured_s"], _moment(record.get("unix_s"))
                frames.append(_frame(record, began_s, path, pictures))
            elif record["kind"] == "decision":
                decisions.append(_decision(record, began_s or record["at_s"]))
        except (msgspec.DecodeError, KeyError, TypeError) as error:
            raise BadInputError(
                f"{path}: line {number}: not a record of a device ({error})", remedy="give a device's answers"
            ) from None
    if not frames:
        raise BadInputError(f"{path}: has no frames to report", remedy="give a device's answers")
    frames.sort(key=lambda frame: (frame.at_s, frame.index))
    return RunLog(
        run=RunLine(
            title=f"Answers in {path.name}",
            started=started,
            notes=["A device's answers do not tell how features were released; 'edge-runtime ledger' on it does."],
        ),
        policies=[Policy(name=_POLICY, role="adaptive")],
        frames={_POLICY: frames},
        summaries={_POLICY: summarise([msgspec.to_builtins(frame) for frame in frames])},
        link=[],
        decisions=decisions,
    )


def _moment(unix_s: float | None) -> str:
    return "unknown" if unix_s is None else time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix_s))


def _frame(record: dict[str, Any], began_s: float, path: Path, pictures: Path | None) -> Frame:
    image = None if pictures is None else (pictures / record["name"]).absolute()
    found = None
    if any(key in record for key in (*DRAWN, "vector", "outputs")):
        keys = ("picture", *DRAWN, "vector", "outputs")
        found = {key: record[key] for key in keys if key in record}
        if "map" in found:
            found["map"] = _with_file(found["map"], path)
    fields = {
        "policy": _POLICY,
        "at_s": record["captured_s"] - began_s,
        "split": record["split"],
        # Records of earlier versions have no name.
        "split_name": record.get("split_name") or ("local" if record["outcome"] == "local" else None),
        "outcome": record["outcome"],
        "latency_s": record["latency_s"],
        "payload_bytes": record["payload_bytes"],
        "index": record["index"],
        "name": record["name"],
        "image": None if image is None or not image.is_file() else str(image),
        "uplink_mbit_s": record.get("uplink_mbit_s"),
        "answer": [
            Answer(label=one["label"], score=one["score"], index=one["class"]) for one in record.get("top", ())
        ],
        "found": found,
    }
    return msgspec.convert(fields, Frame)


def _with_file(found: dict[str, Any], path: Path) -> dict[str, Any]:
    """A map whose picture lies in a file beside the answers, with it where the file is still there."""
    name = found.get("file")
    if not isinstance(name, str) or Path(name).name != name:
        return found
    try:
        return {**without_png(found), "png": (path.with_name(f"{path.name}.values") / name).read_bytes()}
    except OSError:  # the oldest files go
        return found


def _decision(record: dict[str, Any], began_s: float) -> Decision:
    fields = {
        "policy": _POLICY,
        "at_s": record["at_s"] - began_s,
        "from": record["from"],
        "to": record["to"],
        "why": record["why"],
    }
    return msgspec.convert(fields, Decision)
