"""When to stop waiting for a server, and finish a frame here or send it to another server as well. Pure.

Two reasons: the answer would come too late (``answer_by`` less the p95 of a local run), or the transfer goes so
badly that a local run started now is likely to be done first. The two then race, so that being wrong costs the
board some work and nobody any time.
"""

from __future__ import annotations

import math

import msgspec

from split_model.protocol.chunks import chunk_bytes_for

#: An answer is late when it takes this many times longer than predicted ...
_PATIENCE = 1.2
#: ... and at least this much longer: small delays say nothing.
_SLACK_S = 0.02
#: The same for the time from one acknowledgement to the next.
_ACK_PATIENCE = 1.5
_ACK_SLACK_S = 0.04


class InFlight(msgspec.Struct, frozen=True):
    """A request on its way: what the planner expected, and how far it has come.

    ``transfer_s`` and ``round_trip_s`` are the parts of ``expected_s`` that the link takes. ``progress_s``: when
    ``acked_bytes`` last grew. ``silent``: something else is overdue on this link.
    """

    submitted_s: float
    expected_s: float
    total_bytes: int
    acked_bytes: int = 0
    transfer_s: float = math.inf
    round_trip_s: float = 0.0
    progress_s: float = -math.inf
    silent: bool = False

    @property
    def next_ack_s(self) -> float:
        """By when the next acknowledgement should have come."""
        wait_s = self.transfer_s * chunk_bytes_for(self.total_bytes) / max(self.total_bytes, 1)
        if self.acked_bytes == 0:
            wait_s += self.round_trip_s
        return max(self.submitted_s, self.progress_s) + wait_s * _ACK_PATIENCE + _ACK_SLACK_S


def local_start_s(request: InFlight, *, answer_by_s: float, local_p95_s: float) -> float:
    """The latest moment to start a local run that is still done in time.

    For a frame that is too late for that already: when the server should have answered. Its features are released
    by then, and running it here as well delays the frames behind it.
    """
    in_time_s = answer_by_s - local_p95_s
    if in_time_s > request.submitted_s:
        return in_time_s
    return request.submitted_s + request.expected_s * _PATIENCE + _SLACK_S


def is_stalled(request: InFlight, *, now_s: float, local_s: float) -> bool:
    """Whether a local run started now is likely to be done before the server's answer is here.

    So it is when nothing comes back at all. Otherwise the rest of a late transfer is taken to go on as it went so
    far, which is pessimistic for a link that just came back and right for one that died.
    """
    elapsed_s = now_s - request.submitted_s
    arrived = request.acked_bytes >= request.total_bytes
    if not arrived and (request.silent or now_s > request.next_ack_s):
        return True
    if elapsed_s < request.expected_s * _PATIENCE + _SLACK_S:
        return False
    if arrived:  # only the server's answer is missing
        return elapsed_s - request.expected_s > local_s
    remaining = (request.total_bytes - request.acked_bytes) / max(request.acked_bytes, 1)
    return elapsed_s * remaining > local_s


def is_unheard(request: InFlight, *, now_s: float, other_s: float) -> bool:
    """Whether a server seems to be gone, so that the release is to be sent to another one as well.

    Nothing comes back that is due by now. A transfer that is only slow goes on: the same bytes once more, over what
    may be the same uplink, would make it slower still.

    Args:
        request: The oldest request at that server.
        now_s: The time.
        other_s: The seconds that another server is expected to take.

    """
    late_s = request.expected_s * _PATIENCE + _ACK_SLACK_S
    if request.acked_bytes >= request.total_bytes:  # only the answer is missing
        return now_s - request.submitted_s > late_s + other_s
    if request.silent:
        return True
    if math.isinf(request.transfer_s):  # it was behind others: when its next acknowledgement is due is not known
        return now_s > max(request.submitted_s, request.progress_s) + late_s
    return now_s > request.next_ack_s
