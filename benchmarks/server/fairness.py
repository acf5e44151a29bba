"""How the server divides its time: greedy devices among polite ones, and two hundred equal devices."""

from __future__ import annotations

import statistics

from benchmarks.server import scene
from benchmarks.server.case import LARGE, SMALL, open_case
from benchmarks.server.claims import Claim, Part, claim
from benchmarks.server.scene import Group, Result
from benchmarks.server.served import served
from split_model.report.summary import percentile

_SECONDS = 8.0
_POLITE, _GREEDY = 14, 2
#: How the greedy two try to get more than their share; a polite device has one request open, due late.
_WAYS = {
    "8 open each": Group(name="greedy", devices=_GREEDY, open_requests=8),
    "8 open each, due in 0.5 s": Group(name="greedy", devices=_GREEDY, open_requests=8, due_s=0.5),
    "4 connections of 8 open": Group(name="greedy", devices=_GREEDY, open_requests=8, connections=4),
}


def fairness() -> Part:
    """Measure two greedy devices among sixteen, and the spread among two hundred equal devices."""
    case = open_case(LARGE)
    claims: list[Claim] = []
    details: dict[str, object] = {}
    with served() as server:
        for way, greedy in _WAYS.items():
            groups = [greedy, Group(name="polite", devices=_POLITE)]
            result = scene.run(server, [case], groups, seconds=_SECONDS)
            ratio = _mean_answers(result, "greedy") / max(1e-9, _mean_answers(result, "polite"))
            details[f"{way}: greedy, polite answers"] = [_mean_answers(result, of) for of in ("greedy", "polite")]
            claims.append(claim(f"two greedy of sixteen over the polite, {way}", ratio, 1.3))
    found, more = _many()
    return claims + found, details | more


def _mean_answers(result: Result, group: str) -> float:
    return statistics.fmean(device.answered for device in result.of(group))


def _many() -> Part:
    """Measure two hundred devices at the small cut: the spread of their p95, and the server's memory."""
    with served() as server:
        few = scene.run(server, [open_case(SMALL)], [Group(name="all", devices=8)], seconds=2.0)
        result = scene.run(server, [open_case(SMALL)], [Group(name="all", devices=200)], seconds=_SECONDS)
    p95 = [percentile(device.latency_s, 0.95) for device in result.devices]
    return [
        claim("p95 between 200 devices, largest over smallest", max(p95) / min(p95), 1.5),
        claim("memory with 200 devices beyond that with 8, in MB", result.pss_mb - few.pss_mb, 64.0),
    ], {"200 devices, answers/s": result.answers_s, "200 devices, PSS in MB": result.pss_mb}
