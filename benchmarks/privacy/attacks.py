"""The attackers of `reconstruction`, and the variants of a release that they attack.

All of them know the head, the mechanism and public pictures.
"""

from __future__ import annotations

import argparse
import gzip
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import ROOT
from split_model.audit import linear
from split_model.audit.likelihood import CodebookLikelihood, NoiseLikelihood, identification_bound
from split_model.audit.posterior import guess
from split_model.audit.quality import decibels, similarity
from split_model.bundle import Bundle
from split_model.interpreter import open_interpreter
from split_model.privacy import NoisePlan, NoiseRelease, NoiseSpec, recover
from split_model.privacy.codebook import CodebookPlan, CodebookRelease, CodebookSpec, recover_codebook
from split_model.privacy.codebook_file import read_decoder, read_encoder

MODEL = ROOT / "models" / "fashion"
TRAINING = Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")
CUTS = (4, 7, 11)
CODEBOOK_CUT, CODEWORDS, CODEBOOK_EPSILON = 7, 32, 8.0
REPEATS = 16
SIDE = 28
Floats = NDArray[np.float32]
Features = list[NDArray[Any]]


@dataclass(frozen=True)
class Variant:
    """One variant of a release at one cut: ``send`` makes a payload, ``read`` the server's features of it."""

    name: str
    cut: int
    whole_input_epsilon: float
    send: Callable[[Features], NDArray[Any]]
    read: Callable[[NDArray[Any]], Features]
    likelihood: Callable[[Sequence[Features]], Callable[[Sequence[NDArray[Any]]], NDArray[np.float64]]] | None


@dataclass(frozen=True)
class Pictures:
    """float32 [n, 28, 28] in 0 to 1: the public pictures of the attackers, and the frames that they attack."""

    public: Floats
    victims: Floats
    source: str


def read_pictures(count: int, victims: int) -> Pictures:
    """Read public pictures from the data set's training file if it is installed, else the committed thousand."""
    if TRAINING.is_file():
        with gzip.open(TRAINING) as file:
            public = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, SIDE, SIDE)[:count]
        source = f"{len(public)} training pictures"
    else:
        public = np.load(MODEL / "public.npz")["pictures"][:count]
        source = f"{len(public)} pictures of public.npz (dataset-fashion-mnist is not installed)"
    attacked = np.load(MODEL / "test.npz")["pictures"][:victims]
    return Pictures(_scaled(public), _scaled(attacked), source)


def _scaled(pictures: NDArray[np.uint8]) -> Floats:
    scaled: Floats = pictures.astype(np.float32)
    scaled /= 255
    return scaled


def variants(bundle: Bundle, epsilons: Sequence[float]) -> list[Variant]:
    """Unprotected, under noise at each per-value epsilon, and as a codeword."""
    found = []
    for cut in (bundle.cut(index) for index in CUTS):
        found.append(Variant("unprotected", cut.index, np.inf, lambda f: f[0].copy(), lambda p: [p], None))
        for epsilon in epsilons:
            plan = NoisePlan.make(
                NoiseSpec(epsilon=epsilon, allocation="uniform"), cut.tensors, cut.calibration or ()
            )
            release = NoiseRelease(plan, entropy=os.urandom)
            found.append(
                Variant(
                    f"noise, {epsilon:g} a value", cut.index, plan.whole_input_epsilon, release,
                    partial(recover, plan), partial(NoiseLikelihood, plan),
                )
            )  # fmt: skip
    cut = bundle.cut(CODEBOOK_CUT)
    book = CodebookPlan.make(CodebookSpec(epsilon=CODEBOOK_EPSILON, codewords=CODEWORDS), cut)
    path = bundle.path(book.book.file)
    encoder, decoder = read_encoder(path, book.book, cut.tensors), read_decoder(path, book.book, cut.tensors)
    found.append(
        Variant(
            f"codebook of {CODEWORDS}", cut.index, book.whole_input_epsilon,
            CodebookRelease(book, encoder, entropy=os.urandom),
            partial(recover_codebook, book, decoder), partial(CodebookLikelihood, book, encoder),
        )
    )  # fmt: skip
    return found


