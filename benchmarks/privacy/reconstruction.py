"""Attacks on the releases of the fashion model: what a server that knows everything but the frame makes of it.

Four attackers, all of whom know the head, the mechanism and public pictures:

- *identify* has N candidate pictures, one of which is the frame's, and picks the most likely by the exact
  likelihood. Pure whole-input epsilon bounds how often anybody is right; the bound is printed beside.
- *posterior* averages public pictures by their exact likelihood (the frame itself is not among them).
- *linear* is the best linear inverse, *network* a convolutional one (it needs torch: ``make attack``), both trained
  on released features of public pictures.

Each sees one release of a frame, and the first two also 16 releases of the same one: noise averages out. SSIM of 1
is the picture itself; He et al. (ACSAC 2019) call one below 0.3 unrecognisable. As references: features that go out
unprotected; the mean public picture, which needs no release at all; and the mean public picture of the class
that the whole model answers, which is what the answer itself gives away, however it was come by.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import tempfile
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
from split_model.bundle import Bundle
from split_model.interpreter import open_interpreter
from split_model.prepare.codebook.codebooks import CodebookWish
from split_model.prepare.pipeline import PrepareOptions, prepare
from split_model.privacy import NoisePlan, NoiseRelease, NoiseSpec, recover
from split_model.privacy.codebook import CodebookPlan, CodebookRelease, CodebookSpec, recover_codebook
from split_model.privacy.codebook_file import read_finder, read_meanings

MODEL = ROOT / "models" / "fashion"
TRAINING = Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")
CUTS = (4, 7, 11)
CODEBOOK_CUT, WORDS, CODEBOOK_EPSILON = 7, 32, 8.0
REPEATS = 16
SIDE = 28
Floats = NDArray[np.float32]
Features = list[NDArray[Any]]


@dataclass(frozen=True)
class Way:
    """One way features go out at one cut: ``send`` gives a payload, ``read`` what the server makes of one."""

    name: str
    cut: int
    whole_input_epsilon: float
    send: Callable[[Features], NDArray[Any]]
    read: Callable[[NDArray[Any]], Features]
    likelihood: Callable[[Sequence[Features]], Callable[[Sequence[NDArray[Any]]], NDArray[np.float64]]] | None


@dataclass(frozen=True)
class Pictures:
    """float32 [n, 28, 28] in 0 to 1: what the attackers know, and the frames they attack."""

    public: Floats
    victims: Floats
    source: str


def read_pictures(count: int, victims: int) -> Pictures:
    """Public ones from the data set's training file where it is installed, else the committed thousand."""
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


def ways(bundle: Bundle, epsilons: Sequence[float]) -> list[Way]:
    """Unprotected, under noise at each per-value epsilon, and as a word."""
    found = []
    for cut in (bundle.cut(index) for index in CUTS):
        found.append(Way("unprotected", cut.index, np.inf, lambda f: f[0].copy(), lambda p: [p], None))
        for epsilon in epsilons:
            plan = NoisePlan.make(
                NoiseSpec(epsilon=epsilon, allocation="uniform"), cut.tensors, cut.calibration or ()
            )
            release = NoiseRelease(plan, entropy=os.urandom)
            found.append(
                Way(
                    f"noise, {epsilon:g} a value", cut.index, plan.whole_input_epsilon, release,
                    partial(recover, plan), partial(NoiseLikelihood, plan),
                )
            )  # fmt: skip
    cut = bundle.cut(CODEBOOK_CUT)
    book = CodebookPlan.make(CodebookSpec(epsilon=CODEBOOK_EPSILON, words=WORDS), cut)
    path = bundle.path(book.book.file)
    finder, meanings = read_finder(path, book.book, cut.tensors), read_meanings(path, book.book, cut.tensors)
    found.append(
        Way(
            f"codebook of {WORDS}", cut.index, book.whole_input_epsilon,
            CodebookRelease(book, finder, entropy=os.urandom),
            partial(recover_codebook, book, meanings), partial(CodebookLikelihood, book, finder),
        )
    )  # fmt: skip
    return found


