"""A plan: what it promises, what it refuses, and that both sides can tell whether theirs is the same."""

from __future__ import annotations

import math
import subprocess
import sys
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from split_model.bundle import ChannelCalibration, TensorSpec
from split_model.errors import BadBundleError, BadInputError, ConfigError
from split_model.privacy import NoisePlan, NoiseSpec, PlanMaker

SPEC = NoiseSpec(epsilon=8.0, allocation="optimal", bits=6)
TENSOR = TensorSpec(name="features", shape=(1, 4, 4, 3), dtype="float32")
CALIBRATION = ChannelCalibration(
    clip_low=(0.0, -1.0, 0.0), clip_high=(4.0, 1.0, 9.0), rank=(1.0, 3.5, 4.0), weight=(1.0, 0.5, 2.0)
)
INT8 = TensorSpec(name="codes", shape=(1, 4, 4, 3), dtype="int8", scale=0.1, zero_point=-3)
DIGESTS = ["d723ef4f2a6cb859", "8f4c3c57778395fe", "d593eeb26a720818", "1f779c488a04977c"]
MANY = TensorSpec(name="wide", shape=(1, 2, 2, 40), dtype="float32")


def of_many():
    """Forty channels of unlike widths and weights, some of them at the floor."""
    each = range(40)
    return ChannelCalibration(
        clip_low=tuple(-0.25 * (at % 7) for at in each),
        clip_high=tuple(0.5 + at * at / 16 for at in each),
        rank=tuple(1.0 + at % 5 for at in each),
        weight=tuple(0.0 if at % 11 == 0 else 2.0 ** (at % 23 - 11) for at in each),
    )


def changed(record, **fields):
    return msgspec.structs.replace(record, **fields)


def test_what_a_plan_says():
    plan = NoisePlan.make(SPEC, [TENSOR], [CALIBRATION])
    assert plan.values == 48
    assert plan.payload_bytes == 36
    assert plan.per_value_epsilon_mean == pytest.approx(8.0)
    assert plan.per_value_epsilon_max > 8.0
    assert plan.whole_input_epsilon == pytest.approx(8.0 * 48)
    assert sum(part.values for part in plan.event().channels) == 48
    uniform = NoisePlan.make(changed(SPEC, allocation="uniform"), [TENSOR], [CALIBRATION])
    assert (uniform.per_value_epsilon_max, uniform.whole_input_epsilon) == (8.0, 384.0)


def test_tensors_of_one_cut_share_one_budget():
    wide = changed(CALIBRATION, clip_high=(40.0, 10.0, 90.0))
    plan = NoisePlan.make(SPEC, [TENSOR, TENSOR], [CALIBRATION, wide])
    first, second = plan.event().channels[:3], plan.event().channels[3:]
    assert sum(part.epsilon for part in second) > 3 * sum(part.epsilon for part in first)
    assert plan.whole_input_epsilon == pytest.approx(8.0 * 96)


@given(
    epsilon=st.floats(0.9, 1e5),
    allocation=st.sampled_from(["uniform", "rank", "optimal"]),
    bits=st.integers(4, 8),
    highs=st.lists(st.floats(0, 1e6), min_size=3, max_size=3),
    weights=st.lists(st.floats(0, 1e6), min_size=3, max_size=3),
)
def test_the_event_never_exceeds_the_budget(epsilon, allocation, bits, highs, weights):
    calibration = changed(CALIBRATION, clip_low=(0.0, 0.0, 0.0), clip_high=tuple(highs), weight=tuple(weights))
    plan = NoisePlan.make(NoiseSpec(epsilon=epsilon, allocation=allocation, bits=bits), [TENSOR], [calibration])
    spent = sum(part.values * Fraction(part.epsilon) for part in plan.event().channels)
    assert spent <= 48 * Fraction(epsilon)
    assert plan.per_value_epsilon_mean <= epsilon <= plan.per_value_epsilon_max * (1 + 1e-12)
    for index, part in zip(plan.class_of[0], plan.event().channels, strict=True):
        assert plan.classes[index].epsilon == part.epsilon  # what is charged is what the noise is drawn for


@given(
    specs=st.lists(
        st.builds(
            NoiseSpec,
            epsilon=st.floats(2.0, 1e3),
            allocation=st.sampled_from(["uniform", "rank", "optimal"]),
            bits=st.integers(4, 8),
        ),
        min_size=2,
        max_size=6,
    ),
    weights=st.lists(st.sampled_from([0.0, 1e-9, 1e-3, 1.0, 50.0]), min_size=3, max_size=3),
)
def test_a_maker_of_many_plans_makes_each_as_it_would_be_made_alone(specs, weights):
    calibration = changed(CALIBRATION, weight=tuple(weights))
    maker = PlanMaker([TENSOR], [calibration])
    for spec in specs:
        assert maker.make(spec) == NoisePlan.make(spec, [TENSOR], [calibration])


