"""Trains the encoder of a codebook: matrices over features, fitted to the whole model's answers.

One group (`learn_codewords`): a linear map to one score per codeword, trained through the noisy channel.
Codeword m arrives as r with probability K[m, r] (randomised response); q(r) is the learned meaning of r. With the
softmax p over a frame's codewords, Kᵀp are the probabilities of what arrives. For target t the loss is
-Σ t·log(Kᵀp·q) for classes and Σ (Kᵀp)·|t - q|² for other outputs. So training does not rely on codewords that are
confused at this epsilon.

Several groups (`cluster`): k-means in the principal components of each group's features, as product quantisers do.

All in float32 NumPy with seeded generators: the same inputs give the same numbers on the same machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from split_model.arrays import Array
from split_model.privacy.codebook import keep_probability

Floats = NDArray[np.float32]

COMPONENTS = 384
_BATCH = 256
_STEPS = (1200, 4000)  # at least, at most
_RATE = 2e-3
_DECAY = 0.02
_RIDGE = 0.01
_SUB_COMPONENTS = 32  # that distinguish the codewords of one class
_LEAST = 1e-9


@dataclass(frozen=True)
class Scores:
    """One score per codeword, ``weights``·x + ``bias``: float32 [codewords, inputs] and [codewords]."""

    weights: Floats
    bias: Floats

    def codewords(self, rows: Floats) -> NDArray[np.int64]:
        """The codeword of each row of [n, inputs]."""
        return np.concatenate([np.argmax(part @ self.weights.T + self.bias, axis=1) for part in _parts(rows)])


@dataclass(frozen=True)
class Components:
    """The leading principal components, each scaled to about unit variance: z = (x - mean)·basis."""

    mean: Floats
    basis: Floats

    def of(self, rows: Floats) -> Floats:
        return np.concatenate([(part - self.mean) @ self.basis for part in _parts(rows)])

    def scores(self, weights: Floats, bias: Floats) -> Scores:
        """Convert scores of z [components, codewords] to scores of x."""
        folded = self.basis @ weights
        return Scores(np.ascontiguousarray(folded.T), (bias - self.mean @ folded).astype(np.float32))


def components(rows: Floats, count: int, *, seed: int) -> Components:
    """Find components by subspace iteration on the covariance; ``count`` is limited by the rows."""
    inputs = rows.shape[1]
    count = max(1, min(count, inputs, len(rows) // 2))
    mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    covariance = np.zeros((inputs, inputs), np.float32)
    for part in _parts(rows):
        centred = part - mean
        covariance += centred.T @ centred
    covariance /= len(rows)
    generator = np.random.default_rng(seed)
    trial = min(inputs, count + 32)
    basis = np.linalg.qr(generator.normal(size=(inputs, trial)).astype(np.float32))[0]
    for _ in range(6):
        basis = np.linalg.qr(covariance @ basis)[0]
    values, vectors = np.linalg.eigh((basis.T @ covariance @ basis).astype(np.float64))
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    floor = max(0.1 * float(values.mean()), 1e-12)
    scale = 1.0 / np.sqrt(np.maximum(values, 0.0) + floor)
    return Components(mean, (basis @ (vectors * scale)).astype(np.float32))


def kmeans(rows: Array, count: int, *, seed: int, rounds: int = 20) -> tuple[NDArray[np.int64], Array]:
    """Clusters of [n, d] rows and their centres [count, d]; k-means++ to begin with. Some may be empty."""
    generator = np.random.default_rng(seed)
    centres = rows[generator.integers(len(rows))][None]
    away = ((rows - centres[0]) ** 2).sum(1)
    for _ in range(count - 1):
        total = float(away.sum())
        at = generator.choice(len(rows), p=away / total) if total > 0 else generator.integers(len(rows))
        centres = np.vstack([centres, rows[at]])
        away = np.minimum(away, ((rows - rows[at]) ** 2).sum(1))
    found = np.zeros(len(rows), np.int64)
    for _ in range(rounds):
        found = np.argmin((centres**2).sum(1) - 2 * rows @ centres.T, axis=1)
        sums = np.zeros_like(centres)
        np.add.at(sums, found, rows)
        sizes = np.bincount(found, minlength=count)
        centres = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centres)
    return found, centres


def cluster(rows: Floats, codewords: int, *, seed: int) -> Scores:
    """Make codewords as the cells of a k-means in the leading components of the rows."""
    found = components(rows, _SUB_COMPONENTS, seed=seed)
    plain = found.basis / np.maximum(np.linalg.norm(found.basis, axis=0), 1e-12)  # distances as in the features
    unscaled = Components(found.mean, plain.astype(np.float32))
    _, centres = kmeans(unscaled.of(rows).astype(np.float64), codewords, seed=seed)
    return unscaled.scores((2 * centres.T).astype(np.float32), -(centres**2).sum(1).astype(np.float32))


def learn_codewords(
    rows: Floats, targets: Floats, codewords: int, epsilon: float, *, classes: bool, seed: int
) -> Scores:
    """Codewords for randomised response at ``epsilon`` from rows of features [n, inputs] and their targets [n, d].

    ``classes``: the targets are probabilities; otherwise they are any values, with squared error.
    """
    found = components(rows, COMPONENTS, seed=seed)
    inner = found.of(rows)
    start, centres = _start(inner, targets, codewords, classes=classes, seed=seed)
    weights, bias = Fit(targets, start, codewords, epsilon, classes=classes, centres=centres).run(inner, seed=seed)
    return found.scores(weights, bias)


def _start(
    inner: Floats, targets: Floats, codewords: int, *, classes: bool, seed: int
) -> tuple[NDArray[np.int64], Array | None]:
    """Make a first codeword for every row: each class gets its share of codewords, clustered by features.

    With more classes than codewords, or without classes, codewords are clusters of targets, whose centres are
    returned too.
    """
    names, classed = np.unique(targets.argmax(axis=1), return_inverse=True)
    if not classes or len(names) > codewords:
        return kmeans(targets.astype(np.float64), codewords, seed=seed)
    start = np.zeros(len(inner), np.int64)
    first = 0
    for number in range(len(names)):
        mine = np.flatnonzero(classed == number)
        share = codewords // len(names) + (number < codewords % len(names))
        rows = inner[mine][:, :_SUB_COMPONENTS].astype(np.float64)
        start[mine] = first + (kmeans(rows, share, seed=seed, rounds=8)[0] if share > 1 else 0)
        first += share
    return start, None


class Fit:
    """Adam on weights, bias and meanings, from a ridge regression onto the starting codewords.

    With ``centres``, from a regression onto the targets and the centre nearest to its prediction.
    """

    def __init__(
        self,
        targets: Floats,
        start: NDArray[np.int64],
        codewords: int,
        epsilon: float,
        *,
        classes: bool,
        centres: Array | None = None,
    ) -> None:
        self._centres = centres
        self._targets = targets
        self._start = start
        self._codewords = codewords
        self._classes = classes
        keep = keep_probability(codewords, epsilon)
        self.channel = np.full((codewords, codewords), (1 - keep) / (codewords - 1), np.float32)
        np.fill_diagonal(self.channel, keep)

    def run(self, inner: Floats, *, seed: int) -> tuple[Floats, Floats]:
        """Fit to rows of components [n, components]; return weights and bias."""
        parts = self._begin(inner)
        first = [np.zeros_like(part) for part in parts]
        second = [np.zeros_like(part) for part in parts]
        generator = np.random.default_rng(seed)
        batch = min(_BATCH, len(inner))
        steps = min(max(_STEPS[0], 16 * len(inner) // batch), _STEPS[1])
        for step in range(1, steps + 1):
            chosen = generator.integers(len(inner), size=batch)
            sharpness = 1.0 + step / steps  # towards the end the choice of codewords becomes hard
            slopes = self.slopes(parts, inner[chosen], self._targets[chosen], sharpness)
            rate = _RATE * 0.5 * (1 + math.cos(math.pi * step / steps)) * min(1.0, step / 50)
            parts[0] *= 1 - rate * _DECAY
            for at, slope in enumerate(slopes):
                first[at] += 0.1 * (slope - first[at])
                second[at] += 0.001 * (slope**2 - second[at])
                mean, spread = first[at] / (1 - 0.9**step), second[at] / (1 - 0.999**step)
                parts[at] -= (rate if at == 0 else 5 * rate) * mean / (np.sqrt(spread) + 1e-8)
        return parts[0], parts[1]

    def _begin(self, inner: Floats) -> list[Floats]:
        rows = np.column_stack([inner, np.ones(len(inner), np.float32)])
        square = (rows.T @ rows).astype(np.float64)
        square[np.diag_indices_from(square)] += _RIDGE * len(rows)
        wanted = np.eye(self._codewords, dtype=np.float32)[self._start]
        if self._centres is None:
            fitted = 8 * np.linalg.solve(square, (rows.T @ wanted).astype(np.float64))
        else:
            # -|predicted - centre|² over the mean square from the centres, without the terms that codewords share.
            fitted = 2 * np.linalg.solve(square, (rows.T @ self._targets).astype(np.float64)) @ self._centres.T
            fitted[-1] -= (self._centres**2).sum(1)
            fitted /= max(float(((self._targets - self._centres[self._start]) ** 2).sum(1).mean()), 1e-6)
        fitted = fitted.astype(np.float32)
        sums = wanted.T @ self._targets
        sizes = np.maximum(wanted.sum(0), 1)[:, None]
        means = (sums / sizes).astype(np.float32)
        meanings = np.log(means + 1e-3).astype(np.float32) if self._classes else means
        return [fitted[:-1].copy(), fitted[-1].copy(), meanings]

    def slopes(self, parts: list[Floats], rows: Floats, targets: Floats, sharpness: float) -> list[Floats]:
        """The gradient of the loss by weights, bias and meanings, for rows of features and their targets."""
        weights, bias, meanings = parts
        share = _softmax((rows @ weights + bias) * np.float32(sharpness))
        arrives = share @ self.channel
        if self._classes:
            meant = _softmax(meanings)
            slope = -targets / np.maximum(arrives @ meant, _LEAST) / len(rows)
            back = arrives.T @ slope
            to_meanings = meant * (back - (back * meant).sum(1, keepdims=True))
            to_arrives = slope @ meant.T
        else:
            squares = (meanings**2).sum(1) - 2 * targets @ meanings.T  # without |t|², the same for every codeword
            to_arrives = squares / len(rows)
            weight = arrives.sum(0)[:, None]
            to_meanings = 2 * (weight * meanings - arrives.T @ targets) / len(rows)
        to_share = to_arrives @ self.channel
        to_scores = share * (to_share - (to_share * share).sum(1, keepdims=True)) * np.float32(sharpness)
        return [rows.T @ to_scores, to_scores.sum(0), to_meanings.astype(np.float32)]


def _softmax(scores: Floats) -> Floats:
    raised: Floats = np.exp(scores - scores.max(axis=1, keepdims=True))
    raised /= raised.sum(axis=1, keepdims=True)
    return raised


def _parts(rows: Floats, size: int = 4096) -> list[Floats]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
