"""What each clip quantile, and the chosen one, cost EfficientNet-Lite0 on pictures that calibrated nothing.

usage: python -m benchmarks.privacy.clipping --pictures DIR [--draws N] [--json]

The bundle is calibrated on 14 photographs of things. Every picture of DIR (`python -m models.photographs.gcompris`
has 220) goes through head, default release and tail at each cut, with the clip range at each quantile of the ladder
and as the bundle has it. Told are the error of the outputs, in units of their variance, and the agreement with the
unsplit model: of all pictures, and of those of which the unsplit model is sure (at least 0.3 for its best class).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.privacy.bundles import efficientnet, photographs
from split_model.arrays import Array
from split_model.bundle import Bundle, ChannelCalibration, Cut
from split_model.errors import SplitModelError
from split_model.features.data import open_data
from split_model.interpreter import open_interpreter
from split_model.prepare.calibrate.augmentation import calibration_samples
from split_model.prepare.calibrate.clip_choice import LADDER
from split_model.prepare.calibrate.statistics import ChannelStatistics
from split_model.prepare.outputs import real_outputs
from split_model.privacy import NoisePlan, NoiseRelease, NoiseSpec, recover, settle
from split_model.privacy.plan import DEFAULT_BITS, DEFAULT_EPSILON

#: Cut 0 is not offered by default.
_EARLIEST = 1
_SURE = 0.3
_VALUES = 8192
#: The chosen quantile may lose this much more than the best of the ladder.
_SLACK = 1.05


@dataclass(frozen=True)
class Row:
    """One clip range at one cut; ``quantile`` is None for the bundle's own."""

    cut: int
    quantile: float | None
    error: float
    agreement: float
    agreement_sure: float


@dataclass(frozen=True)
class Pictures:
    """Inputs, and the unsplit model's answers to them."""

    inputs: Sequence[tuple[Array, ...]]
    logits: NDArray[np.float64]

    @property
    def sure(self) -> NDArray[np.bool_]:
        """Which pictures the unsplit model is sure of."""
        powers = np.exp(self.logits - self.logits.max(axis=1, keepdims=True))
        found: NDArray[np.bool_] = powers.max(axis=1) / powers.sum(axis=1) >= _SURE
        return found


def measure(bundle: Bundle, pictures: Pictures, draws: int) -> Iterator[Row]:
    """Return all rows, cut after cut."""
    public = open_data(photographs() / "things", bundle.manifest.inputs, bundle.manifest.preprocess)
    samples = calibration_samples(public)
    for cut in bundle.manifest.cuts:
        if cut.index >= _EARLIEST and cut.head is not None and cut.calibration is not None:
            yield from _of_cut(bundle, cut, samples, pictures, draws)


def _of_cut(
    bundle: Bundle, cut: Cut, samples: Sequence[tuple[Array, ...]], pictures: Pictures, draws: int
) -> Iterator[Row]:
    assert cut.head is not None
    assert cut.calibration is not None
    head, tail = open_interpreter(bundle.path(cut.head)), open_interpreter(bundle.path(cut.tail))
    (tensor,), (own,) = cut.tensors, cut.calibration
    seen = ChannelStatistics(
        tensor, where=f"cut {cut.index}", key=(0, cut.index, 0), take=-(-_VALUES // len(samples)), rank_samples=1
    )
    for index, sample in enumerate(samples):
        seen.add(index, head.run(sample)[0])
    features = [head.run(one) for one in pictures.inputs]
    ranges: dict[float | None, ChannelCalibration] = {None: own}
    for quantile in LADDER:
        low, high = seen.clip_range(quantile)
        ranges[quantile] = ChannelCalibration(
            clip_low=tuple(low), clip_high=tuple(high), rank=own.rank, weight=own.weight
        )
    allocation = settle("auto", cut, DEFAULT_EPSILON)
    spec = NoiseSpec(epsilon=DEFAULT_EPSILON, allocation=allocation, bits=DEFAULT_BITS)
    best, scale = pictures.logits.argmax(axis=1), pictures.logits.var(axis=0).sum()
    for used, calibration in ranges.items():
        plan = NoisePlan.make(spec, cut.tensors, [calibration])
        release = NoiseRelease(plan, entropy=os.urandom)
        agreed, errors = [], []
        for _ in range(draws):
            found = np.array([real_outputs(tail, recover(plan, release(one)))[0].ravel() for one in features])
            agreed.append(found.argmax(axis=1) == best)
            errors.append(((found - pictures.logits) ** 2).sum(axis=1).mean() / scale)
        same = np.mean(agreed, axis=0)
        yield Row(cut.index, used, float(np.mean(errors)), float(same.mean()), float(same[pictures.sure].mean()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line a cut and clip range, and the claims as the last line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.privacy.clipping",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pictures", type=Path, required=True, metavar="DIR", help="pictures to measure on")
    parser.add_argument("--draws", type=int, default=1, help="releases of each picture (default: 1)")
    parser.add_argument("--json", action="store_true", help="rows as JSON lines instead of a table")
    options = parser.parse_args(arguments)
    try:
        return _tell(options)
    except SplitModelError as error:
        print(f"clipping: {error}", file=sys.stderr)
        return error.exit_code


def _tell(options: argparse.Namespace) -> int:
    bundle = efficientnet(pictures="things")
    data = open_data(options.pictures, bundle.manifest.inputs, bundle.manifest.preprocess)
    inputs = [sample.tensors for sample in data]
    whole = open_interpreter(bundle.path(bundle.manifest.model))
    pictures = Pictures(inputs, np.array([real_outputs(whole, one)[0].ravel() for one in inputs]))
    if not options.json:
        print(f"{len(inputs)} pictures, the unsplit model is sure of {pictures.sure.sum()}")
        print(f"{'cut':>4} {'quantile':>9} {'error':>7} {'agreement':>10} {'where sure':>11}")
    least: dict[int, float] = {}
    own: dict[int, float] = {}
    for row in measure(bundle, pictures, options.draws):
        if row.quantile is None:
            own[row.cut] = row.error
        else:
            least[row.cut] = min(row.error, least.get(row.cut, row.error))
        if options.json:
            print(json.dumps(row.__dict__), flush=True)
        else:
            name = "chosen" if row.quantile is None else f"{row.quantile:g}"
            print(
                f"{row.cut:>4} {name:>9} {row.error:>7.3f} {row.agreement:>10.3f} {row.agreement_sure:>11.3f}",
                flush=True,
            )
    near = [cut for cut, error in own.items() if error <= _SLACK * least[cut]]
    claim = {
        "name": f"cuts whose chosen clip range loses at most {_SLACK - 1:.0%} more than the best of the ladder, on "
        f"{len(inputs)} pictures that calibrated nothing",
        "value": len(near),
        "goal": f"= {len(own)}",
        "holds": len(near) == len(own),
    }
    print(json.dumps({"claims": [claim]}))
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
