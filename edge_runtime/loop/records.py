"""Makes the JSON records of each step: the outcome of a frame, and moves of the split point."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from edge_runtime.loop.results import Step
from edge_runtime.planner.prediction import Conditions
from split_model.answers.reader import AnswerReader
from split_model.bundle import Bundle


class Records:
    """Makes JSON records: a ``frame`` for each frame, and a ``decision`` for each move of the split point.

    Each has ``unix_s``: its time by the board's wall clock ``now_unix_s``, for people who search by time of day.
    That clock may jump; ``captured_s`` and ``at_s`` are of the monotonic clock. Records stay on the board.
    ``servers``: their addresses, by number. ``split`` is an operation's index; ``split_name`` says it plainly: the
    ``cut`` that was sent, or ``local``.
    """

    def __init__(
        self, bundle: Bundle, *, servers: Sequence[str] = (), now_unix_s: Callable[[], float] = time.time
    ) -> None:
        self._servers = tuple(servers)
        self._now_unix_s = now_unix_s
        self._reader = AnswerReader.of(bundle)
        self._names = {cut.index: f"cut {cut.index}" for cut in bundle.manifest.cuts}

    def of(self, step: Step) -> list[dict[str, Any]]:
        """Return the records of one step; the frame's record is the last."""
        if step.decision.moved_from is None:
            return [self._frame(step)]
        return [self._decision(step), self._frame(step)]

    def _frame(self, step: Step) -> dict[str, Any]:
        result, estimate = step.result, step.view.estimate
        frame, rate, server = result.frame, estimate.uplink_bytes_s, result.server
        record: dict[str, Any] = {
            "kind": "frame",
            "unix_s": round(self._now_unix_s(), 3),
            "index": frame.index,
            "name": frame.name,
            "source": frame.source,
            "captured_s": frame.captured_s,
            "split": result.split,
            "split_name": self._names.get(result.split, "local"),
            "outcome": result.outcome,
            "latency_s": result.latency_s,
            "payload_bytes": result.payload_bytes,
            "uplink_mbit_s": None if rate is None else rate * 8e-6,
            "rtt_s": estimate.rtt_s,
            "load": step.load,
            "cpu_load": step.cpu_load,
            "hedged": result.hedged,
            "server": None if server is None else self._address(server),
            **result.parts,
        }
        if len(result.servers) > 1:
            record["sent_to"] = [self._address(server) for server in result.servers]
        if result.error:
            record["error"] = result.error
        else:
            record |= self._reader.fields(result.outputs, frame.placement)
        return record

    def _address(self, server: int) -> str | None:
        return self._servers[server] if self._servers else None

    def _decision(self, step: Step) -> dict[str, Any]:
        decision = step.decision
        return {
            "kind": "decision",
            "unix_s": round(self._now_unix_s(), 3),
            "at_s": step.result.frame.captured_s,
            "from": decision.moved_from,
            "to": decision.split,
            "why": decision.why,
            "saw": None if decision.seen is None else _seen(decision.seen),
            "predicted_s": {str(p.split): _rounded(p.total_s) for p in decision.predictions},
            "hedge": decision.hedge,
            "p_local_first": {str(p.split): _rounded(p.doubt) for p in decision.predictions},
        }


def _seen(conditions: Conditions) -> dict[str, Any]:
    """The observed conditions of a decision."""
    link = conditions.link
    rate = link.uplink_bytes_s
    return {
        "link_up": conditions.link_up,
        "uplink_mbit_s": None if rate is None else _rounded(rate * 8e-6),
        "uplink_spread": _rounded(link.rate_spread),
        "rtt_s": None if link.rtt_s is None else _rounded(link.rtt_s),
        "age_s": _rounded(link.age_s),
        "silent_s": _rounded(link.silent_s),
        "queue_s": _rounded(conditions.queue_s),
        "load": _rounded(conditions.load),
        "local_wait_s": _rounded(conditions.local_wait_s),
        "next_frame_s": _rounded(conditions.next_frame_s),
    }


def _rounded(value: float) -> float | None:
    """Round for JSON; infinity, which JSON lacks, becomes None."""
    return round(value, 4) if math.isfinite(value) else None
