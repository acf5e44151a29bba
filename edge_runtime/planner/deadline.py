"""Decides when to stop waiting for a server, and finish a frame here or fail over. Pure.

Two reasons: the answer would come too late (``answer_by`` less the p95 of a local run), or the transfer is so slow
that a local run started now is likely to be done first. The two then race, so that a wrong decision costs the board
some work but delays no answer.
"""

from __future__ import annotations

import math

import msgspec

from split_model.protocol.chunks import chunk_bytes_for

#: An answer is late when it takes this many times the predicted time ...
_PATIENCE = 1.2
#: ... and at least this many seconds more: small delays mean nothing.
_SLACK_S = 0.02
#: The same for the time from one acknowledgement to the next.
_ACK_PATIENCE = 1.5
_ACK_SLACK_S = 0.04


class InFlight(msgspec.Struct, frozen=True):
    """A request on its way: its prediction and its progress.

    ``transfer_s`` and ``round_trip_s`` are the parts of ``expected_s`` for the link. ``progress_s``: when
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
        """The time when the next acknowledgement is due."""
        wait_s = self.transfer_s * chunk_bytes_for(self.total_bytes) / max(self.total_bytes, 1)
        if self.acked_bytes == 0:
            wait_s += self.round_trip_s
        return max(self.submitted_s, self.progress_s) + wait_s * _ACK_PATIENCE + _ACK_SLACK_S


def local_start_s(request: InFlight, *, answer_by_s: float, local_p95_s: float) -> float:
    """The latest time to start a local run that is still done in time.

    If a local run can no longer finish in time: the time when the answer is overdue. The features are already sent,
    so an earlier local run would only delay later frames.
    """
    in_time_s = answer_by_s - local_p95_s
    if in_time_s > request.submitted_s:
        return in_time_s
    return request.submitted_s + request.expected_s * _PATIENCE + _SLACK_S


def is_stalled(request: InFlight, *, now_s: float, local_s: float) -> bool:
    """Whether a local run started now is likely to be done before the server's answer is here.

    That holds if nothing comes back at all. Otherwise the rest of a late transfer is assumed to be as slow as the
    part so far, which is pessimistic for a link that just came back and right for one that died.
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
    """Whether a server seems unreachable, so that the release should be sent to another one as well.

    The sign is that nothing comes back although it is due. A transfer that is only slow goes on: to send the same
    bytes again, perhaps over the same uplink, would make it even slower.

    Args:
        request: The oldest request at that server.
        now_s: The time.
        other_s: The expected seconds at another server.

    """
    late_s = request.expected_s * _PATIENCE + _ACK_SLACK_S
    if request.acked_bytes >= request.total_bytes:  # only the answer is missing
        return now_s - request.submitted_s > late_s + other_s
    if request.silent:
        return True
    if math.isinf(request.transfer_s):  # it was behind others: the time of its next acknowledgement is unknown
        return now_s > max(request.submitted_s, request.progress_s) + late_s
    return now_s > request.next_ack_s
