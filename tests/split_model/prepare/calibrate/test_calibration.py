"""Calibration against models whose ranges, ranks and gradients are known on paper."""

from dataclasses import replace

import numpy as np
import pytest

from split_model.bundle import ImagePreprocess, TensorSpec
from split_model.errors import BadInputError, BadModelError, UsageError
from split_model.features.data import open_data
from split_model.prepare.calibrate.augmentation import calibration_samples, random_crop
from split_model.prepare.calibrate.calibration import CalibrationOptions, CutModels, calibrate
from split_model.prepare.calibrate.clip_choice import LADDER
from split_model.prepare.calibrate.statistics import channel_ranks, widened

SPEC = TensorSpec(name="image", shape=(1, 8, 8, 3), dtype="float32")
ONE = CalibrationOptions(threads=1, quantile=0.99)


def samples(count=20, seed=0, spec=SPEC):
    rng = np.random.default_rng(seed)
    scales = np.arange(1, spec.shape[-1] + 1)
    return [(rng.normal(size=spec.shape) * scales).astype(np.float32).reshape(spec.shape) for _ in range(count)]


def inputs(count=20, **options):
    return [(one,) for one in samples(count, **options)]


def pointwise(builder, kernel):
    """image [1, 8, 8, in] -> CONV 1x1 with this kernel [out, in]; its Jacobian is the kernel at every pixel."""
    build = builder()
    image = build.tensor([1, 8, 8, kernel.shape[1]], name="image")
    weights = build.tensor([kernel.shape[0], 1, 1, kernel.shape[1]], kernel.astype(np.float32)[:, None, None])
    bias = build.tensor([kernel.shape[0]], np.zeros(kernel.shape[0], np.float32))
    out = build.op("CONV_2D", [image, weights, bias], [1, 8, 8, kernel.shape[0]])
    return build.build([image], [out])


KERNEL = np.array([[1.0, 0.0, 3.0], [2.0, 0.0, -1.0]])


@pytest.fixture(scope="module")
def cut(builder):
    return CutModels(0, None, pointwise(builder, KERNEL), (SPEC,))


def test_weights_are_the_mean_squared_gradient_per_value(cut):
    (found,) = calibrate([cut], inputs(), options=ONE)[0]
    np.testing.assert_allclose(found.weight, (KERNEL**2).sum(axis=0), rtol=1e-4, atol=1e-6)


def test_weights_of_a_dense_layer_average_over_a_channels_values(builder):
    """Now outputs mix all pixels: E ||J d s||^2 = d^2 sum ||J_i||^2 holds in the mean over many random signs."""
    build = builder(seed=5)
    image = build.tensor([1, 8, 8, 3], name="image")
    flat = build.op("RESHAPE", [image, build.tensor([2], np.array([1, 192], np.int32), dtype="int32")], [1, 192])
    matrix = build.rng.normal(size=(40, 192)).astype(np.float32) * np.tile([1.0, 2.0, 0.5], 64).astype(np.float32)
    weights = build.tensor([40, 192], matrix)
    data = build.build([image], [build.op("FULLY_CONNECTED", [flat, weights, -1], [1, 40])])
    options = replace(ONE, weight_samples=16)
    (found,) = calibrate([CutModels(0, None, data, (SPEC,))], inputs(), options=options)[0]
    expected = (matrix.reshape(40, 64, 3) ** 2).sum(axis=0).mean(axis=0)
    np.testing.assert_allclose(found.weight, expected, rtol=0.15)


def test_clip_ranges_are_quantiles_of_each_channel(cut):
    options = replace(ONE, quantile=0.9, values=10_000)
    (found,) = calibrate([cut], inputs(), options=options)[0]
    rows = np.concatenate(samples()).reshape(-1, 3)
    np.testing.assert_allclose(found.clip_low, np.quantile(rows, 0.1, axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.clip_high, np.quantile(rows, 0.9, axis=0), rtol=1e-5)


def test_quantiles_over_a_part_of_the_values_are_close_to_those_over_all(cut):
    whole, part = (
        calibrate([cut], inputs(40), options=replace(ONE, values=values))[0][0] for values in (10_000, 1500)
    )
    assert whole.clip_high != part.clip_high
    np.testing.assert_allclose(part.clip_high, whole.clip_high, rtol=0.2)


def tailed(share, count=40):
    """Values that are zero but for a share of ones: what clips these loses all."""
    rng = np.random.default_rng(7)
    return [((rng.random(SPEC.shape) < share).astype(np.float32),) for _ in range(count)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (inputs(40), 0.98),  # of a bell curve the ends hold little, and the noise falls with the width
        (tailed(0.0075), LADDER[0]),
        (tailed(0.05), LADDER[0]),  # all of the ladder is one range, and the widest stands for it
    ],
    ids=["bell", "rare", "common"],
)
def test_the_clip_quantile_is_the_one_that_loses_least_under_the_release(cut, data, expected):
    options = replace(ONE, values=10_000)
    found, wanted = (
        calibrate([cut], data, options=replace(options, quantile=quantile))[0][0] for quantile in (None, expected)
    )
    assert (found.clip_low, found.clip_high) == (wanted.clip_low, wanted.clip_high)


