"""Chooses how much of each channel to clip: of a few quantiles the one that loses least under the release.

The noise is in proportion to the clip width, so a narrow range has less noise and loses more at its ends. Which
weighs more depends on the cut. So each quantile is measured, on calibration samples, as allocations are: through
release and tail, with noise from a seeded generator, and compared with what the tail answers to the features as
they are. Every sample goes through ranges that were learned without its picture: a range loses little of what it
was learned from, and least of all where a channel has few values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from split_model.arrays import Array
from split_model.bundle.manifest import ChannelCalibration, TensorSpec
from split_model.errors import BadInputError
from split_model.interpreter import Interpreter
from split_model.prepare.outputs import Spread, real_outputs, squared_errors
from split_model.privacy import NoisePlan, NoiseRelease, NoiseSpec, default_bits, recover

#: Candidates, widest first. Below the last, what clipping loses differs too much from picture to picture.
LADDER = (0.995, 0.99, 0.98, 0.97)
#: Samples that each candidate is tried on; a sample is a picture or a crop of one.
TRIED = 24
#: A narrower range has to lose less by this share, for it is the one that may clip what other pictures need.
_MARGIN = 0.03

Found = tuple[ChannelCalibration, ...]


def choose_clip(
    candidates: Mapping[float, Sequence[Found]],
    tensors: Sequence[TensorSpec],
    features: Sequence[tuple[int, Sequence[Array]]],
    tail: Interpreter,
    *,
    epsilon: float,
    output_weights: Sequence[float] | None,
    key: tuple[int, ...],
    advance: Callable[[], None],
) -> float:
    """The quantile that loses least.

    Args:
        candidates: By quantile, widest first, the calibrations that it gives on several parts of the samples.
        tensors: What crosses the cut.
        features: Of each sample which of these calibrations it goes through, and the values that the head gives.
        tail: From features to outputs.
        epsilon: Mean per value, of the release that is meant.
        output_weights: How much each of several outputs counts; alike where it is None.
        key: Seeds the noise.
        advance: Called after each run of the tail.

    Returns:
        One of the candidates; the widest where noise cannot release these tensors.

    """
    spec = NoiseSpec(epsilon=epsilon, allocation="optimal", bits=default_bits(epsilon))
    try:
        plans = {
            quantile: [NoisePlan.make(spec, tensors, one) for one in found]
            for quantile, found in candidates.items()
        }
    except BadInputError:
        return next(iter(candidates))
    spread = Spread(None if output_weights is None else tuple(output_weights))
    truth = []
    for _, sample in features:
        truth.append(real_outputs(tail, sample))
        spread.add(truth[-1])
        advance()
    best, least = next(iter(candidates)), np.inf
    for quantile, made in plans.items():
        # The same bits for each: what differs is the clipping alone.
        entropy = np.random.default_rng(key).bytes
        releases = [NoiseRelease(plan, entropy=entropy) for plan in made]
        errors = []
        for (part, sample), known in zip(features, truth, strict=True):
            recovered = recover(made[part], releases[part](sample))
            errors.append(squared_errors(real_outputs(tail, recovered), known))
            advance()
        error = spread.error(np.mean(errors, axis=0).tolist())
        if error < least * (1 - _MARGIN):
            best, least = quantile, error
    return best
