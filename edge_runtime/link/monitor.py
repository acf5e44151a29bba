"""Measures the link and the server's queue from requests and probes, and decides when to probe. Pure.

Times are arguments. Requests are measured as they pass; probes of content-free bytes fill the gaps.
"""

from __future__ import annotations

import math

from msgspec.structs import replace

from edge_runtime.link.estimator import LinkEstimate, LinkEstimator, wire_bytes
from split_model.protocol.chunks import BURST_BYTES, chunk_bytes_for
from split_model.protocol.device import Answered, Probed
from split_model.protocol.uploads import Progress

#: A probe's size, least and most: enough chunks for their spacing to show the rate.
PROBE_BYTES = (3 << 10, 12 << 10)
#: Probes take at most this share of the estimated uplink, and only while nothing else is sent. But one is sent at
#: #: least every `_PROBE_AT_LEAST_S`: otherwise a link that came back from an outage would not be noticed.
PROBE_SHARE = 0.08
#: The timing of chunks starts when the first has arrived whole. The TCP segment with its last byte also has bytes
#: of #: the next chunk, half a segment on average, which are not part of the measured time.
HALF_SEGMENT_BYTES = 724
#: Requests that timed fewer bytes than this are too inexact for the rate.
MIN_TIMED_BYTES = 2 << 10
#: Half-life of the estimated queue at the server: without it one bad moment would keep us away for ever.
_QUEUE_FADE_S = 2.0
_PROBE_EVERY_S = 0.5
_PROBE_AT_LEAST_S = 2.0
#: Size of the message sent instead of a probe that the share does not allow. It tests the link, but times nothing.
KNOCK_BYTES = 1
#: Seconds after a request or a probe timed the link in which no probe is needed.
_FRESH_S = 0.25
_PING_EVERY_S = 2.0
#: A probe or a ping is overdue after its predicted time times the first, plus the second (seconds).
_OVERDUE = 1.5
_OVERDUE_S = 0.04
_UNKNOWN_RTT_S = 0.1
#: A probe is sent early enough to be back this long before the next frame is expected.
_LEAD_S = 0.03
#: A probe may go out this much early rather than one frame later.
_EARLY_S = 0.1
_WINDOW_S = 0.3
_MIN_WINDOW_BYTES = 32 << 10


