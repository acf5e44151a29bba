"""What requests and probes tell of the link and of the server's queue, and when to probe.

Pure: times are handed in. Everything learns from what crosses anyway; probes of content-free bytes fill the gaps.
"""

from __future__ import annotations

import math

from edge_runtime.conditions.link import LinkEstimate, LinkEstimator
from split_model.protocol.device import Answered, Probed

#: A probe's size, least and most: enough chunks for their spacing to show the rate.
PROBE_BYTES = (3 << 10, 8 << 10)
#: Probes take no more than this share of the uplink as it is believed to be, and only while nothing else crosses;
#: but at least every `_PROBE_AT_LEAST_S`, or a link that came back from an outage would never be noticed.
PROBE_SHARE = 0.08
#: Requests that timed fewer bytes than this say nothing certain of the rate.
MIN_TIMED_BYTES = 2 << 10
#: What is known of the server's queue halves in this time: else one bad moment would keep us away for good.
_QUEUE_FADE_S = 2.0
_PROBE_EVERY_S = 0.5
_PROBE_AT_LEAST_S = 2.0
_PING_EVERY_S = 2.0
_WINDOW_S = 0.3
_MIN_WINDOW_BYTES = 32 << 10


class LinkMeter:
    """Feed it what came back from the server; ask it for the link, the queue, and what to send next to measure."""

    def __init__(self, estimator: LinkEstimator, *, now_s: float) -> None:
        self._estimator = estimator
        self._queue_s = 0.0
        self._queue_at_s = now_s
        self._timed_s = self._probed_s = self._pinged_s = now_s
        self._round_trip_s = now_s  # when the last one was measured

    def estimate(self, now_s: float) -> LinkEstimate:
        """The link at ``now_s``."""
        return self._estimator.estimate(now_s)

    def queue_s(self, now_s: float) -> float:
        """How long a request is going to wait at the server."""
        return float(self._queue_s * 0.5 ** ((now_s - self._queue_at_s) / _QUEUE_FADE_S))

    def connected(self) -> None:
        """A new connection: probe it at once, then ping it."""
        self._probed_s = self._pinged_s = self._round_trip_s = -math.inf

    def answered(self, event: Answered, now_s: float) -> None:
        """A request came back with its timings."""
        answer = event.answer
        transfer_s = 0.0
        if answer.timed_bytes >= MIN_TIMED_BYTES:
            self._estimator.transferred(answer.timed_bytes, answer.receive_s, at_s=now_s)
            transfer_s = answer.receive_s * event.total_bytes / answer.timed_bytes
            self._timed_s = now_s
        self._estimator.round_trip(event.elapsed_s - transfer_s - answer.queue_s - answer.tail_s)
        self._round_trip_s = now_s
        self._note_queue(0.5 * self.queue_s(now_s) + 0.5 * answer.queue_s, now_s)

    def probed(self, event: Probed, now_s: float) -> None:
        """A probe or a ping came back."""
        if event.timed_bytes >= MIN_TIMED_BYTES:
            self._estimator.transferred(event.timed_bytes, event.receive_s, at_s=now_s)
            self._timed_s = now_s
        elif event.total_bytes == 0:
            self._estimator.round_trip(event.elapsed_s)
            self._round_trip_s = now_s

    def given_up(self, *, acked_bytes: int, total_bytes: int, first_sent_s: float, now_s: float) -> None:
        """Nobody waits for a request any more: without this a dying link would keep its old estimate.

        One that had arrived whole says nothing bad of the link, but that the server takes its time.
        """
        link = self._estimator.estimate(now_s)
        elapsed_s = max(1e-3, now_s - first_sent_s - (link.rtt_s or 0.0))
        if acked_bytes < total_bytes:
            self._estimator.transferred(acked_bytes, elapsed_s, at_s=now_s)
            self._timed_s = now_s
        else:
            waited_s = elapsed_s - total_bytes / (link.uplink_bytes_s or math.inf)
            self._note_queue(max(self.queue_s(now_s), waited_s), now_s)

    def window_bytes(self, limit_bytes: int, now_s: float) -> int | None:
        """How much to have under way unacknowledged; None while the link is unknown."""
        link = self._estimator.estimate(now_s)
        if link.uplink_bytes_s is None:
            return None
        wanted = int(link.uplink_bytes_s * (_WINDOW_S + (link.rtt_s or 0.0)))
        return min(limit_bytes, max(_MIN_WINDOW_BYTES, wanted))

    def next_probe_bytes(self, now_s: float) -> int | None:
        """Bytes of a probe to send now, 0 for a ping, None for nothing. Ask only while nothing is under way."""
        rate = self._estimator.estimate(now_s).uplink_bytes_s
        least, most = PROBE_BYTES
        share = PROBE_SHARE * (rate or least)
        probe_bytes = max(least, min(most, int(share * _PROBE_EVERY_S)))
        pause_s = max(_PROBE_EVERY_S, min(probe_bytes / share, _PROBE_AT_LEAST_S)) if rate else _PROBE_EVERY_S
        # From the last probe's sending, not its return: one that came back late says that the link is back.
        if now_s - self._probed_s >= pause_s and now_s - self._timed_s >= _PROBE_EVERY_S / 2:
            self._probed_s = now_s
            return probe_bytes
        # Probes time the uplink only, and while they keep coming back nothing else would tell the round trip.
        if now_s - max(self._pinged_s, self._round_trip_s) >= _PING_EVERY_S:
            self._pinged_s = now_s
            return 0
        return None

    def _note_queue(self, queue_s: float, now_s: float) -> None:
        self._queue_s = max(0.0, queue_s)
        self._queue_at_s = now_s
