"""Errors of outputs in units of how much they vary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from split_model.bundle import Manifest, OutputSchema, TensorSpec, TopK
from split_model.bundle.validation import check_answer_schema
from split_model.errors import BadBundleError
from split_model.prepare.calibrate.calibration import CalibrationOptions, CutModels, calibrate
from split_model.prepare.outputs import Spread, output_weights, squared_errors


def spread_of(*samples):
    spread = Spread()
    for sample in samples:
        spread.add(sample)
    return spread


@given(arrays.arrays(np.float64, (7, 3), elements=st.floats(-1e3, 1e3)))
def test_scales_are_the_variances_of_numpy(rows):
    spread = spread_of(*([row, 2 * row + 5] for row in rows))
    variance = float(rows.var(axis=0).sum())
    if variance > 1e-6 * float((rows**2).sum() + 1):
        assert spread.scales == pytest.approx([variance, 4 * variance], rel=1e-6)


def test_an_answer_of_the_average_has_error_one():
    rows = np.random.default_rng(0).normal(1000.0, 3.0, (40, 5))
    spread = spread_of(*([row] for row in rows))
    errors = [spread.error(squared_errors([rows.mean(axis=0)], [row])) for row in rows]
    assert np.mean(errors) == pytest.approx(1.0)
    assert spread.error(squared_errors([rows[0]], [rows[0]])) == 0.0


def test_an_output_that_does_not_vary_is_measured_by_its_size():
    assert spread_of([np.array([3.0, 4.0])]).scales == [25.0]
    assert spread_of(*([np.array([0.1, 0.0])],) * 9).scales == pytest.approx([0.01])
    assert spread_of([np.zeros(2)]).scales[0] > 0


def test_weights_do_not_depend_on_the_units_of_an_output(builder):
    """One channel drives landmarks around 1000, the other a logit; both make their output vary alike."""
    build = builder()
    image = build.tensor([1, 2], name="image")
    outputs = []
    for matrix, bias in (([[50.0, 0.0]], 1000.0), ([[0.0, 0.1]], 0.0)):
        weights = build.tensor([1, 2], np.array(matrix, np.float32))
        outputs.append(build.op("FULLY_CONNECTED", [image, weights, build.tensor([1], np.float32([bias]))], [1, 1]))
    spec = TensorSpec(name="image", shape=(1, 2), dtype="float32")
    cut = CutModels(index=0, head=None, tail=build.build([image], outputs), tensors=(spec,))
    samples = [(np.random.default_rng(seed).uniform(0, 1, (1, 2)).astype(np.float32),) for seed in range(200)]
    (found,) = calibrate([cut], samples, options=CalibrationOptions(threads=1))[0]
    first, second = found.weight
    assert first == pytest.approx(second, rel=0.3)


def manifest(outputs=2, **fields):
    spec = TensorSpec(name="y", shape=(1, 3), dtype="float32")
    return Manifest(
        format=1, name="m", ops=1, macs=1, model=None, inputs=(), outputs=(spec,) * outputs, cuts=(), **fields
    )


def schema(*weights):
    return tuple(
        OutputSchema(name=f"y{at}", shape=(3,), meaning="", weight=weight) for at, weight in enumerate(weights)
    )


def test_what_counts_is_the_answer_or_what_the_schema_says():
    assert output_weights(manifest()) == (1.0, 1.0)
    assert output_weights(manifest(answer=TopK(output=1))) == (0.0, 1.0)
    assert output_weights(manifest(answer_schema=schema(1.0, 0.05))) == (1.0, 0.05)


def test_an_error_counts_by_the_weight_of_its_output():
    rows = np.random.default_rng(0).normal(0, 1, (50, 2, 4))
    spread = Spread((3.0, 1.0))
    for row in rows:
        spread.add(list(row))
    scales = spread.scales
    assert spread.error([scales[0], 0.0]) == pytest.approx(0.75)
    assert spread.error([0.0, scales[1]]) == pytest.approx(0.25)


@pytest.mark.parametrize("weights", [(0.0, 0.0), (-1.0, 2.0), (float("nan"), 1.0), (float("inf"), 1.0)])
def test_weights_that_mean_nothing_are_refused(weights):
    with pytest.raises(BadBundleError, match="weights"):
        check_answer_schema("here", manifest(answer_schema=schema(*weights)))
