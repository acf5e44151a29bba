"""Undoing the noise with tables that are computed once for a plan, against computing them for every payload."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from benchmarks.server.case import SMALL, Case, open_case
from benchmarks.server.claims import Claim, Details, Part, claim
from split_model.privacy import NoiseRecovery, recover

_FIRST = 6
_REPEAT, _ROUNDS = 100, 15


def undo() -> Part:
    """Measure the CPU time of one payload at the deepest cut and at an early one."""
    claims: list[Claim] = []
    details: Details = {}
    for cut in (SMALL, _FIRST):
        case = open_case(cut)
        own_ms, anew_ms = _in_turn(kept(case), made_anew(case), repeat=_REPEAT if cut == SMALL else 20)
        details |= {f"cut {cut}, kept, ms": own_ms, f"cut {cut}, made anew, ms": anew_ms}
        if cut == SMALL:
            claims.append(claim(f"undoing the noise at cut {cut} in ms", own_ms, 0.04))
        else:
            claims.append(claim(f"undoing the noise at cut {cut} over making it anew", own_ms / anew_ms, 1.0))
    return claims, details


def kept(case: Case) -> Callable[[], object]:
    """Return a function that removes the noise with tables computed once per plan, as the server does."""
    recovery = NoiseRecovery(case.plan)
    return lambda: recovery(case.payload)


def made_anew(case: Case) -> Callable[[], object]:
    """Return a function that removes the noise and computes everything from the plan each time."""
    return lambda: recover(case.plan, case.payload)


def _in_turn(own: Callable[[], object], other: Callable[[], object], *, repeat: int) -> tuple[float, float]:
    """Return the median CPU time of both in ms, measured in turn."""
    times: tuple[list[float], list[float]] = [], []
    for _ in range(_ROUNDS):
        for function, found in zip((own, other), times, strict=True):
            began_s = time.process_time()
            for _ in range(repeat):
                function()
            found.append((time.process_time() - began_s) / repeat * 1e3)
    return statistics.median(times[0]), statistics.median(times[1])