def test_choosing_the_clip_quantile_counts_as_progress(cut):
    seen = []
    calibrate([cut], inputs(), options=replace(ONE, quantile=None), progress=lambda *step: seen.append(step))
    total = 20 + 4 * (3 + 1) + 20 * (1 + len(LADDER))
    assert seen == [(done, total) for done in range(1, total + 1)]


def test_a_channel_that_never_moves_gets_a_tiny_range_around_its_value(cut):
    still = samples()
    for one in still:
        one[..., 1] = 5.0
    (found,) = calibrate([cut], [(one,) for one in still], options=ONE)[0]
    assert found.clip_low[1] < 5.0 < found.clip_high[1]
    assert found.clip_high[1] - found.clip_low[1] < 0.02
    assert np.isfinite(found.weight).all()
    still = [(np.zeros_like(one),) for one in still]
    (found,) = calibrate([cut], still, options=ONE)[0]
    assert all(low < 0 < high for low, high in zip(found.clip_low, found.clip_high, strict=True))


def test_ranges_are_not_empty_even_for_huge_values_and_quantised_steps():
    low, high = widened(np.array([1e9, 0.0]), np.array([1e9, 1.0]))
    assert float(f"{low[0]:.7g}") < float(f"{high[0]:.7g}")
    low, high = widened(np.zeros(2), np.zeros(2), least=0.5)
    assert (high - low == 0.5).all()


def test_ranks_are_those_of_the_maps():
    maps = np.zeros((1, 6, 5, 4), np.float32)
    maps[0, :, :, 1] = np.outer(np.arange(1, 7), np.arange(1, 6))
    maps[0, :, :, 2] = np.random.default_rng(0).normal(size=(6, 5))
    maps[0, 2, 3, 3] = 1.0
    assert channel_ranks(maps).tolist() == [0, 1, 5, 1]
    assert channel_ranks(np.zeros((1, 7), np.float32)).tolist() == [1] * 7


def test_mean_rank_is_a_mean_over_samples(cut):
    flat = np.ones(SPEC.shape, np.float32)
    (found,) = calibrate([cut], [(flat,), *inputs(1)], options=ONE)[0]
    assert found.rank == (4.5, 4.5, 4.5)


def test_threads_and_repeats_change_nothing_but_the_seed_does(builder, cut):
    cuts = [cut, replace(cut, index=3, head=pointwise(builder, np.eye(3))), replace(cut, index=5)]
    options = replace(ONE, values=100)
    alone, together = (calibrate(cuts, inputs(), options=replace(options, threads=n)) for n in (1, 3))
    assert alone == together
    assert list(alone) == [0, 3, 5]
    assert calibrate(cuts, inputs(), options=replace(options, seed=1)) != alone


def test_a_quantised_cut_is_calibrated_in_real_units(builder):
    build = builder()
    stored = TensorSpec(name="q", shape=(1, 8, 8, 3), dtype="int8", scale=0.05, zero_point=10)
    q = build.tensor([1, 8, 8, 3], dtype="int8", scale=[0.05], zero_point=[10], name="q")
    tail = build.build([q], [build.op("DEQUANTIZE", [q], [1, 8, 8, 3])])
    steps = [(np.random.default_rng(i).integers(-30, 50, stored.shape).astype(np.int8),) for i in range(10)]
    (found,) = calibrate([CutModels(0, None, tail, (stored,))], steps, options=replace(ONE, quantile=1.0))[0]
    np.testing.assert_allclose(found.clip_low, [-2.0] * 3, rtol=1e-5)
    np.testing.assert_allclose(found.clip_high, [1.95] * 3, rtol=1e-5)
    np.testing.assert_allclose(found.weight, [1.0] * 3, rtol=1e-3)


