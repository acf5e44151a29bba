"""More requests than the server can answer: how many are answered in time, and how soon a refusal comes.

Devices offer requests at a rate, whatever becomes of those before. At the large cut they heed nothing, as a device
of before would. At the small cut a refusal costs about as much as an answer, so they heed "try again", as the
product's devices do.

The devices' CPU is apart: the server has one core and one worker, and they have the next core. The claims are about
that. Then the same with two cores for both, where the devices take what the server would need.
"""

from __future__ import annotations

import statistics
from collections import Counter

from benchmarks.server import scene
from benchmarks.server.case import LARGE, SMALL, open_case
from benchmarks.server.claims import Claim, Details, Part, claim
from benchmarks.server.scene import Group, Result
from benchmarks.server.served import served
from split_model.report.summary import percentile

_SECONDS, _ROUNDS = 3.0, 3
#: The server's core, and the devices'.
_CORES = 0, 1
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
        found, more = measure(cut, name, heeds=heeds, cores=_CORES)
        claims += found
        details |= more
        details |= measure(cut, f"{name}, shared cores", heeds=heeds, cores=(None, None))[1]
    return claims, details


def measure(cut: int, name: str, *, heeds: bool, cores: tuple[int | None, int | None]) -> Part:
    """All rates at one cut, in turn at one server, round after round; medians over the rounds.

    ``cores``: the server's core and the devices', None for all.
    """
    case = open_case(cut)
    found: dict[float, list[Result]] = {offered: [] for offered in _OFFERED}
    own, theirs = cores
    threads = 2 if own is None else 1
    with served(devices=_DEVICES, threads=threads, limits={"queue": 64}, core=own) as server:
        # As many open as keep the workers busy: that is what the server can do.
        group = Group(name="all", devices=8, open_requests=2)
        closed = scene.run(server, [case], [group], seconds=_SECONDS, core=theirs)
        for _ in range(_ROUNDS):
            for offered, results in found.items():
                rate_s = offered * closed.answers_s / _DEVICES
                group = Group(name="all", devices=_DEVICES, rate_s=rate_s, due_s=_DUE_S, heeds=heeds)
                results.append(scene.run(server, [case], [group], seconds=_SECONDS, core=theirs))
    details: Details = {f"{name}, closed loop, answers/s": closed.answers_s}
    claims: list[Claim] = []
    for offered, results in found.items():
        details |= _told(f"{name}, {offered:g} x", results)
        if offered == 1.0:
            continue
        shares = [in_time_s(one) / _peak_s(found, turn) for turn, one in enumerate(results)]
        costs = [_in_time_a_cpu_s(one) / _peak_a_cpu_s(found, turn) for turn, one in enumerate(results)]
        refusals_ms = [_refusal_p99_ms(one) for one in results]
        figures = {
            "in time over the peak": statistics.median(shares),
            "in time a CPU second of the server, over the peak": statistics.median(costs),
            "refusals' p99 in ms": statistics.median(refusals_ms),
        }
        details |= {f"{name}, {offered:g} x, {what}": value for what, value in figures.items()}
        text = f"answered in time over the peak, {name}, offered {offered:g} x"
        claims.append(claim(text, statistics.median(shares), _AT_LEAST, at_least=True))
        text = f"refusals' p99 in ms, {name}, offered {offered:g} x"
        claims.append(claim(text, statistics.median(refusals_ms), _REFUSED_WITHIN_MS))
    return claims, details


def _peak_s(found: dict[float, list[Result]], turn: int) -> float:
    """The most that were answered in time in a round, whatever was offered."""
    return max(in_time_s(results[turn]) for results in found.values())


def _in_time_a_cpu_s(result: Result) -> float:
    """Answers in time for each second of CPU that the server used."""
    return in_time_s(result) * result.took_s / max(1e-9, result.server_cpu_s)


def _peak_a_cpu_s(found: dict[float, list[Result]], turn: int) -> float:
    return max(_in_time_a_cpu_s(results[turn]) for results in found.values())


def _refusal_p99_ms(result: Result) -> float:
    refusals_s = [value for device in result.devices for value in device.refusal_s]
    return percentile(refusals_s, 0.99) * 1e3 if refusals_s else 0.0


def _told(name: str, results: list[Result]) -> Details:
    """Medians over the rounds, and the refusals of all of them by code."""
    refused: Counter[str] = Counter()
    for result in results:
        for device in result.devices:
            refused.update(device.refused)
    figures = {
        "in time/s": in_time_s,
        "late": lambda one: float(sum(device.answered - device.in_time for device in one.devices)),
        "server CPU": lambda one: one.server_cpu_s / one.took_s,
        "generator CPU": lambda one: one.own_cpu_s / one.took_s,
        "sent/s": lambda one: sum(device.sent for device in one.devices) / one.took_s,
    }
    told: Details = {f"{name}, {what}": statistics.median(map(of, results)) for what, of in figures.items()}
    return told | {f"{name}, refused": dict(refused)}


def in_time_s(result: Result) -> float:
    """Answers a second that were not late."""
    return sum(device.in_time for device in result.devices) / result.took_s
