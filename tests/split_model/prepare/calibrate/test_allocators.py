"""Which allocation is best is measured, not assumed; and a bundle says what it was measured with."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from split_model.bundle import Bundle, ChannelCalibration, Cut, NoiseTail, TensorSpec
from split_model.cli import main
from split_model.errors import ConfigError, UsageError
from split_model.prepare.calibrate.allocators import TrialOptions, parts, try_allocations
from split_model.prepare.calibrate.calibration import CutModels
from split_model.privacy import settle
from split_model.terminal import as_text

GAINS = np.array([8.0, 1.0, 1.0, 0.02], np.float32)
SAMPLES = [(np.random.default_rng(seed).random((1, 4, 4, 4)).astype(np.float32),) for seed in range(24)]


@pytest.fixture(scope="module")
def cut(builder):
    """Cut 0 of a model that sums each channel, some with more gain than others."""
    build = builder()
    image = build.tensor([1, 4, 4, 4], name="image")
    shape = build.tensor([2], np.array([1, 64], np.int32), dtype="int32")
    flat = build.op("RESHAPE", [image, shape], [1, 64])
    sums = build.tensor([4, 64], np.tile(np.diag(GAINS), 16))
    model = build.build([image], [build.op("FULLY_CONNECTED", [flat, sums, -1], [1, 4])])
    spec = TensorSpec(name="image", shape=(1, 4, 4, 4), dtype="float32")
    return CutModels(index=0, head=None, tail=model, tensors=(spec,))


def calibration(*, rank=(1.0, 1.0, 1.0, 1.0), weight=None):
    return [
        ChannelCalibration(
            clip_low=(0.0,) * 4,
            clip_high=(1.0,) * 4,
            rank=rank,
            weight=tuple(float(gain**2) for gain in GAINS) if weight is None else weight,
        )
    ]


def errors(choice):
    return {trial.allocation: trial.output_error for trial in choice.trials}


def test_the_optimum_is_found_by_measuring_and_rank_against_the_weights_loses(cut):
    choice = try_allocations(cut, calibration(rank=(1.0, 2.0, 2.0, 4.0)), SAMPLES, options=TrialOptions(), answer=0)
    found = errors(choice)
    assert choice.best == "optimal"
    assert found["optimal"] < 0.8 * found["uniform"]
    assert found["rank"] > 1.5 * found["uniform"]
    costs = {trial.allocation: trial.relative_cost for trial in choice.trials}
    assert costs["optimal"] == pytest.approx(1.0, abs=0.01)
    # (Σa)³ = Σa · Σa · Σa with a = gain^(2/3); uniform costs (Σr)²Σ(a³/r²)/(Σa)³ with r = 1.
    shares = GAINS.astype(float) ** (2 / 3)
    assert costs["uniform"] == pytest.approx(16 * float((GAINS**2).sum()) / shares.sum() ** 3, rel=1e-4)
    assert costs["rank"] > costs["uniform"]
    assert all(0 <= trial.agreement <= 1 for trial in choice.trials)
    assert (choice.epsilon, choice.samples, choice.draws) == (16.0, 24, 2)


def test_wrong_weights_do_not_deceive_the_measurement(cut):
    """By formula `optimal` costs least; the outputs say otherwise, and they are what counts."""
    wrong = tuple(float(gain**2) for gain in GAINS[::-1])
    choice = try_allocations(cut, calibration(rank=(4.0, 1.0, 1.0, 1.0), weight=wrong), SAMPLES,
                             options=TrialOptions())  # fmt: skip
    assert min(choice.trials, key=lambda trial: trial.relative_cost).allocation == "optimal"
    assert choice.best == "rank"
    assert choice.trials[0].agreement is None


def test_the_same_arguments_give_the_same_choice(cut):
    assert try_allocations(cut, calibration(), SAMPLES, options=TrialOptions()) == try_allocations(
        cut, calibration(), SAMPLES, options=TrialOptions()
    )


def test_what_noise_cannot_release_is_not_tried(cut):
    whole = replace(cut.tensors[0], dtype="int32")
    other = CutModels(index=0, head=None, tail=cut.tail, tensors=(whole,))
    assert try_allocations(other, calibration(), SAMPLES, options=TrialOptions()) is None


@pytest.mark.parametrize(("fields", "error"), [({"epsilon": 0.0}, ConfigError), ({"draws": 0}, UsageError)])
def test_options_that_mean_nothing_are_refused(fields, error):
    with pytest.raises(error):
        TrialOptions(**fields)


def cut_with(choice, index=3):
    return Cut(
        index=index, head=None, tail=None, tensors=(), head_macs=0, tail_macs=0, allocation=choice
    )  # what `settle` and `parts` read of it


def test_auto_takes_what_was_measured_and_the_formula_where_nothing_was(cut):
    choice = try_allocations(cut, calibration(), SAMPLES, options=TrialOptions())
    assert settle("auto", cut_with(replace(choice, best="rank")), 8.0) == "rank"
    assert settle("auto", cut_with(None), 8.0) == "optimal"
    assert settle("uniform", cut_with(replace(choice, best="rank")), 8.0) == "uniform"


def test_a_noise_aware_tail_has_a_choice_of_its_own(cut, builder, tmp_path):
    """Two tails of other gains: what is best with the one is not with the other."""
    build = builder()
    image = build.tensor([1, 4, 4, 4], name="image")
    shape = build.tensor([2], np.array([1, 64], np.int32), dtype="int32")
    flat = build.op("RESHAPE", [image, shape], [1, 64])
    sums = build.tensor([4, 64], np.tile(np.diag(GAINS[::-1]), 16))
    aware = tmp_path / "aware.tflite"
    aware.write_bytes(build.build([image], [build.op("FULLY_CONNECTED", [flat, sums, -1], [1, 4])]))
    plain = try_allocations(cut, calibration(rank=(9.0, 1.0, 1.0, 1.0)), SAMPLES, options=TrialOptions(epsilon=1.0))
    other = try_allocations(
        cut, calibration(rank=(9.0, 1.0, 1.0, 1.0)), SAMPLES, options=TrialOptions(epsilon=1.0), noise_tail=aware
    )
    assert plain.best in {"optimal", "rank"}
    assert other.best == "uniform"
    both = replace(cut_with(plain), noise_tails=(NoiseTail(epsilon=1.0, tail=None, allocation=other),))
    assert settle("auto", both, 1.0) == "uniform"
    assert settle("auto", both, 2.0) == plain.best


def test_where_rank_loses_is_said_in_words(cut):
    losing = try_allocations(cut, calibration(rank=(1.0, 2.0, 2.0, 4.0)), SAMPLES, options=TrialOptions())
    level = try_allocations(cut, calibration(), SAMPLES, options=TrialOptions())
    text = as_text(parts([cut_with(level, 2), cut_with(losing, 3), cut_with(None, 4)]))
    assert "rank loses to uniform by formula at cut 3" in text
    assert "rank loses to uniform as measured at cut 3" in text
    assert "cuts 2" not in text
    assert parts([cut_with(None)]) == []


def test_prepare_stores_and_prints_it(residual, tmp_path, capsys):
    (tmp_path / "net.tflite").write_bytes(residual())
    np.savez(tmp_path / "data.npz", inputs=np.random.default_rng(0).normal(size=(6, 4, 4, 2)).astype(np.float32))
    arguments = ["prepare", tmp_path / "net.tflite", "-o", tmp_path / "b", "--calibration", tmp_path / "data.npz"]
    assert main([*map(str, arguments), "--epsilon", "4"]) == 0
    bundle = Bundle.open(tmp_path / "b")
    assert all(cut.allocation.epsilon == 4.0 for cut in bundle.manifest.cuts)
    out = capsys.readouterr().out.split("release.allocation = 'auto'")[0]
    assert "mean per-value epsilon of 4" in out
    for cut in bundle.manifest.cuts:
        line = next(line for line in out.splitlines()[::-1] if line.split()[:1] == [str(cut.index)])
        assert line.endswith(cut.allocation.best)
