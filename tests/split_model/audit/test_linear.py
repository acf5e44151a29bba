"""The linear inverse finds a linear relation, shrinks under noise, and never does worse than knowing nothing."""

from __future__ import annotations

import numpy as np
import pytest

from split_model.audit.linear import fit


@pytest.fixture
def generator():
    return np.random.default_rng(3)


@pytest.mark.parametrize("samples", [60, 400], ids=["fewer samples than features", "more"])
def test_pictures_come_back_from_features_that_hold_them(generator, samples):
    pictures = generator.random((samples, 12)).astype(np.float32)
    features = pictures @ generator.normal(size=(12, 100)).astype(np.float32)
    inverse = fit(features, pictures)
    fresh = generator.random((50, 12)).astype(np.float32)
    found = inverse(fresh @ np.linalg.lstsq(pictures, features, rcond=None)[0])
    assert float(np.mean((found - fresh) ** 2)) < 0.01 * float(fresh.var())


def test_noise_alone_gives_no_more_than_the_mean_picture(generator):
    pictures = generator.random((300, 8)).astype(np.float32)
    noise = generator.normal(size=(300, 40)).astype(np.float32)
    inverse = fit(noise, pictures)
    fresh = generator.random((200, 8)).astype(np.float32)
    found = inverse(generator.normal(size=(200, 40)).astype(np.float32))
    error, variance = float(np.mean((found - fresh) ** 2)), float(fresh.var())
    assert error == pytest.approx(variance, rel=0.25)
    assert inverse.shrinkage == 10.0


def test_more_noise_means_a_worse_picture(generator):
    pictures = generator.random((500, 10)).astype(np.float32)
    features = pictures @ generator.normal(size=(10, 60)).astype(np.float32)
    errors = []
    for scale in (0.0, 1.0, 10.0):
        noised = features + scale * generator.normal(size=features.shape).astype(np.float32)
        inverse = fit(noised[:400], pictures[:400])
        errors.append(float(np.mean((inverse(noised[400:]) - pictures[400:]) ** 2)))
    assert errors == sorted(errors)
