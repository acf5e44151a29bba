"""A statistical audit through the payload bytes: the claim holds, and bugs planted on purpose are found.

Two extreme inputs are released many times. For an event fixed in advance, pure ε-DP says
P(event | one) ≤ exp(ε)·P(event | other); Clopper–Pearson bounds on both probabilities give a lower
bound on the true ε that is wrong with probability at most 1e-6 over all events together. `tests/benchmarks`
does the same through a real connection, with events that are learned.
"""

from __future__ import annotations

import dataclasses
import math
import os
import random

import msgspec
import numpy as np

from split_model.audit import at_least, at_most
from split_model.bundle import ChannelCalibration, TensorSpec
from split_model.privacy import NoisePlan, NoiseRelease, NoiseSpec
from split_model.privacy.packing import unpack

TENSOR = TensorSpec(name="tiny", shape=(1, 2), dtype="float32")
CALIBRATION = ChannelCalibration(clip_low=(0.0, -1.0), clip_high=(1.0, 1.0), rank=(1.0, 1.0), weight=(1.0, 1.0))
PLAN = NoisePlan.make(NoiseSpec(epsilon=0.5, allocation="uniform"), [TENSOR], [CALIBRATION])
TRIALS = 12_000
ERROR = 1e-6


def observe(release, values):
    """int [TRIALS, 2]: what an eavesdropper reads off the payloads."""
    feature = np.array([values], np.float32)
    payloads = b"".join(release([feature.copy()]).tobytes() for _ in range(TRIALS))
    seen = [
        unpack(np.frombuffer(payloads[at : at + PLAN.payload_bytes], np.uint8), 2, 8)
        for at in range(0, len(payloads), PLAN.payload_bytes)
    ]
    return np.array(seen).astype(int)


def events(seen, first):
    """Which of the fixed events each observation is; ``first`` is one more observation, of its own."""
    grid = PLAN.classes[0]
    low, high = seen <= grid.tail, seen >= grid.tail + grid.steps
    return {
        "both high": high.all(axis=1),
        "both low": low.all(axis=1),
        "first high": high[:, 0],
        "second high": high[:, 1],
        "first low": low[:, 0],
        "second low": low[:, 1],
        "as the first frame": (seen == first).all(axis=1),
    }


def epsilon_lower_bound(one, other):
    """Largest ε that the two sets of observations prove, and by which event."""
    ups, downs = events(one[1:], one[0]), events(other[1:], one[0])
    trials = TRIALS - 1
    error = ERROR / (4 * len(ups))
    best = (0.0, "none")
    for name in ups:
        for up, down in ((ups, downs), (downs, ups)):
            rare = at_most(int(down[name].sum()), trials, error)
            often = at_least(int(up[name].sum()), trials, error)
            if often > 0:
                best = max(best, (math.log(often / rare), name))
    return best


def audit(release, one=(0.0, -1.0), other=(1.0, 1.0)):
    return epsilon_lower_bound(observe(release, one), observe(release, other))


def test_the_claims_hold_and_are_tight():
    release = NoiseRelease(PLAN, entropy=os.urandom)
    whole, _ = audit(release)
    assert whole <= PLAN.whole_input_epsilon == 1.0
    assert whole > 0.6 * PLAN.whole_input_epsilon  # the audit is worth its name
    per_value, _ = audit(release, (0.0, 1.0), (1.0, 1.0))
    assert per_value <= PLAN.per_value_epsilon_max == 0.5


def test_infinities_and_nan_gain_nothing():
    found, _ = audit(NoiseRelease(PLAN, entropy=os.urandom), (np.nan, -np.inf), (np.inf, 3e38))
    assert 0.6 < found <= PLAN.whole_input_epsilon


def test_half_the_noise_is_found():
    loud = tuple(msgspec.structs.replace(grid, epsilon=2 * grid.epsilon) for grid in PLAN.classes)
    found, _ = audit(NoiseRelease(dataclasses.replace(PLAN, classes=loud), entropy=os.urandom))
    assert found > PLAN.whole_input_epsilon


def test_a_channel_left_out_is_found():
    """Its noise is next to nothing: 0 but for once in e^1000 draws."""
    grid = PLAN.classes[PLAN.class_of[0][0]]
    silent = msgspec.structs.replace(grid, epsilon=1000.0 * grid.steps)
    planted = dataclasses.replace(PLAN, classes=(grid, silent), class_of=((0, 1),))
    found, event = audit(NoiseRelease(planted, entropy=os.urandom))
    assert found > 5 * PLAN.whole_input_epsilon
    assert "second" in event or "both" in event


def test_noise_that_repeats_is_found():
    release = NoiseRelease(PLAN, entropy=lambda count: random.Random(1).randbytes(count))
    found, _ = audit(release)
    assert found > 5 * PLAN.whole_input_epsilon
