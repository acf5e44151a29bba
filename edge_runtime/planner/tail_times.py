"""Estimates the server's time for each tail: its reports, and before them in proportion to MACs."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from edge_runtime.planner.prediction import SplitProfile

#: Seconds without any answer after which the measured tail times begin to fade ...
_FRESH_S = 10.0
#: ... and the half-life of the fading, in seconds.
_HALVED_S = 10.0


class TailTimes:
    """Learns from the ``tail_s`` that comes with every answer. Pure. ``tail_macs``: by cut.

    Until the first answer tails count as free: the planner then tries the server once and learns the time. A
    pessimistic guess could prevent that for ever. For the same reason an old measurement counts less and less: a
    server that was slow once is tried again.
    """

    def __init__(self, tail_macs: Mapping[int, int]) -> None:
        self._macs = dict(tail_macs)
        self._seconds_per_mac = 0.0
        self._measured: dict[int, float] = {}
        self._heard_s = 0.0

    def observed(self, split: int, tail_s: float, *, at_s: float) -> None:
        """Learn from the reported seconds of one tail."""
        self._heard_s = at_s
        before = self._measured.get(split, tail_s)
        self._measured[split] = 0.7 * before + 0.3 * tail_s
        if self._macs[split] > 0:
            self._seconds_per_mac = self._measured[split] / self._macs[split]

    @property
    def is_known(self) -> bool:
        """Whether the server has ever answered."""
        return bool(self._measured)

    def apply(self, profile: SplitProfile, *, now_s: float, fades: bool = True) -> SplitProfile:
        """Return the profile with the best known tail time, with fading (``fades``) or as last reported."""
        tail_s = self._measured.get(profile.split, self._macs[profile.split] * self._seconds_per_mac)
        silent_s = max(0.0, now_s - self._heard_s - _FRESH_S) if fades else 0.0
        return replace(profile, tail_s=tail_s * 0.5 ** (silent_s / _HALVED_S))