def test_plans_of_released_bundles_are_still_made_the_same():
    """Digests of the first version: a device of any age must find its plan on the server."""
    digests = [
        NoisePlan.make(NoiseSpec(epsilon=epsilon, allocation=allocation, bits=bits), [MANY], [of_many()]).digest
        for epsilon, allocation, bits in [
            (8.0, "optimal", 6),
            (1.7, "rank", 4),
            (64.0, "uniform", 8),
            (2.5, "optimal", 4),
        ]
    ]
    assert digests == DIGESTS


def test_the_digest_names_every_parameter():
    def digest(spec=SPEC, tensor=TENSOR, calibration=CALIBRATION):
        return NoisePlan.make(spec, [tensor], [calibration]).digest

    digests = [
        digest(),
        digest(spec=changed(SPEC, epsilon=math.nextafter(8.0, 9.0))),
        digest(spec=changed(SPEC, bits=7)),
        digest(spec=changed(SPEC, allocation="rank")),
        digest(spec=changed(SPEC, allocation="uniform")),
        digest(tensor=changed(TENSOR, shape=(1, 2, 8, 3))),
        digest(tensor=changed(TENSOR, dtype="float16")),
        digest(tensor=INT8),
        digest(tensor=changed(INT8, scale=math.nextafter(0.1, 1))),
        digest(tensor=changed(INT8, zero_point=-2)),
        digest(calibration=changed(CALIBRATION, clip_low=(0.0, -1.0, 1e-9))),
        digest(calibration=changed(CALIBRATION, clip_high=(4.0, math.nextafter(1.0, 2), 9.0))),
        digest(calibration=changed(CALIBRATION, weight=(1.0, 0.5, 2.1))),
        NoisePlan.make(SPEC, [TENSOR, TENSOR], [CALIBRATION, CALIBRATION]).digest,
    ]
    assert len(set(digests)) == len(digests)
    assert all(len(text) == 16 and int(text, 16) >= 0 for text in digests)
    assert digest() == digests[0]


def test_another_process_makes_the_same_plan():
    """Nothing depends on hash order or on the process."""
    code = (
        "from split_model.privacy import *; from split_model.bundle import *; import msgspec, sys;"
        "spec, tensors, calibration = msgspec.json.decode(sys.stdin.buffer.read(),"
        " type=tuple[NoiseSpec, list[TensorSpec], list[ChannelCalibration]]);"
        "print(NoisePlan.make(spec, tensors, calibration).digest)"
    )
    given_in = msgspec.json.encode((SPEC, [TENSOR], [CALIBRATION]))
    run = subprocess.run([sys.executable, "-c", code], input=given_in, capture_output=True, check=True)
    assert run.stdout.decode().strip() == NoisePlan.make(SPEC, [TENSOR], [CALIBRATION]).digest


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan, math.inf, 2.0**21])
def test_impossible_epsilon(epsilon):
    with pytest.raises(ConfigError, match="must be above 0 and at most"):
        NoiseSpec(epsilon=epsilon)


def test_an_epsilon_that_the_bits_cannot_carry():
    with pytest.raises(ConfigError, match=r"0.5 is too small for 4 bits a value, whose least .* 0.857"):
        NoiseSpec(epsilon=0.5, bits=4)
    assert NoisePlan.make(NoiseSpec(epsilon=0.05), [TENSOR], [CALIBRATION]).per_value_epsilon_max > 0.05


@pytest.mark.parametrize("fields", [{"bits": 3}, {"bits": 9}, {"allocation": "best"}])
def test_impossible_spec(fields):
    with pytest.raises(ConfigError):
        NoiseSpec(epsilon=8.0, **fields)


@pytest.mark.parametrize("dtype", ["int32", "int64", "bool"])
def test_a_dtype_that_cannot_be_released(dtype):
    with pytest.raises(BadInputError, match=f"'features' of dtype {dtype} cannot be released"):
        NoisePlan.make(SPEC, [changed(TENSOR, dtype=dtype)], [CALIBRATION])


@pytest.mark.parametrize("fields", [{"dtype": "int8"}, {"dtype": "uint8", "scale": math.nan}, {"shape": (1, 0, 3)}])
def test_a_tensor_that_cannot_be_released(fields):
    with pytest.raises(BadInputError, match="'features'"):
        NoisePlan.make(SPEC, [changed(TENSOR, **fields)], [CALIBRATION])


@pytest.mark.parametrize(
    "fields",
    [
        {"clip_low": (0.0, 0.0)},
        {"clip_high": (-1.0, 1.0, 1.0)},
        {"clip_high": (math.inf, 1.0, 1.0)},
        {"clip_low": (math.nan, 0.0, 0.0)},
        {"weight": (-1.0, 0.0, 0.0)},
        {"rank": (math.nan, 0.0, 0.0)},
    ],
)
def test_a_calibration_that_does_not_fit(fields):
    with pytest.raises(BadBundleError, match=r"'features'.*prepare the bundle again"):
        NoisePlan.make(SPEC, [TENSOR], [changed(CALIBRATION, **fields)])


def test_a_calibration_too_few():
    with pytest.raises(BadBundleError, match="1 calibrations for 2 tensors"):
        NoisePlan.make(SPEC, [TENSOR, TENSOR], [CALIBRATION])
