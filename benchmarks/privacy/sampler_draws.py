"""Test the sampler's distribution: 10^8 draws of each law, judged by chi-square and by its tails.

usage: python -m benchmarks.privacy.sampler_draws [--draws 100000000] [--json]

The same sampler and the same `os.urandom` as a release. Several laws lie side by side in one tensor, as the
channels of a cut do. The expected counts are computed from the formula, not from the sampler's tables (whose
probabilities the tests recompute with rational arithmetic). A right sampler fails a run with probability 10^-6.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from split_model.bundle import TensorSpec
from split_model.privacy import Grid, make_grid
from split_model.privacy.layout import lay_out
from split_model.privacy.sampler import FIRST_BITS, LaplaceSampler

SIGNIFICANCE = 1e-6
ROWS = 65_536
GRIDS: tuple[Grid, ...] = (
    make_grid(1.0, 8),
    make_grid(8.0, 8),
    make_grid(16.0, 6),
    make_grid(16.0, 4),
)


@dataclass(frozen=True)
class Verdict:
    """One law: ``worst_tail`` is Chernoff's exponent of the least likely tail, to be below ``allowed``."""

    name: str
    draws: int
    p_value: float
    worst_tail: float
    allowed: float

    @property
    def holds(self) -> bool:
        return self.p_value > SIGNIFICANCE and self.worst_tail < self.allowed


def probabilities(grid: Grid) -> NDArray[np.float64]:
    """Return the law's probabilities of -bound..bound; the ends include everything beyond them."""
    reach = np.arange(-60 * grid.wire_max, 60 * grid.wire_max + 1)
    weights = np.exp(-grid.epsilon / grid.steps * np.abs(reach))
    weights /= math.fsum(weights.tolist())
    middle = reach.size // 2
    inside: NDArray[np.float64] = weights[middle - grid.bound : middle + grid.bound + 1].copy()
    inside[0] = math.fsum(weights[: middle - grid.bound + 1].tolist())
    inside[-1] = math.fsum(weights[middle + grid.bound :].tolist())
    return inside


def count(draws: int) -> list[NDArray[np.int64]]:
    """How often each outcome of each law came, in ``draws`` draws of it."""
    sampler = LaplaceSampler(GRIDS, entropy=os.urandom)
    tensor = TensorSpec(name="noise", shape=(1, ROWS, len(GRIDS)), dtype="float32")
    layout = lay_out([tensor])[0]
    rows = layout.tiled([index << FIRST_BITS for index in range(len(GRIDS))], np.uint16)
    noise, cells = np.empty(layout.size, np.int16), np.empty(layout.size, np.uint16)
    entropy_bytes = sampler.reserve_bytes([ROWS] * len(GRIDS))
    seen = [np.zeros(2 * grid.bound + 1, np.int64) for grid in GRIDS]
    for _ in range(math.ceil(draws / ROWS)):
        sampler.fetch(entropy_bytes)
        sampler.draw(noise, cells, rows, layout)
        for column, grid in enumerate(GRIDS):
            outcomes = noise.reshape(ROWS, -1)[:, column].astype(np.int64)
            seen[column] += np.bincount(outcomes + grid.bound, minlength=seen[column].size)
    return seen


def chi_square_p(seen: NDArray[np.int64], expected: NDArray[np.float64]) -> float:
    """Rare outcomes are pooled; the bins are made odd, because an even number of degrees has a closed form."""
    common = np.flatnonzero(expected >= 40)
    common = common[: (common.size - 1) // 2 * 2]
    bins = np.append(seen[common], seen.sum() - seen[common].sum())
    means = np.append(expected[common], expected.sum() - expected[common].sum())
    half = float(((bins - means) ** 2 / means).sum()) / 2
    return min(1.0, sum(math.exp(k * math.log(half) - math.lgamma(k + 1) - half) for k in range(common.size // 2)))


def tail_exponent(often: int, draws: int, probability: float) -> float:
    """A count this far off has a probability of at most 2·exp(-this) (Chernoff)."""
    share = often / draws
    pairs = ((share, probability), (1 - share, 1 - probability))
    return draws * sum(a * math.log(a / b) for a, b in pairs if a > 0)


def judge(grid: Grid, seen: NDArray[np.int64]) -> Verdict:
    """The counts of one law against its formula."""
    law = probabilities(grid)
    draws = int(seen.sum())
    below, cdf = np.cumsum(seen)[:-1], np.cumsum(law)[:-1]
    above, tails = seen[::-1].cumsum()[:-1], law[::-1].cumsum()[:-1]
    pairs = [*zip(below.tolist(), cdf.tolist(), strict=True), *zip(above.tolist(), tails.tolist(), strict=True)]
    small = [(often, probability) for often, probability in pairs if probability <= 0.5]
    return Verdict(
        name=f"discrete Laplace, epsilon {grid.epsilon:g} over {grid.steps} steps",
        draws=draws,
        p_value=chi_square_p(seen, law * draws),
        worst_tail=max(tail_exponent(often, draws, probability) for often, probability in small),
        allowed=math.log(2 * len(pairs) * len(GRIDS) / SIGNIFICANCE),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line a law, or everything as JSON, and the claims as the last line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.privacy.sampler_draws",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--draws", type=int, default=100_000_000, help="draws of each law (default: 10^8)")
    parser.add_argument("--json", action="store_true", help="rows as one JSON line instead of a table")
    options = parser.parse_args(arguments)
    started_s = time.monotonic()
    verdicts = [judge(grid, seen) for grid, seen in zip(GRIDS, count(options.draws), strict=True)]
    machine = {"machine": platform.machine(), "python": platform.python_version(), "numpy": np.__version__}
    rows = [
        {
            "name": verdict.name,
            "draws": verdict.draws,
            "chi_square_p": float(f"{verdict.p_value:.4g}"),
            "worst_tail_exponent": round(verdict.worst_tail, 2),
            "allowed": round(verdict.allowed, 2),
        }
        for verdict in verdicts
    ]
    if options.json:
        print(json.dumps({"machine": machine, "seconds": round(time.monotonic() - started_s, 1), "rows": rows}))
    else:
        for row in rows:
            print("  ".join(f"{key}={value}" for key, value in row.items()))
    claim = {
        "name": f"laws that {verdicts[0].draws} draws of each do not contradict, of {len(verdicts)}",
        "value": sum(verdict.holds for verdict in verdicts),
        "goal": f"= {len(verdicts)}, at significance {SIGNIFICANCE:g}",
        "holds": all(verdict.holds for verdict in verdicts),
    }
    print(json.dumps({"claims": [claim]}))
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
