"""When to stop waiting for the server and finish a frame here. Pure.

Two reasons: the answer would come too late (``answer_by`` less the p95 of a local run), or the transfer goes so
badly that a local run started now would be done first.
"""

from __future__ import annotations

from dataclasses import dataclass

#: A transfer is given up only when it takes this many times longer than predicted ...
_PATIENCE = 1.5
#: ... and at least so much longer: small delays say nothing.
_SLACK_S = 0.05


@dataclass(frozen=True)
class InFlight:
    """A request on its way: what the planner expected, and how far it has come."""

    submitted_s: float
    expected_s: float
    total_bytes: int
    acked_bytes: int


def local_start_s(request: InFlight, *, answer_by_s: float, local_p95_s: float) -> float:
    """The latest moment to start a local run that is still done in time.

    For a frame that is too late for that already: at once if the server will take longer than a local run,
    else when the server should have answered, since running it here as well delays the frames behind it.
    """
    in_time_s = answer_by_s - local_p95_s
    if in_time_s > request.submitted_s:
        return in_time_s
    if request.expected_s > local_p95_s:
        return request.submitted_s
    return request.submitted_s + request.expected_s * _PATIENCE + _SLACK_S


def is_stalled(request: InFlight, *, now_s: float, local_s: float) -> bool:
    """Whether a local run started now is likely to be done before the server's answer is here.

    The rest of the transfer is taken to go on as it went so far, which is pessimistic for a link that
    just came back and right for one that died.
    """
    elapsed_s = now_s - request.submitted_s
    if elapsed_s < request.expected_s * _PATIENCE + _SLACK_S:
        return False
    if request.acked_bytes >= request.total_bytes:  # all there: only the server's answer is missing
        return elapsed_s - request.expected_s > local_s
    remaining = (request.total_bytes - request.acked_bytes) / max(request.acked_bytes, 1)
    return elapsed_s * remaining > local_s