class Attack:
    """All attackers against one variant, for the same victims."""

    def __init__(self, bundle: Bundle, pictures: Pictures, options: argparse.Namespace) -> None:
        self._options = options
        self._pictures = pictures
        self._generator = np.random.default_rng(0)
        self._heads = {
            cut.index: open_interpreter(bundle.path(cut.head))
            for cut in (bundle.cut(index) for index in CUTS)
            if cut.head is not None
        }
        self._known: dict[int, tuple[list[Features], list[Features]]] = {}

    def features(self, cut: int) -> tuple[list[Features], list[Features]]:
        """(of the public pictures, of the victims) at a cut."""
        if cut not in self._known:
            head = self._heads[cut]
            sides = (self._pictures.public, self._pictures.victims)
            public, victims = ([head.run([one[None, :, :, None]]) for one in side] for side in sides)
            self._known = {cut: (public, victims)}  # of one cut at a time: they are large
        return self._known[cut]

    def __call__(self, variant: Variant) -> dict[str, Any]:
        """One row of the report; pictures under ``_pictures``."""
        public, victims = self.features(variant.cut)
        row: dict[str, Any] = {
            "cut": variant.cut,
            "release": variant.name,
            "whole_input_epsilon": variant.whole_input_epsilon,
        }
        shown: dict[str, Floats] = {}
        if variant.likelihood is not None:
            for count in (1, REPEATS):
                payloads = [[variant.send(_copied(one)) for _ in range(count)] for one in victims]
                row |= self._identify(variant, victims, payloads, count)
                shown[f"posterior_{count}"] = self._posterior(variant, public, payloads)
        released = np.stack([variant.read(variant.send(_copied(one)))[0][0] for one in public]).astype(np.float32)
        arrived = np.stack([variant.read(variant.send(_copied(one)))[0][0] for one in victims]).astype(np.float32)
        flat = self._pictures.public.reshape(len(public), -1)
        few = slice(self._options.linear)
        inverse = linear.fit(released[few].reshape(len(released[few]), -1), flat[few])
        shown["linear"] = inverse(arrived.reshape(len(arrived), -1)).reshape(-1, SIDE, SIDE)
        if self._options.network:
            from split_model.audit.attackers.inverse_network import InverseNetwork

            network = InverseNetwork(
                lambda chosen: [
                    [part.astype(np.float32) for part in variant.read(variant.send(_copied(public[number])))]
                    for number in chosen
                ],
                self._pictures.public[..., None],
                budget_s=self._options.network_seconds,
            )
            shown["network"] = network([[one[None]] for one in arrived])[..., 0]
        for name, found in shown.items():
            row[f"{name}_ssim"], row[f"{name}_psnr_db"] = quality(np.clip(found, 0, 1), self._pictures.victims)
        return row | {"_pictures": shown}

    def _identify(
        self, variant: Variant, victims: list[Features], payloads: list[list[NDArray[Any]]], count: int
    ) -> dict[str, Any]:
        """How often the frame is found among all victims, each as likely as the other."""
        assert variant.likelihood is not None
        likelihood = variant.likelihood(victims)
        none = np.zeros((len(victims), 1), np.float32)
        found = [
            guess(likelihood(seen), none, generator=self._generator).candidate == at
            for at, seen in enumerate(payloads)
        ]
        bound = identification_bound(variant.whole_input_epsilon * count, len(victims))
        return {f"identified_{count}": float(np.mean(found)), f"bound_{count}": bound}

    def _posterior(self, variant: Variant, public: list[Features], payloads: list[list[NDArray[Any]]]) -> Floats:
        assert variant.likelihood is not None
        few = self._options.candidates
        likelihood = variant.likelihood(public[:few])
        known = self._pictures.public[:few]
        return np.stack([guess(likelihood(seen), known, generator=self._generator).picture for seen in payloads])


def references(bundle: Bundle, pictures: Pictures) -> dict[str, tuple[float, float]]:
    """Return SSIM and PSNR of guesses without a release: the mean picture, and that of the answer's class."""
    model = open_interpreter(bundle.path(bundle.manifest.model))
    sides = (pictures.public, pictures.victims)
    public, victims = (np.array([model.run([one[None, :, :, None]])[0].argmax() for one in side]) for side in sides)
    mean = pictures.public.mean(0)
    of_class = [
        pictures.public[public == answer].mean(0) if (public == answer).any() else mean for answer in victims
    ]
    return {
        "mean picture": quality(np.broadcast_to(mean, pictures.victims.shape), pictures.victims),
        "mean picture of the answer's class": quality(np.stack(of_class), pictures.victims),
    }


def _copied(features: Features) -> Features:
    return [one.copy() for one in features]


def quality(found: Floats, truth: Floats) -> tuple[float, float]:
    """Mean SSIM and mean PSNR in dB of grey pictures [n, side, side]."""
    one, other = found[..., None], truth[..., None]
    return round(float(similarity(one, other).mean()), 3), round(float(decibels(one, other).mean()), 2)
