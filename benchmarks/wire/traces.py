"""Link capacity over time: recorded traces (``benchmarks/traces/*.csv``) and constant rates.

A trace is piecewise constant. All its arithmetic is exact integration of that step
function, so a link that asks "when will these bits be through?" never drifts.
"""

from __future__ import annotations

import bisect
import csv
import itertools
import math
from dataclasses import dataclass, field
from pathlib import Path

from split_model.errors import BadInputError, MissingInputError

HEADER = ["time_s", "uplink_mbit_s"]
BITS_PER_MBIT = 1e6
LONE_ROW_S = 0.5
"""Length of a trace's only interval when one row leaves it unsaid, in seconds."""


@dataclass(frozen=True)
class Trace:
    """Capacity in Mbit/s: ``mbit_s[i]`` holds from ``edges_s[i]`` to ``edges_s[i + 1]``.

    ``start_s`` is the point of the recording that the clock's zero falls on. After the end
    a looping trace begins again; any other keeps its last value. Before zero the value at
    zero holds. Raises ValueError when the numbers are not a trace.
    """

    edges_s: tuple[float, ...]
    mbit_s: tuple[float, ...]
    name: str = "trace"
    loop: bool = True
    start_s: float = 0.0
    _cumulative: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.mbit_s or len(self.edges_s) != len(self.mbit_s) + 1:
            raise ValueError("a trace needs one edge more than it has rates, and at least one rate")
        if self.edges_s[0] != 0.0 or any(a >= b for a, b in itertools.pairwise(self.edges_s)):
            raise ValueError("a trace's edges start at 0 and grow")
        if not all(math.isfinite(rate) and rate >= 0 for rate in self.mbit_s):
            raise ValueError("a trace's rates are finite and not negative")
        if not (math.isfinite(self.start_s) and self.start_s >= 0):
            raise ValueError("a trace's start is finite and not negative")
        gaps = (b - a for a, b in itertools.pairwise(self.edges_s))
        bits = (gap * rate * BITS_PER_MBIT for gap, rate in zip(gaps, self.mbit_s, strict=True))
        object.__setattr__(self, "_cumulative", tuple(itertools.accumulate(bits, initial=0.0)))

    @property
    def duration_s(self) -> float:
        """Length of the recording in seconds."""
        return self.edges_s[-1]

    def mbit_s_at(self, t_s: float) -> float:
        """Return the capacity in Mbit/s at ``t_s`` seconds after the clock's zero."""
        at_s = max(t_s, 0.0) + self.start_s
        if self.loop:
            at_s %= self.duration_s
        index = bisect.bisect_right(self.edges_s, at_s) - 1
        return self.mbit_s[min(index, len(self.mbit_s) - 1)]

    def bits_between(self, from_s: float, to_s: float) -> float:
        """Return how many bits the link can pass between two times on its clock."""
        return self._bits_until(to_s) - self._bits_until(from_s)

    def finish_s(self, from_s: float, bits: float) -> float:
        """Return when a transmission of ``bits`` begun at ``from_s`` is through; ``inf`` if never."""
        if bits <= 0:
            return from_s
        target = self._bits_until(from_s) + bits
        return max(from_s, self._time_of(target))

    def _bits_until(self, t_s: float) -> float:
        """Bits passed from the recording's own zero until ``t_s``; negative time counts down."""
        if t_s < 0:
            return self._bits_until(0.0) + t_s * self.mbit_s_at(0.0) * BITS_PER_MBIT
        at_s = t_s + self.start_s
        if self.loop:
            rounds, at_s = divmod(at_s, self.duration_s)
            return rounds * self._cumulative[-1] + self._bits_within(at_s)
        beyond_s = max(at_s - self.duration_s, 0.0)
        return self._bits_within(at_s - beyond_s) + beyond_s * self.mbit_s[-1] * BITS_PER_MBIT

    def _bits_within(self, at_s: float) -> float:
        index = min(bisect.bisect_right(self.edges_s, at_s), len(self.mbit_s)) - 1
        return self._cumulative[index] + (at_s - self.edges_s[index]) * self.mbit_s[index] * BITS_PER_MBIT

    def _time_of(self, bits: float) -> float:
        """Return the earliest time on the link's clock at which ``bits`` have passed (see ``_bits_until``)."""
        at_zero = self._bits_until(0.0)
        if bits < at_zero:
            return (bits - at_zero) / (self.mbit_s_at(0.0) * BITS_PER_MBIT)
        total = self._cumulative[-1]
        if self.loop:
            if total == 0.0:
                return math.inf
            rounds, bits = divmod(bits, total)
            if bits == 0.0 and rounds > 0:  # the earliest such time is the end of the round before
                rounds, bits = rounds - 1, total
            return rounds * self.duration_s + self._time_within(bits) - self.start_s
        if bits > total:
            last = self.mbit_s[-1] * BITS_PER_MBIT
            return math.inf if last == 0.0 else self.duration_s + (bits - total) / last - self.start_s
        return self._time_within(bits) - self.start_s

    def _time_within(self, bits: float) -> float:
        index = bisect.bisect_left(self._cumulative, bits)
        if index == 0:
            return 0.0
        rate = self.mbit_s[index - 1] * BITS_PER_MBIT  # not zero: the sum grew over this interval
        return self.edges_s[index - 1] + (bits - self._cumulative[index - 1]) / rate


