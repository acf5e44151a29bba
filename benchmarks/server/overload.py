"""More requests than the server can answer: how many are answered in time, and how soon a refusal comes.

Devices offer requests at a rate, whatever becomes of those before. At the large cut they heed nothing, as a device
of before would. At the small cut a refusal costs about as much as an answer, so they heed "try again", as the
product's devices do.
"""

from __future__ import annotations

from collections import Counter

from benchmarks.server import scene
from benchmarks.server.case import LARGE, SMALL, open_case
from benchmarks.server.claims import Claim, Details, Part, claim
from benchmarks.server.scene import Group, Result
from benchmarks.server.served import served
from split_model.report.summary import percentile

_SECONDS = 8.0
_DEVICES = 60
#: When an answer is due, in seconds.
_DUE_S = 1.0
#: Requests offered, over those that a closed loop has answered.
_OFFERED = (1.0, 2.0, 3.0, 5.0)
_AT_LEAST, _REFUSED_WITHIN_MS = 0.9, 20.0


def overload() -> Part:
    """Offered 1, 2, 3 and 5 times what a closed loop has answered, by devices that heed nothing, and by others."""
    claims: list[Claim] = []
    details: Details = {}
    for cut, name, heeds in ((LARGE, "cut 20", False), (SMALL, "cut 59, heeding", True)):
        found, more = measure(cut, name, heeds=heeds)
        claims += found
        details |= more
    return claims, details


def measure(cut: int, name: str, *, heeds: bool) -> Part:
    """All rates at one cut, at one server."""
    case = open_case(cut)
    details: Details = {}
    results: dict[float, Result] = {}
    with served(devices=_DEVICES, limits={"queue": 64}) as server:
        # As many open as keep two workers busy: that is what the server can do.
        closed = scene.run(server, [case], [Group(name="all", devices=8, open_requests=2)], seconds=_SECONDS)
        details[f"{name}, closed loop, answers/s"] = closed.answers_s
        for offered in _OFFERED:
            rate_s = offered * closed.answers_s / _DEVICES
            group = Group(name="all", devices=_DEVICES, rate_s=rate_s, due_s=_DUE_S, heeds=heeds)
            results[offered] = scene.run(server, [case], [group], seconds=_SECONDS)
    peak_s = max(in_time_s(result) for result in results.values())
    claims: list[Claim] = []
    for offered, result in results.items():
        refusals = [value for device in result.devices for value in device.refusal_s]
        details |= {
            f"{name}, {offered:g} x, in time/s": in_time_s(result),
            f"{name}, {offered:g} x, late": sum(device.answered - device.in_time for device in result.devices),
            f"{name}, {offered:g} x, server CPU": result.server_cpu_s / result.took_s,
            f"{name}, {offered:g} x, generator CPU": result.own_cpu_s / result.took_s,
            f"{name}, {offered:g} x, sent/s": sum(device.sent for device in result.devices) / result.took_s,
            f"{name}, {offered:g} x, refused": dict(sum((Counter(d.refused) for d in result.devices), Counter())),
        }
        if offered == 1.0:
            continue
        text = f"answered in time over the peak, {name}, offered {offered:g} x"
        claims.append(claim(text, in_time_s(result) / peak_s, _AT_LEAST, at_least=True))
        if refusals:
            p99_ms = percentile(refusals, 0.99) * 1e3
            claims.append(claim(f"refusals' p99 in ms, {name}, offered {offered:g} x", p99_ms, _REFUSED_WITHIN_MS))
    return claims, details


def in_time_s(result: Result) -> float:
    """Answers a second that were not late."""
    return sum(device.in_time for device in result.devices) / result.took_s
