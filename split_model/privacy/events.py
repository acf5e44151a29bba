"""What happened, for the books: immutable events, apart from the accountant that prices them.

An event says what a mechanism did to one frame. It holds no feature, no noise and no clock.
"""

from __future__ import annotations

import msgspec


class ChannelNoise(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``values`` feature values of one channel, each released with pure per-value ε ``epsilon``."""

    values: int
    epsilon: float


class LaplaceEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="laplace"):
    """One frame released once by the discrete Laplace mechanism, channel by channel.

    Per value, the neighbouring relation is: this one feature value replaced by any other. Sending the
    same bytes again is not a second event; drawing noise again for the same frame is.
    """

    channels: tuple[ChannelNoise, ...]
