"""Finds the best split for each range of uplinks, by the planner's own prediction. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

from edge_runtime.bench.figures import CutFigures, LinkFigures, Range, Recommendation
from edge_runtime.link.estimator import LinkEstimate
from edge_runtime.planner.prediction import Conditions, Objective, SplitProfile, predict

#: The round trip and the server's speed that are assumed if no link was measured.
ASSUMED_ROUND_TRIP_S = 0.05
ASSUMED_SERVER_SPEEDUP = 10.0
#: The range of uplinks that is scanned, in bit/s: from practically no link to a cable.
_SLOWEST, _FASTEST = 1e4, 1e9
_STEPS_PER_DECADE = 40


def recommend(
    cuts: Sequence[CutFigures],
    link: LinkFigures | None,
    *,
    tail_shares: Mapping[int, float],
    objective: Objective,
) -> Recommendation:
    """Recommend where to cut, over all uplinks and on the link as measured.

    ``cuts`` with ``local`` last; ``tail_shares``: each tail's share of the model's MACs, for tails that were not
    timed.
    """
    measured = link is not None and link.round_trip_s is not None
    assumed = []
    round_trip_s = ASSUMED_ROUND_TRIP_S
    if measured and link is not None and link.round_trip_s is not None:
        round_trip_s = link.round_trip_s
    else:
        assumed.append(f"a round trip of {ASSUMED_ROUND_TRIP_S * 1e3:.0f} ms")
    if any(cut.tail_s is None and cut.payload_bytes for cut in cuts if cut.allowed):
        assumed.append(f"a server {ASSUMED_SERVER_SPEEDUP:g} times as fast as this board")
    local_s = cuts[-1].head.p50_s
    profiles = [
        SplitProfile(
            cut.split,
            cut.head.p50_s,
            cut.release.p50_s,
            cut.payload_bytes,
            _tail_s(cut, tail_shares, local_s),
        )
        for cut in cuts
        if cut.allowed
    ]
    queue_s = link.queue_s if link is not None and link.queue_s is not None and objective == "latency" else 0.0

    def best(bit_s: float) -> tuple[int, float]:
        conditions = Conditions(link=_link(bit_s / 8, round_trip_s), link_up=True, load=1.0, queue_s=queue_s)
        costs = [(predict(profile, conditions).cost_s(objective), profile.split) for profile in profiles]
        frame_s, split = min(costs)
        return split, frame_s

    names = {cut.split: cut.name for cut in cuts}
    ranges = _ranges(lambda bit_s: best(bit_s)[0], names)
    here, frame_s = None, None
    if link is not None and link.uplink_mbit_s is not None:
        here, frame_s = best(link.uplink_mbit_s * 1e6)
    return Recommendation(
        objective=objective,
        ranges=ranges,
        round_trip_s=round_trip_s,
        assumed=tuple(assumed),
        here=here,
        frame_s=frame_s,
        local_s=local_s,
        text=_text(ranges, names, here),
    )


def _link(uplink_bytes_s: float, round_trip_s: float) -> LinkEstimate:
    return LinkEstimate(uplink_bytes_s=uplink_bytes_s, rtt_s=round_trip_s, rate_spread=0.0, age_s=0.0)


def _tail_s(cut: CutFigures, shares: Mapping[int, float], local_s: float) -> float:
    if cut.payload_bytes == 0:
        return 0.0
    return cut.tail_s if cut.tail_s is not None else local_s * shares[cut.split] / ASSUMED_SERVER_SPEEDUP


def _ranges(best: Callable[[float], int], names: Mapping[int, str]) -> tuple[Range, ...]:
    """Scan the uplinks upwards; where the best split changes, find the crossover by halving."""
    count = round(_STEPS_PER_DECADE * math.log10(_FASTEST / _SLOWEST))
    steps = [_SLOWEST * 10 ** (step / _STEPS_PER_DECADE) for step in range(count + 1)]
    ranges: list[Range] = []
    from_bit_s, split = 0.0, best(steps[0])
    for low, high in itertools.pairwise(steps):
        if best(high) == split:
            continue
        crossover = _crossover(best, split, low, high)
        ranges.append(
            Range(from_mbit_s=from_bit_s * 1e-6, to_mbit_s=crossover * 1e-6, split=split, name=names[split])
        )
        from_bit_s, split = crossover, best(high)
    ranges.append(Range(from_mbit_s=from_bit_s * 1e-6, to_mbit_s=None, split=split, name=names[split]))
    return tuple(ranges)


def _crossover(best: Callable[[float], int], split: int, low: float, high: float) -> float:
    for _ in range(30):
        middle = math.sqrt(low * high)
        if best(middle) == split:
            low = middle
        else:
            high = middle
    return high


def _text(ranges: Sequence[Range], names: Mapping[int, str], here: int | None) -> str:
    """The recommendation as one line of text."""
    if len(ranges) == 1:
        told = f"{split_name(names[ranges[0].split])} at every uplink"
    else:
        told = "; ".join(
            f"{split_name(found.name)} "
            + (
                f"below {mbit(found.to_mbit_s)}"
                if found.from_mbit_s == 0.0 and found.to_mbit_s is not None
                else f"from {mbit(found.from_mbit_s)}"
            )
            for found in ranges
        )
    return told + ("" if here is None else f"; on this link now {split_name(names[here])}")


def split_name(name: str) -> str:
    """The name of a split for display."""
    return name if name == "local" else f"cut {name}"


def mbit(mbit_s: float | None) -> str:
    """An uplink for display, in Mbit/s with three digits."""
    return "–" if mbit_s is None else f"{float(f'{mbit_s:.3g}'):g} Mbit/s"
