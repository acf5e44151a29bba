"""Chooses the clip quantile of a cut: the candidate that loses least under the release.

The noise is in proportion to the clip width, so a narrow range has less noise but loses more at its ends. The
better choice depends on the cut. So each quantile is measured on calibration samples, as allocations are: through
release and tail, with noise from a seeded generator, compared with the tail's answers to the unprotected features.
Every sample is clipped to ranges that were learned without its picture: a range clips little of its own pictures,
least of all if a channel has few values.
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

#: Candidates, widest first. Below the last, the loss by clipping varies too much between pictures.
LADDER = (0.995, 0.99, 0.98, 0.97)
#: Number of samples for each candidate; a sample is a picture or a crop of one.
TRIED = 24
#: A narrower range has to lose less by this share, as it may clip features of other pictures.
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
    """Choose the quantile that loses least.

    Args:
        candidates: The calibrations on several parts of the samples, by quantile, widest first.
        tensors: The live tensors at the cut.
        features: For each sample, the index of its calibration and the head's values.
        tail: The function from features to outputs.
        epsilon: Mean per-value epsilon of the intended release.
        output_weights: Weight of each output; None: equal weights.
        key: Seeds the noise.
        advance: Called after each run of the tail.

    Returns:
        One of the candidates; the widest if noise cannot be added to these tensors.

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
        # The same random bits for each: only the clipping differs.
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
