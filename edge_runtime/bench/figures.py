"""What the benchmark finds, as records: the JSON it prints, and the source of its table and of the report."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

#: Raised when a key changes its meaning; readers refuse an unknown format.
FORMAT = 1


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all records."""


class Spread(_Record, frozen=True):
    """Percentiles (nearest rank) over the runs of one thing, in seconds."""

    p50_s: float
    p90_s: float
    p95_s: float
    p99_s: float

    @classmethod
    def of(cls, times_s: Sequence[float]) -> Spread:
        """Of at least one time."""
        ordered = sorted(times_s)
        return cls(
            **{
                f"p{percent}_s": ordered[math.ceil(percent * len(ordered) / 100) - 1]
                for percent in (50, 90, 95, 99)
            }
        )


class CutFigures(_Record, frozen=True):
    """Measurements of one split on this board; None: not measured, or no such sensor.

    ``first_s``: the first run after loading; ``warm_up_runs`` until the times were steady. ``rss_delta_bytes``: how
    much the process grew when this head was loaded and run; for ``local`` with the TFLite backend itself.
    ``allowed``: not forbidden by planner.earliest_cut, accuracy_floor or
    reveal_at_most. ``agreement``: the expected share
    of answers that agree with the unsplit model, with its one-sided 80 % lower bound and the pictures it is of.
    ``throttled``: reasons seen while this cut was measured. ``joules_per_frame``: energy of the whole board, its
    idle power included; ``joules_over_idle`` without that.
    """

    split: int
    name: str
    allowed: bool
    head: Spread
    release: Spread
    payload_bytes: int
    first_s: float
    warm_up_runs: int
    runs: int
    load_s: float | None
    rss_delta_bytes: int | None
    temperature_before_c: float | None
    temperature_after_c: float | None
    throttled: tuple[str, ...] | None
    per_value_epsilon_max: float | None = None
    whole_input_epsilon: float | None = None
    tail_s: float | None = None
    joules_per_frame: float | None = None
    joules_over_idle: float | None = None
    agreement: float | None = None
    agreement_bound: float | None = None
    pictures: int | None = None


class LinkFigures(_Record, frozen=True):
    """Measurements of the link to one server; ``trouble`` says why there are none.

    ``uplink_spread``: standard deviation of the rate's logarithm. ``hosted``: whether the server has our bundle.
    ``kernel_round_trip_s``: TCP's minimum. ``proxied``: the TCP connection seems to end at a proxy, not at the
    server.
    """

    address: str
    reachable: bool
    trouble: str = ""
    round_trip_s: float | None = None
    uplink_mbit_s: float | None = None
    uplink_spread: float | None = None
    queue_s: float | None = None
    hosted: bool = False
    kernel_round_trip_s: float | None = None
    proxied: bool | None = None


class Range(_Record, frozen=True):
    """The range of uplinks where one split is best; ``to_mbit_s`` is None if there is no upper end."""

    from_mbit_s: float
    to_mbit_s: float | None
    split: int
    name: str


class Recommendation(_Record, frozen=True):
    """Where to cut. ``here`` is the best split on the link as measured, None where it was not.

    ``frame_s``: predicted latency of a frame there, or seconds a frame at full throughput, by ``objective``;
    ``local_s`` the same for ``local``.
    """

    objective: str
    ranges: tuple[Range, ...]
    round_trip_s: float
    assumed: tuple[str, ...]
    here: int | None
    frame_s: float | None
    local_s: float
    text: str


class Report(_Record, frozen=True):
    """The whole report, as `edge-runtime bench --json` prints it.

    ``links``: to every server. ``link``: the one of them with the fastest answers; the recommendation and the times
    of the tails are for it.
    """

    format: int
    bundle: str
    bundle_identity: str
    backend: str
    threads: int
    release: str
    slowdown: float
    machine: str
    cpus: int
    software: str
    cpu_load_before: float | None
    idle_watts: float | None
    rss_bytes: int | None
    temperature_before_c: float | None
    temperature_after_c: float | None
    throttled_since_boot: tuple[str, ...] | None
    cuts: tuple[CutFigures, ...]
    link: LinkFigures | None
    recommendation: Recommendation
    links: tuple[LinkFigures, ...] = ()