def test_several_live_tensors_each_get_theirs(builder):
    build = builder()
    left, right = build.tensor([1, 8, 8, 3], name="left"), build.tensor([1, 8, 8, 3], name="right")
    tail = build.build([left, right], [build.op("ADD", [left, right], [1, 8, 8, 3])])
    cut = CutModels(0, None, tail, (SPEC, replace_name(SPEC, "right")))
    pairs = [(one, one * 10) for one in samples()]
    left_found, right_found = calibrate([cut], pairs, options=ONE)[0]
    np.testing.assert_allclose(np.array(right_found.clip_high), 10 * np.array(left_found.clip_high), rtol=0.2)
    np.testing.assert_allclose([*left_found.weight, *right_found.weight], [1.0] * 6, rtol=1e-3)


def replace_name(spec, name):
    return TensorSpec(name=name, shape=spec.shape, dtype=spec.dtype)


def test_progress_counts_every_run_and_the_budget_holds(cut):
    seen = []
    calibrate([cut, cut], inputs(), options=replace(ONE, threads=2), progress=lambda *step: seen.append(step))
    total = 2 * (20 + 4 * (3 + 1))
    assert seen == [(done, total) for done in range(1, total + 1)]
    seen.clear()
    calibrate([cut], inputs(), options=replace(ONE, tail_runs=8), progress=lambda *step: seen.append(step))
    assert len(seen) == 20 + 2 * (3 + 1)
    seen.clear()
    calibrate([cut], inputs(), options=replace(ONE, tail_runs=1), progress=lambda *step: seen.append(step))
    assert len(seen) == 20 + 3 + 1


def test_what_cannot_be_calibrated_is_said_and_stops_all_threads(cut):
    with pytest.raises(BadInputError, match="give at least one"):
        calibrate([cut], [])
    broken = inputs()
    broken[7][0][0, 0, 0, 0] = np.nan
    with pytest.raises(BadModelError, match="cut 0, tensor 'image': not finite for calibration sample 7"):
        calibrate([cut, replace(cut, index=0)], broken, options=replace(ONE, threads=2))
    for wrong in ({"quantile": 0.5}, {"quantile": 1.1}, {"threads": 0}, {"epsilon": 0.0}):
        with pytest.raises(UsageError):
            CalibrationOptions(**wrong)


@pytest.fixture
def photographs(tmp_path):
    from PIL import Image

    for name in "abc":
        pixels = np.random.default_rng(ord(name)).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return open_data(tmp_path, [SPEC], ImagePreprocess(resize=8, crop=(8, 8)))


def test_few_photographs_give_many_views_the_photographs_first(photographs):
    views = calibration_samples(photographs, count=10)
    assert len(views) == 10
    for view, sample in zip(views, photographs, strict=False):
        np.testing.assert_array_equal(view[0], sample.tensors[0])
    assert len({view[0].tobytes() for view in views}) == 10
    again = calibration_samples(photographs, count=10)
    assert all((one[0] == other[0]).all() for one, other in zip(views, again, strict=True))
    assert not (calibration_samples(photographs, count=10, seed=1)[5][0] == views[5][0]).all()


def test_crops_are_parts_of_the_picture_in_its_proportions_some_mirrored():
    picture = np.arange(20 * 30, dtype=np.uint16).reshape(20, 30, 1).astype(np.uint8)
    crops = [random_crop(picture, np.random.default_rng(seed)) for seed in range(40)]
    for crop in crops:
        assert 10 <= crop.shape[0] <= 20
        assert crop.shape[1] == pytest.approx(1.5 * crop.shape[0], abs=1)
    mirrored = [crop[0, 0] > crop[0, 1] for crop in crops if abs(int(crop[0, 0, 0]) - int(crop[0, 1, 0])) == 1]
    assert 5 < sum(bool(one) for one in mirrored) < len(mirrored) - 5


def test_much_data_is_thinned_evenly_and_arrays_are_taken_as_they_are(tmp_path, photographs):
    assert len(calibration_samples(photographs, count=2)) == 2
    path = tmp_path / "data.npz"
    np.savez(path, inputs=np.arange(9, dtype=np.float32)[:, None] * np.ones((1, 2), np.float32))
    data = open_data(path, [TensorSpec(name="x", shape=(1, 2), dtype="float32")], None)
    assert [sample[0][0, 0] for sample in calibration_samples(data, count=3)] == [0, 4, 8]
    assert len(calibration_samples(data, count=100)) == 9


def test_calibrate_takes_data_as_the_commands_do(cut, photographs):
    options = replace(ONE, samples=12)
    assert calibrate([cut], photographs, options=options) == calibrate(
        [cut], calibration_samples(photographs, count=12), options=options
    )
