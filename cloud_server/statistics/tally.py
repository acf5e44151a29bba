"""Counts released codewords in memory, by codebook, device and minute. Pure."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from split_model.privacy.codebook import CodebookSpec, codeword_bytes

#: The width of a bucket of time.
BUCKET_S = 60
#: Maximum number of groups for which pairs of groups are counted: 28 pairs.
MOST_PAIRED_GROUPS = 8
#: Maximum number of codewords for that: the table of a pair has their square.
MOST_PAIRED_CODEWORDS = 256
#: Number of requests of one device whose copies are recognised.
_REMEMBERED = 4096
#: Number of devices for which copies are recognised.
_REMEMBERED_DEVICES = 4096


@dataclass(frozen=True, slots=True)
class Series:
    """Releases that are counted together: of one codebook at one ε. ``name``: the bundle's, for display."""

    bundle: str
    name: str
    cut: int
    spec: CodebookSpec


@dataclass(slots=True)
class Bucket:
    """Counts of one series, device and minute.

    Attributes:
        frames: Releases.
        singles: By (group, codeword).
        pairs: By (group, later group, codeword of the one, of the other).

    """

    frames: int = 0
    singles: Counter[tuple[int, int]] = field(default_factory=Counter)
    pairs: Counter[tuple[int, int, int, int]] = field(default_factory=Counter)


#: (series, the device's name, the minute's start in Unix seconds)
Key = tuple[Series, str, int]


class Tally:
    """Counts releases until the counts are taken to be stored. Not thread-safe."""

    def __init__(self) -> None:
        self._buckets: dict[Key, Bucket] = {}
        self._seen: OrderedDict[str, OrderedDict[tuple[str, int], None]] = OrderedDict()
        self.copies = 0
        self.malformed = 0

    def add(self, series: Series, device: str, payload: bytes, *, request: tuple[str, int], unix_s: float) -> None:
        """Count one release. A copy of a request, sent again after a lost connection, counts once.

        Args:
            series: The codebook and its ε.
            device: The device's name.
            payload: The codewords as they were sent, one or two bytes each.
            request: The device's boot id and its number of the request.
            unix_s: When it arrived.

        """
        if self._is_copy(device, request):
            self.copies += 1
            return
        spec = series.spec
        width = codeword_bytes(spec.codewords)
        if len(payload) != spec.groups * width:
            self.malformed += 1
            return
        codewords = np.frombuffer(payload, f"<u{width}").tolist()
        if max(codewords) >= spec.codewords:
            self.malformed += 1
            return
        bucket = self._buckets.setdefault((series, device, int(unix_s) // BUCKET_S * BUCKET_S), Bucket())
        bucket.frames += 1
        bucket.singles.update(enumerate(codewords))
        if paired(spec):
            bucket.pairs.update(_pairs_of(codewords))

    def take(self) -> dict[Key, Bucket]:
        """Return all counts and start again at zero."""
        taken, self._buckets = self._buckets, {}
        return taken

    def give_back(self, buckets: dict[Key, Bucket]) -> None:
        """Add counts back that could not be stored."""
        for key, bucket in buckets.items():
            mine = self._buckets.setdefault(key, Bucket())
            mine.frames += bucket.frames
            mine.singles.update(bucket.singles)
            mine.pairs.update(bucket.pairs)

    def _is_copy(self, device: str, request: tuple[str, int]) -> bool:
        seen = self._seen.setdefault(device, OrderedDict())
        self._seen.move_to_end(device)
        if len(self._seen) > _REMEMBERED_DEVICES:
            self._seen.popitem(last=False)
        if request in seen:
            return True
        seen[request] = None
        if len(seen) > _REMEMBERED:
            seen.popitem(last=False)
        return False


def paired(spec: CodebookSpec) -> bool:
    """Whether pairs of this codebook's groups are counted."""
    return 1 < spec.groups <= MOST_PAIRED_GROUPS and spec.codewords <= MOST_PAIRED_CODEWORDS


def _pairs_of(codewords: Sequence[int]) -> list[tuple[int, int, int, int]]:
    return [(a, b, codewords[a], codewords[b]) for a, b in combinations(range(len(codewords)), 2)]