def constant(mbit_s: float) -> Trace:
    """Return a link that always has the same capacity in Mbit/s."""
    return Trace(edges_s=(0.0, 1.0), mbit_s=(mbit_s,), name=f"{mbit_s:g} Mbit/s")


def load_trace(path: Path, *, loop: bool = True, start_s: float = 0.0) -> Trace:
    """Read a CSV of ``time_s,uplink_mbit_s``; times count from the first row.

    The last row lasts as long as the one before it. Raises MissingInputError when the file is
    not there and BadInputError naming the line when it is not such a file.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except FileNotFoundError:
        raise MissingInputError(
            f"{path}: no such trace", remedy="see benchmarks/traces for recorded ones"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInputError(f"{path}: cannot be read as a CSV trace ({error})", remedy="give a text file") from None
    if not rows or [cell.strip() for cell in rows[0]] != HEADER:
        raise BadInputError(f"{path}: line 1 is not the header '{','.join(HEADER)}'", remedy="add it")
    times_s: list[float] = []
    rates: list[float] = []
    for line, row in enumerate(rows[1:], start=2):
        if row:
            time_s, rate = _parse_row(path, line, row)
            if times_s and time_s <= times_s[-1]:
                raise BadInputError(
                    f"{path}: line {line}: time {time_s:g} s does not grow", remedy="sort the rows by time"
                )
            times_s.append(time_s)
            rates.append(rate)
    if not any(rates):
        raise BadInputError(
            f"{path}: no row has a capacity above zero, so nothing would ever pass", remedy="give one that has"
        )
    if not 0 <= start_s < math.inf:
        raise BadInputError(f"{path}: start {start_s:g} s", remedy="give a start of zero or more seconds")
    last_s = times_s[-1] - times_s[-2] if len(times_s) > 1 else LONE_ROW_S
    edges_s = (*(time_s - times_s[0] for time_s in times_s), times_s[-1] - times_s[0] + last_s)
    return Trace(edges_s=edges_s, mbit_s=tuple(rates), name=path.stem, loop=loop, start_s=start_s)


def _parse_row(path: Path, line: int, row: list[str]) -> tuple[float, float]:
    try:
        time_s, rate = (float(cell) for cell in row)
    except ValueError:
        raise BadInputError(
            f"{path}: line {line}: '{','.join(row)}' is not two numbers", remedy="mend that row"
        ) from None
    if not (math.isfinite(time_s) and math.isfinite(rate) and rate >= 0):
        raise BadInputError(
            f"{path}: line {line}: not a time and a capacity",
            remedy="give a finite time and a capacity of zero or more Mbit/s",
        )
    return time_s, rate
