"""A device's status report for the operator, without any content of a frame.

docs/fleet.md lists every field, docs/security.md gives the reason why each is safe. A report is a few hundred bytes
of MessagePack; every text, number and list in it is bounded, as any key holder can write one.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)]
Seconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0.0, le=1e9)]
Positive: TypeAlias = Annotated[float, msgspec.Meta(ge=0.0, le=1e15)]
Share: TypeAlias = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Celsius: TypeAlias = Annotated[int, msgspec.Meta(ge=-100, le=200)]
Word: TypeAlias = Annotated[str, msgspec.Meta(max_length=64)]
Line: TypeAlias = Annotated[str, msgspec.Meta(max_length=120)]
Hash: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]

#: Minimum and maximum seconds between two reports of a device.
LEAST_PERIOD_S, MOST_PERIOD_S = 1.0, 3600.0
Period: TypeAlias = Annotated[float, msgspec.Meta(ge=LEAST_PERIOD_S, le=MOST_PERIOD_S)]

#: Conditions that need a person's attention. ``source``, ``sink``: one does not work. ``ledger``: it is unusable,
#: so #: nothing leaves. ``budget``: it does not pay for one more frame. ``accuracy``: no cut is used, or figures
#: are #: missing. ``throttled``: the board is throttled. ``stuck``: work is overdue. ``reload``: a new config was
#: refused.
Alert = Literal["source", "sink", "ledger", "budget", "accuracy", "throttled", "stuck", "reload"]


class _Part(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """Base of the parts of a report."""


class FrameCounts(_Part, frozen=True):
    """Frames since the program's start, by outcome.

    ``exact``: whether the numbers are exact. Otherwise all but ``offloaded``, ``late`` and ``moves`` are rounded
    down to two leading binary digits (1, 2, 3, 4, 6, 8, 12, …), since they may depend on the time that local runs
    take.
    """

    exact: bool
    frames_in: Count
    offloaded: Count
    local: Count
    fallback: Count
    failed: Count
    dropped: Count
    late: Count
    moves: Count


class Moved(_Part, frozen=True):
    """The last move of the split point, ``ago_s`` seconds before the report."""

    ago_s: Seconds
    split_from: Count
    split_to: Count
    why: Line


class LinkReport(_Part, frozen=True):
    """The device's estimate of the link."""

    uplink_mbit_s: Positive | None
    rtt_s: Seconds | None
    queue_s: Seconds
    reconnects: Count


class OffloadReport(_Part, frozen=True):
    """Seconds from a request's first chunk to its answer, over the last ``frames`` answered by the server."""

    frames: Count
    median_s: Seconds
    p95_s: Seconds


class BoardReport(_Part, frozen=True):
    """The board. ``load``: how much longer work takes than when idle. ``temperature_c``: in steps of 5."""

    load: Positive
    temperature_c: Celsius | None
    throttled: bool | None


class LedgerReport(_Part, frozen=True):
    """The privacy ledger of the device's life, in both units; see docs/privacy.md.

    ``whole_input_epsilon``: spent. ``per_value_epsilon_max``: the largest of a value that was released since the
    program's start. ``budget`` and ``left``: in whole-input ε, None where unlimited. ``spent_in_s``: when the
    budget will be spent at the rate of this run.
    """

    whole_input_epsilon: Positive
    per_value_epsilon_max: Positive
    releases: Count
    unprotected_releases: Count
    budget: Positive | None
    left: Positive | None
    spent_in_s: Positive | None


class Report(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True, tag="report"):
    """Device: its status; the next report follows in ``period_s``. From protocol version 3 on.

    ``split`` equal to ``local``: everything runs on the board. ``expected_s``: the planner's prediction for a whole
    frame at the current split. ``agreement``: the expected share of answers that agree with the unsplit model at
    that split, with its one-sided 80 % lower bound; None if unmeasured.
    """

    period_s: Period
    uptime_s: Seconds
    software: Word
    python: Word
    backend: Word
    bundle: Hash
    bundle_name: Word
    split: Count | None
    local: Count
    moved: Moved | None
    frames: FrameCounts
    link: LinkReport
    expected_s: Seconds | None
    offload: OffloadReport | None
    board: BoardReport
    agreement: Share | None
    agreement_bound: Share | None
    ledger: LedgerReport | None
    alerts: Annotated[tuple[Alert, ...], msgspec.Meta(max_length=8)]


def coarse(count: int) -> int:
    """Round a count down to two leading binary digits, so that it changes twice while it doubles."""
    dropped_bits = max(0, count.bit_length() - 2)
    return count >> dropped_bits << dropped_bits
