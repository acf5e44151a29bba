"""The attacker's likelihoods are those of the mechanisms, and nobody beats the bound of pure epsilon."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from split_model.audit.likelihood import CodebookLikelihood, NoiseLikelihood, identification_bound, on_grid
from split_model.audit.posterior import guess
from split_model.bundle import ChannelCalibration, Codebook, Cut, FileRef, TensorSpec
from split_model.privacy import NoisePlan, NoiseRelease, NoiseSpec
from split_model.privacy.codebook import CodebookPlan, CodebookRelease, CodebookSpec
from split_model.privacy.codebook_file import Encoder, Grouping
from split_model.privacy.packing import pack, padded_values, unpack

TENSOR = TensorSpec(name="f", shape=(1, 2, 1, 2), dtype="float32")
KNOWN = ChannelCalibration(clip_low=(0.0, -1.0), clip_high=(1.0, 3.0), rank=(1.0, 2.0), weight=(1.0, 4.0))


def plan_of(epsilon: float, allocation: str = "optimal", bits: int = 4) -> NoisePlan:
    return NoisePlan.make(NoiseSpec(epsilon=epsilon, allocation=allocation, bits=bits), [TENSOR], [KNOWN])


def frame(*values: float) -> list[np.ndarray]:
    return [np.array(values, np.float32).reshape(TENSOR.shape)]


def exact(plan: NoisePlan, features: list[np.ndarray], wire: np.ndarray) -> float:
    """log P(wire | features) by the text-book formulae, noise beyond the rims added up."""
    total = 0.0
    for at, (start, arrived) in enumerate(zip(on_grid(plan, features).tolist(), wire.tolist(), strict=True)):
        grid = plan.classes[plan.class_of[0][at % 2]]
        q = math.exp(-grid.epsilon / grid.steps)
        inside = (1 - q) / (1 + q) * q ** abs(arrived - start)
        if arrived == 0:
            inside = q**start / (1 + q)
        elif arrived == grid.wire_max:
            inside = q ** (grid.wire_max - start) / (1 + q)
        total += math.log(inside)
    return total


@settings(max_examples=60, deadline=None)
@given(
    wire=st.lists(st.integers(0, 15), min_size=4, max_size=4),
    one=st.lists(st.floats(-2, 4), min_size=4, max_size=4),
    other=st.lists(st.floats(-2, 4), min_size=4, max_size=4),
    epsilon=st.sampled_from([1.0, 3.0, 8.0]),
)
def test_the_likelihood_ratio_of_two_frames_is_exact(wire, one, other, epsilon):
    plan = plan_of(epsilon)
    candidates = [frame(*one), frame(*other)]
    padded = np.zeros(padded_values(4, 4), np.uint8)
    padded[:4] = wire
    payload = pack(padded, 4)
    first, second = NoiseLikelihood(plan, candidates)([payload])
    expected = exact(plan, candidates[0], np.array(wire)) - exact(plan, candidates[1], np.array(wire))
    assert first - second == pytest.approx(expected, rel=1e-5, abs=1e-4)


def test_several_payloads_of_a_frame_multiply():
    plan = plan_of(2.0)
    release = NoiseRelease(plan, entropy=os.urandom)
    candidates = [frame(0, 0, 1, 1), frame(1, 3, 0, 2), frame(0.5, 1, 0.2, -1)]
    payloads = [release(frame(0.5, 1, 0.2, -1)) for _ in range(5)]
    likelihood = NoiseLikelihood(plan, candidates)
    together = likelihood(payloads)
    assert together == pytest.approx(sum(likelihood([payload]) for payload in payloads), rel=1e-5)


def test_the_attacker_puts_features_on_the_grid_as_the_device_does():
    """With next to no noise, what arrives is the grid point itself."""
    plan = plan_of(float(1 << 19), allocation="uniform", bits=8)
    features = frame(0.31, 2.9, math.inf, -math.inf)
    payload = NoiseRelease(plan, entropy=os.urandom)([one.copy() for one in features])
    assert unpack(payload, 4, 8).tolist() == on_grid(plan, features).tolist()


def codebook_plan(codewords: int, epsilon: float) -> CodebookPlan:
    file = FileRef(path="book.npz", sha256="0" * 64, size_bytes=1)
    book = Codebook(codewords=codewords, groups=1, file=file, lookup=1.0, chance=0.1, samples=1, truth="model")
    cut = Cut(index=1, head=file, tail=file, tensors=(TENSOR,), head_macs=1, tail_macs=1, codebooks=(book,))
    return CodebookPlan.make(CodebookSpec(epsilon=epsilon, codewords=codewords), cut)


def encoder_of(codewords: int) -> Encoder:
    """The codeword is the first value, rounded."""
    weights = np.zeros((codewords, 4), np.float32)
    weights[:, 0] = np.arange(codewords)
    bias = (-(np.arange(codewords) ** 2) / 2).astype(np.float32)
    return Encoder(Grouping((TENSOR,), (1,), (0, 2)), (weights,), (bias,))


def test_nobody_finds_a_frame_of_a_codebook_more_often_than_the_bound_and_the_likelihood_reaches_it():
    codewords, epsilon, frames = 8, 2.0, 4000
    plan = codebook_plan(codewords, epsilon)
    encoder = encoder_of(codewords)
    candidates = [frame(float(codeword), 0, 0, 0) for codeword in range(codewords)]
    release = CodebookRelease(plan, encoder, entropy=os.urandom)
    likelihood = CodebookLikelihood(plan, encoder, candidates)
    generator = np.random.default_rng(0)
    nothing = np.zeros((codewords, 1), np.float32)
    right = sum(
        guess(likelihood([release(candidates[at % codewords])]), nothing, generator=generator).candidate
        == at % codewords
        for at in range(frames)
    )
    bound = identification_bound(plan.whole_input_epsilon, codewords)
    spread = math.sqrt(bound * (1 - bound) / frames)
    assert abs(right / frames - bound) < 6 * spread


@settings(max_examples=100, deadline=None)
@given(
    st.integers(2, 6).flatmap(
        lambda n: st.lists(st.lists(st.floats(0.01, 1.0), min_size=4, max_size=4), min_size=n, max_size=n)
    )
)
def test_the_bound_holds_for_every_mechanism(rows):
    """Any table of P(output | frame): its own pure epsilon bounds how often the best guess is right."""
    table = np.array(rows) / np.array(rows).sum(axis=1, keepdims=True)
    epsilon = float(np.log(table.max(axis=0) / table.min(axis=0)).max())
    success = table.max(axis=0).sum() / len(table)
    assert success <= identification_bound(epsilon, len(table)) * (1 + 1e-12)


def test_without_privacy_there_is_no_bound_and_without_a_release_only_chance():
    assert identification_bound(math.inf, 1000) == 1.0
    assert identification_bound(0.0, 1000) == pytest.approx(1e-3)


def test_the_best_guess_is_the_likeliest_candidate_and_the_picture_their_mean():
    pictures = np.array([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]], np.float32)
    found = guess(np.log([0.2, 0.6, 0.2]), pictures, generator=np.random.default_rng(0))
    assert found.candidate == 1
    assert found.picture == pytest.approx([0.7, 0.3])
