"""Immutable events of releases for the ledger; the accountant prices them.

An event describes one mechanism on one frame. It has no feature, no noise and no clock. The neighbouring
relations are the accountant's: one feature value replaced by any other, and one frame replaced by any other.
Sending the same bytes again is not a second event; running the mechanism again on the same frame is.
"""

from __future__ import annotations

import msgspec


class ChannelNoise(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``values`` feature values of one channel, each released with pure per-value ε ``epsilon``."""

    values: int
    epsilon: float


class LaplaceEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="laplace"):
    """One frame released once by the discrete Laplace mechanism, channel by channel."""

    channels: tuple[ChannelNoise, ...]


class ResponseEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="response"):
    """One frame released once as ``groups`` codewords, each by k-ary randomised response with pure ε ``epsilon``.

    Every codeword may depend on every value of the frame, so both units are the same.
    """

    groups: int
    epsilon: float


Event = LaplaceEvent | ResponseEvent