class LinkMonitor:
    """Estimates the link and the server's queue from replies, and plans the next probe or ping."""

    def __init__(self, estimator: LinkEstimator, *, now_s: float) -> None:
        self._estimator = estimator
        self._queue_s = 0.0
        self._queue_at_s = now_s
        self._timed_s = self._probed_s = self._pinged_s = now_s
        self._asked_s = now_s  # when the last probe of any kind was sent
        self._round_trip_s = now_s  # when the last round trip was measured
        self._overdue_s = math.inf  # from then on the open probe or ping is overdue
        self._silent_since_s: float | None = None
        self._at_once = False
        self._next_at_once_s = now_s  # no extra whole probe before this time
        self._frame_s = -math.inf
        self._interval_s = math.inf
        self._holders = 0  # frames that hold the link
        self._elsewhere = 0  # frames that hold the link to another server

    def estimate(self, now_s: float) -> LinkEstimate:
        """Return the link at ``now_s``, with the seconds of silence if a reply is overdue."""
        silent_s = 0.0
        if self._silent_since_s is not None:
            silent_s = max(0.0, now_s - self._silent_since_s)
        elif now_s > self._overdue_s:
            silent_s = now_s - self._asked_s
        estimate = self._estimator.estimate(now_s)
        return replace(estimate, silent_s=silent_s) if silent_s else estimate

    def queue_s(self, now_s: float) -> float:
        """Predicted seconds that a request waits at the server."""
        return float(self._queue_s * 0.5 ** ((now_s - self._queue_at_s) / _QUEUE_FADE_S))

    def connected(self) -> None:
        """Note a new connection: it is probed at once, then pinged."""
        self._probed_s = self._pinged_s = self._round_trip_s = -math.inf
        self._heard()

    def frame(self, now_s: float) -> None:
        """Note that a frame begins, whether it will need the link or not."""
        self._interval_s = now_s - self._frame_s
        self._frame_s = now_s

    def hold(self) -> None:
        """Stop probes while a frame needs the link, now or soon. Several frames may hold it at once."""
        self._holders += 1

    def let_go(self) -> None:
        """End a frame's hold of the link; probes are allowed again when no frame holds it."""
        self._holders -= 1

    def hold_elsewhere(self) -> None:
        """Note that a frame needs the link to another server, which may share the uplink.

        Until `let_go_elsewhere` no whole probe is sent here. Pings are sent: they are small, and show whether the
        standby server still answers.
        """
        self._elsewhere += 1

    def let_go_elsewhere(self) -> None:
        """End a frame's hold of another server's link."""
        self._elsewhere -= 1

    def answered(self, event: Answered, now_s: float) -> None:
        """Learn from an answered request and its timings."""
        self._heard()
        answer = event.answer
        # With a load report, the wait of a request that comes now; else that of this request, which is past.
        queue_s = answer.queue_s if answer.load is None else answer.load.queue_s
        self._note_queue(0.5 * self.queue_s(now_s) + 0.5 * queue_s, now_s)
        if event.held:
            return
        transfer_s = 0.0
        if answer.timed_bytes >= MIN_TIMED_BYTES:
            on_wire_bytes = wire_bytes(answer.timed_bytes, event.total_bytes) - HALF_SEGMENT_BYTES
            self._estimator.transferred(on_wire_bytes, answer.receive_s, at_s=now_s)
            transfer_s = answer.receive_s * event.total_bytes / answer.timed_bytes
            self._timed_s = now_s
        self._estimator.round_trip(event.elapsed_s - transfer_s - answer.queue_s - answer.tail_s)
        self._round_trip_s = now_s

    def advised(self, queue_s: float, now_s: float) -> None:
        """Learn the present wait of a request at the server, as it reported."""
        self._heard()
        self._note_queue(queue_s, now_s)

    def probed(self, event: Probed, now_s: float) -> None:
        """Learn from the reply to a probe or a ping."""
        # An overdue reply shows that the link is back, but its timing is that of the bad time: measure again.
        self._at_once = self._silent_since_s is not None or now_s > self._overdue_s
        self._heard()
        if event.timed_bytes >= MIN_TIMED_BYTES:
            on_wire_bytes = wire_bytes(event.timed_bytes, event.total_bytes) - HALF_SEGMENT_BYTES
            self._estimator.transferred(on_wire_bytes, event.receive_s, at_s=now_s)
            self._timed_s = now_s
        elif event.total_bytes == 0:
            self._estimator.round_trip(event.elapsed_s)
            self._round_trip_s = now_s

    def given_up(self, progress: Progress, now_s: float) -> None:
        """Learn from a request that was given up: without this a dying link would keep its old estimate.

        A request that had arrived whole is no sign of a bad link, only of a slow server. Any other counts as
        silence until something is received again, and makes the next probe due at once, after the requests still on
        their way. The exception is a request that only waited behind others that the link still carries.
        """
        if progress.first_sent_s is None:  # it never left
            return
        link = self._estimator.estimate(now_s)
        elapsed_s = now_s - progress.first_sent_s - (link.rtt_s or 0.0)
        if elapsed_s <= 0.0:  # no answer and no acknowledgement could have come yet
            return
        carried_bytes = progress.acked_bytes + progress.others_bytes
        if progress.acked_bytes >= progress.total_bytes:
            waited_s = elapsed_s - carried_bytes / (link.uplink_bytes_s or math.inf)
            self._note_queue(max(self.queue_s(now_s), waited_s), now_s)
            return
        if carried_bytes > 0:
            on_wire_bytes = wire_bytes(carried_bytes, progress.total_bytes)
            self._estimator.transferred(on_wire_bytes, elapsed_s, at_s=now_s, grain=False)
        since_s = progress.first_sent_s
        if progress.others_bytes > 0:
            since_s = max(since_s, progress.others_at_s)
            chunk_s = self._predicted_s(chunk_bytes_for(progress.total_bytes), now_s)
            if now_s - since_s <= _OVERDUE * chunk_s + _OVERDUE_S:
                return
        if self._silent_since_s is None:
            self._silent_since_s = since_s
        self._at_once = True

    def window_bytes(self, limit_bytes: int, now_s: float) -> int | None:
        """Maximum bytes to have unacknowledged on the link; None while the link is unknown."""
        link = self._estimator.estimate(now_s)
        if link.uplink_bytes_s is None:
            return None
        wanted = int(link.uplink_bytes_s * (_WINDOW_S + (link.rtt_s or 0.0)))
        return min(limit_bytes, max(_MIN_WINDOW_BYTES, wanted))

    def probe_due_s(self, now_s: float) -> float:
        """Time of the next probe; inf while a frame holds this link, or that to another server.

        It is not earlier than the share allows. If frames come at intervals, the probe is sent just in time for its
        reply to be there when the next frame is planned: the newest sample is the best.
        """
        if self._holders or self._elsewhere:
            return math.inf
        if self._at_once:
            return now_s
        rate = self._estimator.estimate(now_s).uplink_bytes_s
        if rate is None:
            return self._probed_s + _PROBE_EVERY_S
        probe_bytes = self._probe_bytes(rate)
        due_s = max(self._probed_s + self._pause_s(rate), self._timed_s + _FRESH_S)
        if now_s - self._frame_s > 2.0 * self._interval_s:
            return due_s
        lead_s = min(0.5 * self._interval_s, self._predicted_s(probe_bytes, now_s) + _LEAD_S)
        just_in_time_s = self._frame_s + self._interval_s - lead_s
        return just_in_time_s if -_EARLY_S <= just_in_time_s - due_s <= _PROBE_EVERY_S else due_s

    def next_probe_bytes(self, now_s: float, *, silent: bool = False) -> int | None:
        """Bytes of a probe to send now, 0 for a ping, None for nothing.

        Call it only while nothing is under way, or if the link has been ``silent`` for long: then a ping tests the
        server, whatever is under way.
        """
        if not silent and now_s >= self.probe_due_s(now_s):
            rate = self._estimator.estimate(now_s).uplink_bytes_s
            probe_bytes = KNOCK_BYTES
            if self._may_probe(rate, now_s):
                probe_bytes = self._probe_bytes(rate)
                self._probed_s = now_s
            self._at_once = False
        # Probes time the uplink only; the round trip needs pings in between.
        elif now_s - max(self._pinged_s, self._round_trip_s) >= _PING_EVERY_S and (silent or not self._holders):
            probe_bytes = 0
            self._pinged_s = now_s
        else:
            return None
        self._asked_s = now_s
        self._overdue_s = now_s + _OVERDUE * self._predicted_s(probe_bytes, now_s) + _OVERDUE_S
        return probe_bytes

    def _may_probe(self, rate: float | None, now_s: float) -> bool:
        """Whether the probe that is due now may be a whole one.

        Extra probes have a share of their own. Each delays the frames behind it; if those are given up for that,
        each of them would request another probe at once, without end.
        """
        if not self._at_once or rate is None:
            return True
        if now_s < self._next_at_once_s:
            return False
        self._next_at_once_s = now_s + self._pause_s(rate)
        return True

    def _pause_s(self, rate: float) -> float:
        """Minimum seconds between two probes, so that they keep to their share of the link."""
        return min(max(_PROBE_EVERY_S, self._probe_bytes(rate) / (PROBE_SHARE * rate)), _PROBE_AT_LEAST_S)

    def _probe_bytes(self, rate: float | None) -> int:
        least, most = PROBE_BYTES
        if rate is None or PROBE_SHARE * _PROBE_AT_LEAST_S * rate >= 2 * BURST_BYTES:
            least = 2 * BURST_BYTES  # from here on a burst is left out of the timing
        return max(least, min(most, int(PROBE_SHARE * _PROBE_EVERY_S * (rate or 0.0))))

    def _predicted_s(self, probe_bytes: int, now_s: float) -> float:
        link = self._estimator.estimate(now_s)
        rtt_s = _UNKNOWN_RTT_S if link.rtt_s is None else link.rtt_s
        return rtt_s + probe_bytes / (link.uplink_bytes_s or PROBE_BYTES[0])

    def _heard(self) -> None:
        self._overdue_s = math.inf
        self._silent_since_s = None

    def _note_queue(self, queue_s: float, now_s: float) -> None:
        self._queue_s = max(0.0, queue_s)
        self._queue_at_s = now_s
