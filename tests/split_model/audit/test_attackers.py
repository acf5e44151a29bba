"""The attackers' parts: what is stored runs as it was trained, priors help, variations vary, people are named."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from split_model.audit.attackers.decoder import Decoder, Shape, torch_forward, weight_shapes
from split_model.audit.attackers.learned_prior import LearnedPrior
from split_model.audit.augmentation import augmented
from split_model.audit.cut_under_attack import OfCut
from split_model.audit.effort import Effort
from split_model.audit.identity import People
from split_model.audit.pictures import PictureSpace
from split_model.errors import BadInputError
from split_model.features.arrays import ArrayFile
from tests.split_model.audit import strangers


def some(shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("features", "picture"),
    [
        ([(1, 8, 8, 6)], (16, 16, 3)),
        ([(1, 3, 3, 4), (1, 6, 6, 2)], (24, 20, 1)),
        ([(1, 7, 7, 5)], (56, 56, 3)),
        ([(1, 12)], (28, 28, 1)),
        ([(1, 1, 1, 9), (1, 3)], (20, 30, 3)),
    ],
)
def test_a_stored_network_draws_without_torch_what_it_draws_with_it(features, picture):
    released = [some(shape) for shape in features]
    shape = Shape.of(released, picture)
    steps = shape.steps()
    weights = tuple(
        (some(one, seed) * 0.04).astype(np.float16).astype(np.float32)
        for seed, one in enumerate(one for name, sizes in steps for one in weight_shapes(name, sizes))
    )
    decoder = Decoder.from_bytes(Decoder(shape, weights).to_bytes(), "here")
    drawn = decoder([released])
    assert drawn.shape == (1, *picture)
    with torch.no_grad():
        maps = torch.from_numpy(shape.maps([released]))
        theirs = torch.sigmoid(torch_forward(steps, [torch.from_numpy(one) for one in weights], maps))
    wanted = theirs[:, :, : picture[0], : picture[1]].permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(drawn, wanted, atol=1e-4)  # a fortieth of a grey level
    assert decoder.to_bytes() == Decoder(shape, weights).to_bytes()


def test_a_stored_network_that_is_damaged_is_told():
    released = [some((1, 8, 8, 6))]
    shape = Shape.of(released, (16, 16, 3))
    short = Decoder(shape, (some((4, 4)),)).to_bytes()
    for content in (b"", b"PK", short):
        with pytest.raises(BadInputError, match=r"here: .* run 'split-model audit"):
            Decoder.from_bytes(content, "here")


def test_a_learned_prior_takes_noise_out_and_likes_pictures_better_than_noise(tmp_path):
    torch.set_num_threads(1)
    known = strangers.pictures(60, 1).astype(np.float32) / 255
    prior = LearnedPrior.train(known, budget_s=2.0)
    assert prior.gain_db > 1.0
    prior.save(tmp_path / "prior.npz")
    kept = LearnedPrior.load(tmp_path / "prior.npz")
    clean = torch.from_numpy(strangers.pictures(8, 9).astype(np.float32) / 255)
    noisy = clean + 0.08 * torch.from_numpy(some(tuple(clean.shape)))
    assert float(kept(clean, 0)) < float(kept(noisy, 0)) / 2
    assert float(kept(clean, 0)) == pytest.approx(float(prior(clean, 0)))


def test_a_substitute_learns_to_answer_through_the_real_tail(tmp_path):
    bundle = strangers.bundle_in(tmp_path)
    known = strangers.pictures(40, 1).astype(np.float32) / 255
    skipped: list[str] = []
    effort = Effort(network_s=0.5)
    cut = OfCut(bundle, bundle.cut(strangers.CUT), PictureSpace.of(bundle), known[:4], known, effort, skipped)
    assert cut.tail is not None
    assert cut.substitute.error < 0.5
    features = cut.substitute([PictureSpace.of(bundle).torch_inputs(torch.from_numpy(known[:3]))])
    assert [tuple(one.shape) for one in features] == [(3, 8, 8, 6)]
    assert skipped == []


def test_variations_are_new_pictures_in_range_and_the_same_again():
    known = strangers.pictures(5, 1).astype(np.float32) / 255
    made = augmented(known, 40)
    assert made.shape == (40, *known.shape[1:])
    assert made.min() >= 0
    assert made.max() <= 1
    np.testing.assert_array_equal(made[:5], known)
    np.testing.assert_array_equal(made, augmented(known, 40))
    assert len({one.tobytes() for one in made}) == 40


def test_people_are_named_from_rows_that_tell_and_not_from_noise():
    labels = np.repeat(np.arange(6), 5)
    blank = np.zeros((30, 1, 1, 1), np.float32)
    people = People(blank, labels, blank, labels)
    centres = some((6, 40), 3) * 3
    known, attacked = (centres[labels] + some((30, 40), seed) for seed in (4, 5))
    telling = people.identity(np.repeat(known, 2, axis=0), attacked)
    assert (telling.people, telling.chance) == (6, pytest.approx(1 / 6))
    assert min(telling.retrieval.low, telling.probe.low) > 0.5
    nothing = people.identity(some((30, 40), 6), some((30, 40), 7))
    assert max(nothing.retrieval.low, nothing.probe.low) < 1 / 6 < max(nothing.retrieval.high, nothing.probe.high)


def test_people_without_enough_pictures_or_labels_are_refused(tmp_path):
    bundle = strangers.bundle_in(tmp_path)
    space = PictureSpace.of(bundle)
    shown = strangers.pictures(6, 1)
    for labels, said in ((None, "without a label"), ([0, 0, 0, 0, 1, 1], "with 2 pictures at least")):
        named = {} if labels is None else {"labels": np.array(labels)}
        np.savez(tmp_path / "people.npz", pictures=shown, **named)
        data = ArrayFile(tmp_path / "people.npz", bundle.manifest.inputs, bundle.manifest.preprocess)
        with pytest.raises(BadInputError, match=said):
            People.of(data, space)
