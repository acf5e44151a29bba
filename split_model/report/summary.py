"""The figures of a run's frames: one home for how latency, bytes, agreement and accuracy are counted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

OUTCOMES = ("offloaded", "local", "fallback", "failed")


class Summary(TypedDict):
    """One policy's frames in figures; None where there is nothing to count."""

    frames: int
    latency_mean_s: float | None
    latency_p50_s: float | None
    latency_p95_s: float | None
    bytes_per_frame: float
    agreement: float | None
    agreement_offloaded: float | None
    accuracy: float | None
    counts: dict[str, int]


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile: the smallest value that at least ``share`` of all do not exceed.

    Raises ValueError for no values or a share outside (0, 1].
    """
    if not values or not 0 < share <= 1:
        raise ValueError("a percentile needs values and a share in (0, 1]")
    return sorted(values)[math.ceil(share * len(values)) - 1]


def summarise(frames: Sequence[Mapping[str, Any]]) -> Summary:
    """Count one policy's frames, given as the ``frame`` records of a run's log.

    Latency is over the frames that have an answer, in seconds, percentiles by nearest rank. ``bytes_per_frame`` is
    the mean payload over all frames, those that sent nothing included. ``agreement`` is the share of frames whose
    first label is the unprotected model's, over those where that is known, ``agreement_offloaded`` the same over
    offloaded frames alone, ``accuracy`` the same against the truth; a frame without an answer agrees with nothing.
    Raises ValueError when there are no frames.
    """
    if not frames:
        raise ValueError("no frames to summarise")
    latency_s = [float(frame["latency_s"]) for frame in frames if frame["outcome"] != "failed"]
    return Summary(
        frames=len(frames),
        latency_mean_s=math.fsum(latency_s) / len(latency_s) if latency_s else None,
        latency_p50_s=percentile(latency_s, 0.5) if latency_s else None,
        latency_p95_s=percentile(latency_s, 0.95) if latency_s else None,
        bytes_per_frame=sum(int(frame["payload_bytes"]) for frame in frames) / len(frames),
        agreement=_share_equal(frames, "unprotected_top1"),
        agreement_offloaded=_share_equal(
            [frame for frame in frames if frame["outcome"] == "offloaded"], "unprotected_top1"
        ),
        accuracy=_share_equal(frames, "truth"),
        counts={outcome: sum(frame["outcome"] == outcome for frame in frames) for outcome in OUTCOMES},
    )


def _share_equal(frames: Sequence[Mapping[str, Any]], wanted: str) -> float | None:
    known = [frame for frame in frames if frame.get(wanted) is not None]
    if not known:
        return None
    equal = sum(1 for frame in known if first_label(frame) == frame[wanted])
    return equal / len(known)


def first_label(frame: Mapping[str, Any]) -> str | None:
    """Return the label of the frame's best answer, or None when it has no answer."""
    answers = frame.get("answer") or ()
    return str(answers[0]["label"]) if answers else None
