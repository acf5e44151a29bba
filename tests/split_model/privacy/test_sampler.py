"""The sampler draws what it says it draws, and asks for more entropy where bits do not decide."""

from __future__ import annotations

import math
import os

import numpy as np
import pytest

from split_model.bundle import TensorSpec
from split_model.errors import SplitModelError
from split_model.privacy.grid import make_grid
from split_model.privacy.laplace_cdf import cdf_floors
from split_model.privacy.layout import lay_out
from split_model.privacy.sampler import FIRST_BITS, PREFIX_BITS, LaplaceSampler

SIGNIFICANCE = 1e-6


class Script:
    """Entropy that hands out a prepared stream and fails the test when it runs dry."""

    def __init__(self, stream: bytes) -> None:
        self.stream = stream
        self.requests: list[int] = []

    def __call__(self, count: int) -> bytes:
        assert count <= len(self.stream), "more entropy was asked for than the test expects"
        self.requests.append(count)
        given, self.stream = self.stream[:count], self.stream[count:]
        return given


def draw(sampler, classes, rows, *, fetch=False):
    layout = lay_out([TensorSpec(name="x", shape=(1, rows, len(classes)), dtype="float32")])[0]
    noise = np.empty(layout.size, np.int16)
    cells = np.empty(layout.size, np.uint16)
    tiled = layout.tiled([index << FIRST_BITS for index in classes], np.uint16)
    if fetch:
        sampler.fetch(sampler.reserve_bytes(np.bincount(np.resize(classes, layout.size)).tolist()))
    sampler.draw(noise, cells, tiled, layout)
    return noise.reshape(rows, len(classes))


def stream_for(prefix: int, *more: int) -> bytes:
    """The bytes with which a single value gets the 60 bits ``prefix`` and then 64 bits a time."""
    first, second, third = prefix >> 48, prefix >> 44 & 15, prefix & ((1 << 44) - 1)
    words = bytes([first & 255, first >> 8, second]) + (third << 20).to_bytes(8, "little")
    return words + b"".join(word.to_bytes(8, "little") for word in more)


GRIDS = [make_grid(1.0, 8), make_grid(16.0, 8)]


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("outcome", [-30, -1, 0, 5, 40])
def test_a_tie_is_broken_exactly(index, outcome):
    """A prefix equal to the floor of F(outcome): only the bits after it can tell, however many it takes."""
    grid = GRIDS[index]
    at = outcome + grid.bound
    floors = {bits: cdf_floors(grid.epsilon, grid.steps, grid.bound, bits)[at] for bits in (60, 124, 188, 252)}
    word = {bits: floors[bits] & ((1 << 64) - 1) for bits in (124, 188, 252)}
    below, above = word[188] - 1, word[188] + 1
    for last, answer in ((below, outcome), (above, outcome + 1)):
        script = Script(stream_for(floors[60], word[124], last))
        assert draw(LaplaceSampler(GRIDS, entropy=script), [index], 1)[0, 0] == answer
        assert script.requests[-2:] == [8, 8]
        assert script.stream == b""
    script = Script(stream_for(floors[60], word[124], word[188], word[252] - 1))
    assert draw(LaplaceSampler(GRIDS, entropy=script), [index], 1)[0, 0] == outcome
    assert script.requests[-3:] == [8, 8, 8]


@pytest.mark.parametrize("index", [0, 1])
def test_the_prefixes_next_to_a_threshold_need_no_loop(index):
    grid = GRIDS[index]
    for outcome in (-20, 0, 20):
        floor = cdf_floors(grid.epsilon, grid.steps, grid.bound, PREFIX_BITS)[outcome + grid.bound]
        for prefix, answer in ((floor - 1, outcome), (floor + 1, outcome + 1)):
            script = Script(stream_for(prefix))
            assert draw(LaplaceSampler(GRIDS, entropy=script), [index], 1)[0, 0] == answer


def test_the_ends_of_the_interval_are_the_bounds():
    grid = GRIDS[0]
    for prefix, answer in ((0, -grid.bound), ((1 << 60) - 1, grid.bound)):
        script = Script(stream_for(prefix) + b"\x80" * 64)
        assert draw(LaplaceSampler(GRIDS, entropy=script), [0], 1)[0, 0] == answer


