"""Features in, bytes out, features back: every dtype, every width, whatever the content."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from split_model.bundle import ChannelCalibration, TensorSpec
from split_model.errors import BadInputError, ProtocolError
from split_model.privacy import NoisePlan, NoiseRelease, NoiseSpec, recover
from split_model.privacy.packing import unpack

LOW, HIGH = (0.0, -2.0, 1.0), (6.0, 2.0, 1.0)  # the last channel has no width
CALIBRATION = ChannelCalibration(clip_low=LOW, clip_high=HIGH, rank=(1.0, 2.0, 3.0), weight=(1.0, 4.0, 2.0))
DTYPES = {
    "float32": TensorSpec(name="x", shape=(1, 5, 7, 3), dtype="float32"),
    "float16": TensorSpec(name="x", shape=(1, 5, 7, 3), dtype="float16"),
    "int8": TensorSpec(name="x", shape=(1, 5, 7, 3), dtype="int8", scale=0.05, zero_point=-28),
    "uint8": TensorSpec(name="x", shape=(1, 5, 7, 3), dtype="uint8", scale=0.04, zero_point=100),
    "int16": TensorSpec(name="x", shape=(1, 5, 7, 3), dtype="int16", scale=0.001, zero_point=0),
}
SILENT = 1e6  # so much ε that no noise is left: what comes back is the grid's own error


def plan_for(tensor, epsilon=16.0, bits=8, allocation="optimal", count=1):
    spec = NoiseSpec(epsilon=epsilon, bits=bits, allocation=allocation)
    return NoisePlan.make(spec, [tensor] * count, [CALIBRATION] * count)


def stored(tensor, real):
    if tensor.scale == 0:
        return real.astype(tensor.dtype)
    info = np.iinfo(tensor.dtype)
    return np.clip(np.rint(real / tensor.scale + tensor.zero_point), info.min, info.max).astype(tensor.dtype)


def read(tensor, array):
    real = array.astype(np.float64)
    return real if tensor.scale == 0 else tensor.scale * (real - tensor.zero_point)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [4, 5, 6, 7, 8])
def test_without_noise_only_clipping_and_the_grid_are_left(dtype, bits):
    tensor = DTYPES[dtype]
    plan = plan_for(tensor, SILENT, bits)
    feature = stored(tensor, np.random.default_rng(1).uniform(-4, 8, tensor.shape))
    payload = NoiseRelease(plan, entropy=os.urandom)([feature.copy()])
    assert payload.dtype == np.uint8
    assert payload.flags.c_contiguous
    assert payload.nbytes == plan.payload_bytes
    back = recover(plan, payload.tobytes())[0]
    assert back.shape == tensor.shape
    assert back.dtype == np.dtype(dtype)
    expected = np.clip(read(tensor, feature), LOW, HIGH)
    grid = np.array([plan.classes[index].steps for index in plan.class_of[0]])
    step = (np.array(HIGH) - LOW) / grid
    rounding = tensor.scale / 2 if tensor.scale else 0.005 if dtype == "float16" else 1e-5
    assert np.all(np.abs(read(tensor, back) - expected) <= step / 2 + rounding + 1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_noise_is_centred_and_of_the_promised_size(dtype):
    tensor = DTYPES[dtype]
    plan = plan_for(tensor, 24.0)
    release = NoiseRelease(plan, entropy=os.urandom)
    feature = stored(tensor, np.full(tensor.shape, 1.0))
    real = np.clip(read(tensor, feature), LOW, HIGH)
    back = np.stack([read(tensor, recover(plan, release([feature.copy()]))[0]) for _ in range(300)])
    error = (back - real).reshape(-1, 3)
    epsilon = np.array([plan.classes[index].epsilon for index in plan.class_of[0]])
    scale = (np.array(HIGH) - LOW) / epsilon
    count = error.shape[0]
    np.testing.assert_array_less(np.abs(error.mean(axis=0)), 6 * scale / np.sqrt(count) * 1.5 + 0.015)
    ratio = error[:, :2].var(axis=0) / (2 * scale[:2] ** 2)
    assert np.all(np.abs(ratio - 1) < 0.15)


def test_a_whole_cut_of_several_tensors_and_odd_sizes():
    tensors = [
        TensorSpec(name="a", shape=(1, 33, 67, 3), dtype="float32"),
        TensorSpec(name="b", shape=(1, 200, 100, 3), dtype="int8", scale=0.05, zero_point=-28),
        TensorSpec(name="c", shape=(3,), dtype="float16"),
    ]
    plan = NoisePlan.make(NoiseSpec(epsilon=SILENT, bits=5), tensors, [CALIBRATION] * 3)
    random = np.random.default_rng(2)
    features = [stored(tensor, random.uniform(-3, 7, tensor.shape)) for tensor in tensors]
    payload = NoiseRelease(plan, entropy=os.urandom)([feature.copy() for feature in features])
    for tensor, feature, back in zip(tensors, features, recover(plan, memoryview(payload)), strict=True):
        expected = np.clip(read(tensor, feature), LOW, HIGH)
        assert np.abs(read(tensor, back) - expected).max() < 6 / 20


@settings(max_examples=40)
@given(
    feature=hnp.arrays(np.float32, (1, 5, 7, 3), elements=st.floats(width=32, allow_nan=True, allow_infinity=True)),
    bits=st.integers(4, 8),
)
def test_length_and_range_hold_whatever_the_content(feature, bits):
    plan, release = ready(bits)
    payload = release([feature.copy()])
    assert payload.nbytes == plan.payload_bytes
    back = recover(plan, payload)[0]
    for channel, index in enumerate(plan.class_of[0]):
        grid = plan.classes[index]
        step = (HIGH[channel] - LOW[channel]) / grid.steps
        values = back[..., channel]
        assert np.isfinite(values).all()
        assert values.min() >= LOW[channel] - grid.tail * step - 1e-5
        assert values.max() <= LOW[channel] + (grid.wire_max - grid.tail) * step + 1e-5


READY = {}


def ready(bits):
    """A release per width, made once: its tables are the slow part."""
    if bits not in READY:
        plan = plan_for(DTYPES["float32"], 4.0, bits)
        READY[bits] = (plan, NoiseRelease(plan, entropy=os.urandom))
    return READY[bits]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_nan_is_the_low_end_and_infinities_are_the_ends(dtype):
    tensor = DTYPES[dtype]
    plan = plan_for(tensor, SILENT)
    feature = np.full(tensor.shape, np.nan, dtype)
    feature[0, 1], feature[0, 2], feature[0, 3] = np.inf, -np.inf, np.finfo(dtype).max
    back = recover(plan, NoiseRelease(plan, entropy=os.urandom)([feature]))[0][0]
    for row, end in enumerate((LOW, HIGH, LOW, HIGH, LOW)):
        np.testing.assert_allclose(back[row], np.broadcast_to(end, back[row].shape), atol=1e-2)


def test_noise_reaches_beyond_the_clip_range():
    """Clamping to the clip range would bias a network; the wire carries the tails."""
    plan = plan_for(DTYPES["float32"], 2.0, allocation="uniform")
    release = NoiseRelease(plan, entropy=os.urandom)
    back = np.concatenate([recover(plan, release([np.zeros((1, 5, 7, 3), np.float32)]))[0] for _ in range(100)])
    assert 0.35 < (back[..., 0] < 0).mean() < 0.6
    assert abs(back[..., 0].mean()) < 0.5


def test_every_frame_has_fresh_noise_and_a_buffer_of_its_own():
    plan = plan_for(DTYPES["float32"])
    release = NoiseRelease(plan, entropy=os.urandom)
    feature = np.ones((1, 5, 7, 3), np.float32)
    first = release([feature.copy()])
    kept = first.tobytes()
    second = release([feature.copy()])
    assert not np.shares_memory(first, second)
    assert first.tobytes() == kept != second.tobytes()


def test_views_and_read_only_features_are_taken():
    plan = plan_for(DTYPES["float32"], SILENT)
    feature = np.random.default_rng(0).uniform(0, 5, (1, 7, 5, 3)).astype(np.float32).transpose(0, 2, 1, 3)
    feature.flags.writeable = False
    back = recover(plan, NoiseRelease(plan, entropy=os.urandom)([feature]))[0]
    assert np.abs(back - np.clip(feature, LOW, HIGH)).max() < 0.02


@pytest.mark.parametrize(
    "features",
    [
        [],
        [np.zeros((1, 5, 7, 3), np.float64)],
        [np.zeros((1, 7, 5, 3), np.float32)],
        [np.zeros((1, 5, 7, 3), np.float32)] * 2,
    ],
)
def test_other_features_than_planned_are_refused(features):
    with pytest.raises(BadInputError, match="the plan needs"):
        NoiseRelease(plan_for(DTYPES["float32"]), entropy=os.urandom)(features)


@pytest.mark.parametrize("off", [-1, 1])
def test_a_payload_of_another_length_is_refused(off):
    plan = plan_for(DTYPES["float32"])
    with pytest.raises(ProtocolError, match="features of"):
        recover(plan, bytes(plan.payload_bytes + off))


def test_any_payload_of_the_right_length_can_be_recovered():
    for bits in range(4, 9):
        for dtype in DTYPES.values():
            plan = plan_for(dtype, bits=bits)
            for payload in (bytes(plan.payload_bytes), b"\xff" * plan.payload_bytes):
                assert np.isfinite(recover(plan, payload)[0].astype(np.float64)).all()


@pytest.mark.parametrize("bits", [4, 5, 6, 7, 8])
@pytest.mark.parametrize("ones", [False, True])
def test_the_farthest_noise_ends_at_the_rim_of_the_wire_range(bits, ones):
    """Entropy of all zeros (ones) is the farthest noise there is: no sum may wrap round or spill over."""
    plan = plan_for(DTYPES["float32"], 4.0, bits)
    release = NoiseRelease(plan, entropy=lambda count: (b"\xff" if ones else b"\x00") * count)
    for level in (-100.0, 1.5, 100.0):
        wire = unpack(release([np.full((1, 5, 7, 3), level, np.float32)]), plan.values, bits)
        assert set(wire.tolist()) == {(1 << bits) - 1 if ones else 0}
