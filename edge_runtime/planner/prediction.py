"""Predicts the time of a frame at one split. Pure: a profile and the conditions in, a prediction out.

The uplink is not a number but a distribution (log-normal), for the time when the head will be done. So ``bytes /
uplink`` is an expectation: a slow second costs more than a fast one gains, but at most as much as a local run,
which starts when the answer is overdue. A silent link is expected to stay silent for as long again.

If the local tail is loaded (see `local_tails`), a rescue takes only its time. The local tail may also start right
after the head (a hedge), during the transfer: then the answer is never later than that of a local run. A hedge has
a price, in seconds: its energy is spent, and the next frame may find the board still busy.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec
from msgspec.structs import replace

from edge_runtime.link.estimator import LinkEstimate, wire_bytes

Objective = Literal["latency", "throughput"]

#: The assumed round trip until one was measured.
_UNKNOWN_RTT_S = 0.1
#: Minimum and maximum uncertainty of a link: standard deviation of the logarithm of its rate.
_SPREAD = (0.3, 2.0)
#: A local run is started when an answer is overdue by about this share of its transfer time plus these seconds.
_RESCUED_AFTER = 0.5
_RESCUED_AFTER_S = 0.05
#: Minimum saving of a hedge, for each second that it takes.
_HEDGE_PRICE = 0.01
#: No hedge if the local run is more likely than this to be first: a release should be of use.
_MOST_DOUBT = 0.5


class SplitProfile(msgspec.Struct, frozen=True):
    """The costs of one split: head and release on the idle board, payload, and tail on the server.

    The split ``local`` has ``payload_bytes`` 0 and its whole run as ``head_s``. ``local_tail_s``: the local tail's
    time after the head; None if a local run would have to start from the beginning.
    """

    split: int
    head_s: float
    release_s: float = 0.0
    payload_bytes: int = 0
    tail_s: float = 0.0
    local_tail_s: float | None = None


class Conditions(msgspec.Struct, frozen=True):
    """The conditions of a prediction: link, load and waits.

    ``load``: how many times longer work takes here than in the profile. ``local_wait_s``: until the local run
    of an earlier frame ends. ``may_hedge``: the config allows hedges. ``next_frame_s``: earliest time until the
    next frame. ``uplink_busy_s``: until earlier requests are sent. All times in seconds.
    """

    link: LinkEstimate
    link_up: bool
    load: float = 1.0
    queue_s: float = 0.0
    local_wait_s: float = 0.0
    may_hedge: bool = False
    next_frame_s: float = math.inf
    uplink_busy_s: float = 0.0


class Prediction(msgspec.Struct, frozen=True):
    """Predicted latency of a frame at one split, in parts that add up to ``total_s``.

    ``wait_s``: until an earlier frame's local run is done, before this one's, or its transfer. ``doubt``: the
    probability that a local run started together with the frame would be done first. ``hedged``: the local tail is
    started right behind the head, which costs ``price_s``.
    """

    split: int
    total_s: float
    head_s: float
    transfer_s: float
    round_trip_s: float
    server_s: float
    wait_s: float = 0.0
    doubt: float = 0.0
    hedged: bool = False
    price_s: float = 0.0

    @property
    def bottleneck_s(self) -> float:
        """Seconds a frame of the slowest stage: all that counts when frames are worked on at the same time."""
        return max(self.head_s, self.transfer_s, self.server_s)

    def cost_s(self, objective: Objective) -> float:
        """What is minimised: the time of one frame and the price of its hedge, or the time between two answers."""
        return self.total_s + self.price_s if objective == "latency" else self.bottleneck_s


def predict(profile: SplitProfile, conditions: Conditions, *, local_s: float = math.inf) -> Prediction:
    """The latency of one frame at one split; infinite where the link is needed and not there.

    ``local_s``: seconds of a local run now. A stalled transfer is rescued by one, or by its local tail.
    """
    head_s = (profile.head_s + profile.release_s) * conditions.load
    if profile.payload_bytes == 0:
        wait_s = conditions.local_wait_s
        return Prediction(profile.split, wait_s + head_s, head_s, 0.0, 0.0, 0.0, wait_s=wait_s)
    link = conditions.link.ahead(head_s)
    if not conditions.link_up or link.uplink_bytes_s is None:
        return Prediction(profile.split, math.inf, head_s, math.inf, 0.0, 0.0, doubt=1.0)
    rtt_s = link.rtt_s if link.rtt_s is not None else _UNKNOWN_RTT_S
    server_s = conditions.queue_s + profile.tail_s
    likely_s = wire_bytes(profile.payload_bytes, profile.payload_bytes) / link.uplink_bytes_s + link.silent_s
    least, most = _SPREAD
    spread = 0.0 if link.rate_spread == 0.0 else min(most, math.hypot(link.rate_spread, least))
    wait_s = max(0.0, conditions.local_wait_s - head_s)
    busy_s = max(0.0, conditions.uplink_busy_s - head_s)
    local_tail_s = local_s if profile.local_tail_s is None else profile.local_tail_s * conditions.load
    rescued_s = likely_s * _RESCUED_AFTER + _RESCUED_AFTER_S + wait_s + local_tail_s
    transfer_s = _expected_least(likely_s, spread, rescued_s)
    fixed_s = head_s + busy_s + rtt_s + server_s
    doubt = _chance_above(likely_s, spread, conditions.local_wait_s + local_s - fixed_s)
    plain = Prediction(
        profile.split, fixed_s + transfer_s, head_s, transfer_s, rtt_s, server_s, wait_s=busy_s, doubt=doubt
    )
    if profile.local_tail_s is None or not conditions.may_hedge:
        return plain
    hedged = _hedged(plain, conditions, likely_s, spread, local_tail_s)
    return plain if hedged is None or hedged.cost_s("latency") >= plain.total_s else hedged


def _hedged(
    plain: Prediction, conditions: Conditions, likely_s: float, spread: float, local_tail_s: float
) -> Prediction | None:
    """The same with the local tail right behind the head; None where that is more likely to be first."""
    if plain.doubt > _MOST_DOUBT:
        return None
    fixed_s = plain.head_s + plain.wait_s + plain.round_trip_s + plain.server_s
    done_s = max(plain.head_s, conditions.local_wait_s) + local_tail_s
    if done_s <= fixed_s:
        return None
    transfer_s = _expected_least(likely_s, spread, done_s - fixed_s)
    total_s = fixed_s + transfer_s
    # The next frame may be in doubt as well, and would find the board taken.
    blocked_s = max(0.0, done_s - max(total_s, conditions.next_frame_s))
    price_s = _HEDGE_PRICE * local_tail_s + plain.doubt * blocked_s
    return replace(plain, total_s=total_s, transfer_s=transfer_s, hedged=True, price_s=price_s)


def _expected_least(median: float, spread: float, limit: float) -> float:
    """The expectation of the lesser of ``limit`` and a log-normal variable."""
    if spread == 0.0:
        return min(median, limit)
    depth = math.log(limit / median) / spread if limit < math.inf else math.inf
    below = median * math.exp(spread**2 / 2.0) * _normal(depth - spread)
    return below + (limit * _normal(-depth) if limit < math.inf else 0.0)


def _chance_above(median: float, spread: float, limit: float) -> float:
    """The chance that a log-normal variable exceeds ``limit``."""
    if limit <= 0.0:
        return 1.0
    if spread == 0.0 or limit == math.inf:
        return float(median > limit)
    return _normal(math.log(median / limit) / spread)


def _normal(x: float) -> float:
    """The standard normal distribution function."""
    return 0.5 * math.erfc(-x / math.sqrt(2.0))