def test_fast_path_and_exact_path_agree():
    """Random streams, decided stage by stage and again from the CDF at 60 bits."""
    random = np.random.default_rng(7)
    grid = GRIDS[0]
    floors = cdf_floors(grid.epsilon, grid.steps, grid.bound, PREFIX_BITS)
    script = Script(b"")
    sampler = LaplaceSampler([grid], entropy=script)  # one for all: it takes a while to build its tables
    prefixes = [int(value) >> 4 for value in random.integers(0, 2**64, 200, np.uint64)]
    prefixes += [floor + int(step) for floor in floors for step in random.integers(1, 1 << 46, 2)]
    for prefix in prefixes:
        script.stream = stream_for(prefix)
        assert draw(sampler, [0], 1)[0, 0] == np.searchsorted(floors, prefix, side="right") - grid.bound


@pytest.mark.parametrize("epsilon_bits", [(1.0, 8), (16.0, 8), (16.0, 4)])
def test_chi_square_and_tails(epsilon_bits):
    grid = make_grid(*epsilon_bits)
    other = make_grid(4.0, epsilon_bits[1])  # classes must not mix
    sampler = LaplaceSampler([other, grid], entropy=os.urandom)
    noise = np.concatenate([draw(sampler, [1, 0, 1], 111_111, fetch=True)[:, [0, 2]].ravel() for _ in range(9)])
    q = math.exp(-grid.epsilon / grid.steps)
    outcomes = np.arange(-grid.bound, grid.bound + 1)
    probability = (1 - q) / (1 + q) * q ** np.abs(outcomes)
    probability[[0, -1]] = q**grid.bound / (1 + q)
    assert probability.sum() == pytest.approx(1, abs=1e-12)
    seen = np.bincount(noise + grid.bound, minlength=outcomes.size)
    assert seen.size == outcomes.size
    chi_square(seen, probability * noise.size)
    for reach in range(1, grid.bound + 1):
        for beyond in (noise <= -reach, noise >= reach):
            check_count(int(beyond.sum()), noise.size, q**reach / (1 + q), 2 * grid.bound)


def chi_square(seen, expected):
    """Fails at significance 1e-6. Rare outcomes are pooled with the bounds; the number of bins is made
    odd, because an even number of degrees of freedom has a closed tail."""
    common = np.flatnonzero(expected >= 40)[1:-1]
    common = common[: common.size // 2 * 2]
    bins = np.append(seen[common], seen.sum() - seen[common].sum())
    means = np.append(expected[common], expected.sum() - expected[common].sum())
    assert means.min() >= 20
    half = float(((bins - means) ** 2 / means).sum()) / 2
    terms = [k * math.log(half) - math.lgamma(k + 1) - half for k in range((bins.size - 1) // 2)]
    assert sum(map(math.exp, terms)) > SIGNIFICANCE


def check_count(count, draws, probability, tests):
    """Chernoff: P(count this far off) ≤ 2·exp(-draws·KL) must not be under 1e-6 over the number of tests."""
    share = count / draws
    divergence = sum(a * math.log(a / b) for a, b in ((share, probability), (1 - share, 1 - probability)) if a > 0)
    assert draws * divergence < math.log(2 * tests / SIGNIFICANCE)


def test_no_byte_is_used_twice():
    """From one block for the frame: each stage of each tensor goes on where the last one stopped."""
    grid = GRIDS[0]
    floors = cdf_floors(grid.epsilon, grid.steps, grid.bound, PREFIX_BITS)
    prefixes = [floors[grid.bound - 9] - 1, floors[grid.bound + 12] + 1]
    stream = b"".join(map(stream_for, prefixes))
    script = Script(stream)
    sampler = LaplaceSampler([grid], entropy=script)
    sampler.fetch(len(stream))
    assert [draw(sampler, [0], 1)[0, 0] for _ in prefixes] == [-9, 13]
    assert script.requests == [len(stream)]


def test_two_draws_differ():
    sampler = LaplaceSampler([GRIDS[0]], entropy=os.urandom)
    assert not np.array_equal(draw(sampler, [0], 100, fetch=True), draw(sampler, [0], 100, fetch=True))


def test_one_request_a_frame_nearly_always():
    requests = []

    def entropy(count):
        requests.append(count)
        return os.urandom(count)

    sampler = LaplaceSampler(GRIDS, entropy=entropy)
    for _ in range(20):
        draw(sampler, [0, 1], 5000, fetch=True)
    assert len(requests) <= 22
    assert requests[0] < 2 * 10_000


def test_a_source_that_runs_dry_releases_nothing():
    sampler = LaplaceSampler(GRIDS, entropy=lambda count: bytes(count - 1))
    with pytest.raises(SplitModelError, match="nothing is released"):
        sampler.fetch(100)
    with pytest.raises(SplitModelError, match="nothing is released"):
        draw(sampler, [0], 10)