class Attack:
    """All attackers against one way out, for the same victims."""

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

    def __call__(self, way: Way) -> dict[str, Any]:
        """One row of the report; pictures under ``_pictures``."""
        public, victims = self.features(way.cut)
        row: dict[str, Any] = {"cut": way.cut, "release": way.name, "whole_input_epsilon": way.whole_input_epsilon}
        shown: dict[str, Floats] = {}
        if way.likelihood is not None:
            for count in (1, REPEATS):
                payloads = [[way.send(_copied(one)) for _ in range(count)] for one in victims]
                row |= self._identify(way, victims, payloads, count)
                shown[f"posterior_{count}"] = self._posterior(way, public, payloads)
        released = np.stack([way.read(way.send(_copied(one)))[0][0] for one in public]).astype(np.float32)
        arrived = np.stack([way.read(way.send(_copied(one)))[0][0] for one in victims]).astype(np.float32)
        flat = self._pictures.public.reshape(len(public), -1)
        few = slice(self._options.linear)
        inverse = linear.fit(released[few].reshape(len(released[few]), -1), flat[few])
        shown["linear"] = inverse(arrived.reshape(len(arrived), -1)).reshape(-1, SIDE, SIDE)
        if self._options.network:
            from benchmarks.privacy import inverse_network

            network = inverse_network.train(released, self._pictures.public, epochs=self._options.epochs)
            shown["network"] = network(arrived)
        for name, found in shown.items():
            row[f"{name}_ssim"], row[f"{name}_psnr_db"] = quality(np.clip(found, 0, 1), self._pictures.victims)
        return row | {"_pictures": shown}

    def _identify(
        self, way: Way, victims: list[Features], payloads: list[list[NDArray[Any]]], count: int
    ) -> dict[str, Any]:
        """How often the frame is found among all victims, each as likely as the other."""
        assert way.likelihood is not None
        likelihood = way.likelihood(victims)
        none = np.zeros((len(victims), 1), np.float32)
        found = [
            guess(likelihood(seen), none, generator=self._generator).candidate == at
            for at, seen in enumerate(payloads)
        ]
        bound = identification_bound(way.whole_input_epsilon * count, len(victims))
        return {f"identified_{count}": float(np.mean(found)), f"bound_{count}": bound}

    def _posterior(self, way: Way, public: list[Features], payloads: list[list[NDArray[Any]]]) -> Floats:
        assert way.likelihood is not None
        few = self._options.candidates
        likelihood = way.likelihood(public[:few])
        known = self._pictures.public[:few]
        return np.stack([guess(likelihood(seen), known, generator=self._generator).picture for seen in payloads])


def references(bundle: Bundle, pictures: Pictures) -> dict[str, tuple[float, float]]:
    """SSIM and PSNR of what needs no release: the mean picture, and the mean picture of the answer's class."""
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
    """Mean SSIM (Gaussian window of sigma 1.5, as Wang et al. 2004) and mean PSNR in dB."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    pairs = list(zip(found, truth, strict=True))
    similar = [
        structural_similarity(
            one, other, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for one, other in pairs
    ]
    noise = [peak_signal_noise_ratio(other, one, data_range=1.0) for one, other in pairs]
    return round(float(np.mean(similar)), 3), round(float(np.mean(noise)), 2)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """For a terminal."""
    columns = ("posterior_1", f"posterior_{REPEATS}", "linear", "network")
    lines = [
        f"{'cut':>3}  {'release':<18} {'whole-input eps':>15}  {'found (bound)':>14}  {f'from {REPEATS}':>14}  "
        + "  ".join(f"{name:>12}" for name in columns)
    ]
    for row in rows:
        found = [
            f"{row[f'identified_{count}']:.2f} ({row[f'bound_{count}']:.2f})"
            if f"identified_{count}" in row
            else "-"
            for count in (1, REPEATS)
        ]
        cells = [
            f"{row[f'{name}_ssim']:.2f} {row[f'{name}_psnr_db']:5.1f}" if f"{name}_ssim" in row else "-"
            for name in columns
        ]
        lines.append(
            f"{row['cut']:>3}  {row['release']:<18} {row['whole_input_epsilon']:>15.6g}  "
            + "  ".join(f"{cell:>14}" for cell in found)
            + "  "
            + "  ".join(f"{cell:>12}" for cell in cells)
        )
    return "\n".join(lines)


def claims(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The bound of pure whole-input epsilon holds for every release."""
    found = []
    for row in rows:
        for count in (1, REPEATS):
            if f"identified_{count}" in row:
                value, goal = row[f"identified_{count}"], row[f"bound_{count}"]
                name = f"cut {row['cut']}, {row['release']}: found from {count}, at most the bound"
                found.append({"name": name, "value": value, "goal": goal, "holds": value <= goal})
    return found


