"""Learning codewords: the slopes are those of the loss, and what can be told apart is told apart."""

from __future__ import annotations

import numpy as np
import pytest

from split_model.prepare.codebook.training import Fit, cluster, components, kmeans, learn_codewords


def blobs(classes, per, *, inputs=30, spread=0.3, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, inputs))
    labels = np.repeat(np.arange(classes), per)
    rows = centres[labels] + spread * rng.normal(size=(len(labels), inputs))
    return rows.astype(np.float32), labels


def purity(codewords, labels):
    """How often the commonest class of a row's codeword is the row's class."""
    best = {codeword: np.bincount(labels[codewords == codeword]).argmax() for codeword in np.unique(codewords)}
    return np.mean([best[codeword] == label for codeword, label in zip(codewords, labels, strict=True)])


@pytest.mark.parametrize("classes", [True, False])
def test_the_slopes_are_those_of_the_loss(classes):
    rng = np.random.default_rng(0)
    codewords, inputs, targets = 4, 5, 3
    rows = rng.normal(size=(7, inputs)).astype(np.float64)
    wanted = rng.dirichlet(np.ones(targets), 7) if classes else rng.normal(size=(7, targets))
    fit = Fit(wanted, np.zeros(7, np.int64), codewords, 2.0, classes=classes)
    parts = [
        rng.normal(size=(inputs, codewords)),
        rng.normal(size=codewords),
        rng.normal(size=(codewords, targets)),
    ]

    def loss(parts):
        scores = 1.3 * (rows @ parts[0] + parts[1])
        share = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        arrives = share @ fit.channel
        if classes:
            meant = np.exp(parts[2]) / np.exp(parts[2]).sum(1, keepdims=True)
            return -(wanted * np.log(arrives @ meant)).sum() / len(rows)
        return (arrives * ((wanted[:, None] - parts[2]) ** 2).sum(2)).sum() / len(rows)

    slopes = fit.slopes(parts, rows, wanted, 1.3)
    for at, part in enumerate(parts):
        numeric = np.zeros_like(part)
        for where in np.ndindex(part.shape):
            moved = [one.copy() for one in parts]
            moved[at][where] += 1e-6
            higher = loss(moved)
            moved[at][where] -= 2e-6
            numeric[where] = (higher - loss(moved)) / 2e-6
        np.testing.assert_allclose(slopes[at], numeric, rtol=2e-3, atol=2e-5)


def test_classes_that_can_be_told_apart_get_words_of_their_own():
    rows, labels = blobs(6, 60)
    scores = learn_codewords(rows, np.eye(6, dtype=np.float32)[labels], 12, 6.0, classes=True, seed=0)
    assert scores.weights.shape == (12, 30)
    fresh, truth = blobs(6, 20, seed=0)
    assert purity(scores.codewords(fresh), truth) > 0.98


def test_fewer_words_than_classes_are_shared_by_what_the_model_confuses():
    rows, labels = blobs(8, 60)
    soft = np.full((8, 8), 0.02, np.float32)
    soft[np.arange(8), np.arange(8)] = 0.5
    soft[np.arange(8), np.arange(8) ^ 1] = 0.5  # pairs of classes are the same to the model
    codewords = learn_codewords(
        rows, soft[labels] / soft[labels].sum(1, keepdims=True), 4, 6.0, classes=True, seed=0
    )
    found = codewords.codewords(rows)
    assert purity(found, labels // 2) > 0.98
    assert len(np.unique(found)) == 4


def test_outputs_that_are_no_classes_are_told_apart_by_their_values():
    rng = np.random.default_rng(0)
    value = rng.uniform(-1, 1, 800)
    rows = np.outer(value, rng.normal(size=20)) + 0.01 * rng.normal(size=(800, 20))
    targets = np.column_stack([value, -value]).astype(np.float32)
    found = learn_codewords(rows.astype(np.float32), targets, 8, 6.0, classes=False, seed=0).codewords(
        rows.astype(np.float32)
    )
    means = np.array(
        [value[found == codeword].mean() if (found == codeword).any() else 0.0 for codeword in range(8)]
    )
    assert np.mean((value - means[found]) ** 2) < 0.05 * np.var(value)


def test_clusters_of_features_are_found_without_targets():
    rows, labels = blobs(5, 50, spread=0.1)
    assert purity(cluster(rows, 10, seed=0).codewords(rows), labels) > 0.98


def test_the_same_rows_and_seed_give_the_same_words():
    rows, labels = blobs(3, 40)
    one, other = (
        learn_codewords(rows, np.eye(3, dtype=np.float32)[labels], 6, 4.0, classes=True, seed=5) for _ in "ab"
    )
    np.testing.assert_array_equal(one.weights, other.weights)


def test_components_have_about_unit_variance_and_are_no_more_than_the_rows_carry():
    rows, _ = blobs(4, 100)
    inner = components(rows, 8, seed=0).of(rows)
    assert inner.shape == (400, 8)
    np.testing.assert_allclose(inner.mean(0), 0, atol=1e-3)
    assert (inner.var(0) <= 1.0).all()
    assert components(rows[:10], 8, seed=0).basis.shape[1] == 5


def test_kmeans_takes_rows_that_are_all_the_same():
    found, centres = kmeans(np.ones((6, 2)), 4, seed=0)
    assert centres.shape == (4, 2)
    assert np.isfinite(centres).all()
    assert len(found) == 6