def draw(path: Path, rows: Sequence[dict[str, Any]], pictures: Pictures, count: int = 8) -> None:
    """A sheet of the first victims: as they are, and as each attacker sees them."""
    from split_model.prepare.drawing import drawn

    lines: list[tuple[str, Floats]] = [("the frame", pictures.victims[:count])]
    for row in rows:
        best = max(row["_pictures"], key=lambda name: row[f"{name}_ssim"])
        lines.append(
            (
                f"cut {row['cut']}, {row['release']}\n{best}, SSIM {row[f'{best}_ssim']:.2f}",
                row["_pictures"][best][:count],
            )
        )
    with drawn(path, (2.6 + 0.7 * count, 0.72 * len(lines))) as figure:
        grid = figure.subplots(len(lines), count, squeeze=False)
        for axes, (label, shown) in zip(grid, lines, strict=True):
            for one, picture in zip(axes, shown, strict=True):
                one.imshow(np.clip(picture, 0, 1), cmap="gray_r", vmin=0, vmax=1)
                one.set_xticks([])
                one.set_yticks([])
            axes[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=7)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or the rows as JSON, and the claims as the last line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.privacy.reconstruction",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="rows as one JSON line instead of a table")
    parser.add_argument("--epsilon", type=float, action="append", metavar="E", help="per value (16, 4, 1)")
    parser.add_argument("--public", type=int, default=6_000, help="pictures that train the inverses (%(default)s)")
    parser.add_argument("--linear", type=int, default=3_000, help="those of them for the linear one (%(default)s)")
    parser.add_argument("--candidates", type=int, default=2_000, help="those for the posterior (%(default)s)")
    parser.add_argument("--victims", type=int, default=100, help="frames attacked (%(default)s)")
    parser.add_argument("--network", action="store_true", help="train inverse networks too; needs torch")
    parser.add_argument("--epochs", type=int, default=5, help="of each network (%(default)s)")
    parser.add_argument("--pictures", type=Path, metavar="FILE", help="draw what the attackers see (.png or .svg)")
    options = parser.parse_args(arguments)
    pictures = read_pictures(options.public, options.victims)
    with tempfile.TemporaryDirectory() as scratch:
        bundle = prepare(
            PrepareOptions(
                model=MODEL / "fashion_f32.tflite",
                output=Path(scratch) / "bundle",
                cuts=CUTS,
                preprocess=MODEL / "preprocess.json",
                labels=MODEL / "labels.txt",
                calibration=MODEL / "public.npz",
                codebooks=(CodebookWish(CODEBOOK_CUT, WORDS),),
            ),
            lambda *_: None,
        )
        attack = Attack(bundle, pictures, options)
        rows = []
        for way in sorted(ways(bundle, options.epsilon or (16.0, 4.0, 1.0)), key=lambda way: way.cut):
            rows.append(attack(way))
            print(f"cut {way.cut}, {way.name}", file=sys.stderr, flush=True)
        without = references(bundle, pictures)
    if options.pictures is not None:
        draw(options.pictures, rows, pictures)
    plain = [{key: value for key, value in row.items() if key != "_pictures"} for row in rows]
    if options.json:
        print(
            json.dumps(
                {"public": pictures.source, "victims": len(pictures.victims), "without": without, "rows": plain}
            )
        )
    else:
        print(f"attackers know {pictures.source}; {len(pictures.victims)} frames attacked; SSIM and PSNR in dB")
        print(table(rows))
        for name, (similar, decibels) in without.items():
            print(f"{name}, without any release: SSIM {similar:.2f}, {decibels:.1f} dB")
    print(json.dumps({"claims": claims(rows)}))
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
