"""The audit: every attacker on every setting of a bundle, resumable, one result a setting."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from split_model.arrays import Array
from split_model.audit.attackers.inverse_network import InverseNetwork
from split_model.audit.attackers.white_box import WhiteBox
from split_model.audit.likelihood import identification_bound
from split_model.audit.pictures import Floats, PictureSpace
from split_model.audit.posterior import guess
from split_model.audit.quality import decibels, interval, similarity
from split_model.audit.results import Attack, Audit, Reference, Result
from split_model.audit.settings import Setting, Wishes, settings
from split_model.audit.torch_head import TorchHead
from split_model.audit.verdict import reveals
from split_model.bundle import Bundle, Cut
from split_model.errors import BadInputError, BadModelError
from split_model.interpreter import open_interpreter
from split_model.service.atomic_file import write_atomically

Progress = Callable[[str, int, int], None]

#: Pictures that an attack needs at least: to be attacked, and to learn from.
LEAST_VICTIMS, LEAST_PUBLIC = 4, 16
_TUNED_ON = 4
_SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How hard the attackers try.

    Attributes:
        victims: Pictures attacked.
        steps: Of white-box gradient descent.
        network_s: Seconds of processor time to train each inverse network.
        averaged: Releases of one frame that the averaging attacker has.

    """

    victims: int = 16
    steps: int = 1000
    network_s: float = 240.0
    averaged: int = 16


QUICK = Effort(victims=6, steps=200, network_s=10.0)


@dataclass
class Auditor:
    """Attacks one bundle with one set of pictures.

    Args:
        bundle: What is audited.
        victims: Pictures that are attacked [n, height, width, channels].
        public: Other pictures, that the attackers learn from.
        effort: How hard they try.
        folder: Where finished settings are kept, so that an interrupted audit goes on.
        progress: Told of every finished step.

    """

    bundle: Bundle
    victims: Floats
    public: Floats
    effort: Effort
    folder: Path
    progress: Progress = field(default=lambda *_: None)
    skipped: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Check that there are pictures enough."""
        if len(self.victims) < LEAST_VICTIMS or len(self.public) < LEAST_PUBLIC:
            raise BadInputError(
                f"{len(self.victims)} pictures to attack and {len(self.public)} to learn from",
                remedy=f"give at least {LEAST_VICTIMS} and {LEAST_PUBLIC}; see --public",
            )
        self._space = PictureSpace.of(self.bundle)

    def run(self, cuts: Sequence[Cut], wishes: Wishes) -> Audit:
        """Attack every setting of these cuts."""
        import torch

        torch.set_num_threads(1)  # more than one costs time where others want the cores too
        references = self._references()
        answer_high = references[-1].ssim_high
        wanted = [(cut, one) for cut in cuts for one in settings(self.bundle, cut, wishes, os.urandom)]
        results = []
        for done, (cut, setting) in enumerate(wanted):
            self.progress(f"cut {cut.index}, {setting.name}", done, len(wanted))
            results.append(self._result(setting, answer_high))
        self.progress("audit", len(wanted), len(wanted))
        return Audit(
            bundle=self.bundle.manifest.name,
            identity=self.bundle.identity,
            victims=len(self.victims),
            public=len(self.public),
            quick=self.effort.steps == QUICK.steps,
            references=references,
            results=results,
            skipped=sorted(set(self.skipped)),
        )

    def _result(self, setting: Setting, answer_high: float) -> Result:
        kept = self.folder / f"{self._key(setting)}.json"
        if kept.is_file():
            return msgspec.json.decode(kept.read_bytes(), type=Result)
        attacks, pictures = self._attack(setting)
        found, bound = self._identify(setting)
        best = attacks[0]
        name = f"{self._key(setting)}.npz"
        with (self.folder / name).open("wb") as file:
            np.savez_compressed(file, pictures=(pictures[best.attacker][:_SHOWN] * 255).astype(np.uint8))
        whole = setting.whole_input_epsilon
        result = Result(
            cut=setting.cut.index,
            mechanism=setting.mechanism,
            setting=setting.name,
            per_value_epsilon=setting.per_value_epsilon,
            whole_input_epsilon=whole if math.isfinite(whole) else None,
            attacks=attacks,
            found=found,
            bound=bound,
            candidates=len(self.victims),
            reveals=reveals(best.ssim, best.ssim_low, answer_high),
            pictures=name,
        )
        write_atomically(kept, msgspec.json.encode(result))
        return result

    def _attack(self, setting: Setting) -> tuple[list[Attack], dict[str, Floats]]:
        """Every attacker that can be tried, the strongest on one release first, and what each saw."""
        head = _Head(self.bundle, setting.cut, self._space)
        of_public, of_victims = head(self.public), head(self.victims)
        arrived = [setting.arrive(one) for one in of_victims]
        network = InverseNetwork(
            lambda chosen: [setting.arrive(of_public[number]) for number in chosen],
            self.public,
            budget_s=self.effort.network_s,
        )
        drawn = network(arrived)
        seen = {"inverse network": (drawn, f"{network.epochs:.1f} epochs of {len(self.public)} pictures")}
        white_box = self._white_box(setting)
        if white_box is not None:
            few = self.public[:_TUNED_ON]
            tried = [setting.arrive(one) for one in of_public[:_TUNED_ON]]
            white_box.tune(few, tried, network(tried))
            seen["white box"] = (white_box(arrived, drawn), f"prior {white_box.prior:g}")
            if setting.mechanism == "noise":
                count = self.effort.averaged
                means = [_mean(setting, features, count) for features in of_victims]
                seen[f"white box, {count} releases"] = (white_box(means, network(means)), "of one still scene")
        attacks = []
        for name, (pictures, note) in seen.items():
            ssim, low, high = interval(similarity(pictures, self.victims))
            psnr = float(decibels(pictures, self.victims).mean())
            attacks.append(Attack(attacker=name, ssim=ssim, ssim_low=low, ssim_high=high, psnr_db=psnr, note=note))
        attacks.sort(key=lambda attack: ("releases" in attack.attacker, -attack.ssim))
        return attacks, {name: pictures for name, (pictures, _) in seen.items()}

    def _white_box(self, setting: Setting) -> WhiteBox | None:
        """The white-box attacker; None, with the reason in `skipped`, where the head has no gradient."""
        if setting.mechanism == "codebook":
            self.skipped.append("white box on codebooks: a codeword has no gradient; see the likelihood test")
            return None
        try:
            head = _torch_head(self.bundle, setting.cut, self._space, self.public[:1])
        except BadModelError as error:
            self.skipped.append(f"white box: {error}")
            return None
        if head is None:
            self.skipped.append(f"white box at cut {setting.cut.index}: the input itself leaves there")
            return None
        return WhiteBox(head, self._space, setting.spread, steps=self.effort.steps)

    def _identify(self, setting: Setting) -> tuple[float | None, float | None]:
        """How often the exact likelihood picks a frame out of all that are attacked."""
        if setting.likelihood is None:
            return None, None
        features = _Head(self.bundle, setting.cut, self._space)(self.victims)
        likelihood = setting.likelihood(features)
        none = np.zeros((len(features), 1), np.float32)
        generator = np.random.default_rng(0)
        right = [
            guess(likelihood([setting.send([part.copy() for part in one])]), none, generator=generator).candidate
            == at
            for at, one in enumerate(features)
        ]
        return float(np.mean(right)), identification_bound(setting.whole_input_epsilon, len(features))

    def _references(self) -> list[Reference]:
        """The mean public picture, and that of the class that the unsplit model answers."""
        mean = np.broadcast_to(self.public.mean(axis=0), self.victims.shape)
        found = [_reference("the mean public picture", mean, self.victims)]
        manifest = self.bundle.manifest
        output = 0 if manifest.answer is None else manifest.answer.output
        model = open_interpreter(self.bundle.path(manifest.model))
        of_public, of_victims = (
            np.array([int(model.run([one])[output].argmax()) for one in self._space.inputs(side)])
            for side in (self.public, self.victims)
        )
        of_class = [
            self.public[of_public == kind].mean(axis=0) if (of_public == kind).any() else mean[0]
            for kind in of_victims
        ]
        found.append(_reference("the mean public picture of the answer's class", np.stack(of_class), self.victims))
        return sorted(found, key=lambda reference: reference.ssim)

    def _key(self, setting: Setting) -> str:
        """What a result follows from."""
        known = hashlib.sha256(self.bundle.identity.encode())
        for part in (setting.cut.index, setting.name, self.effort):
            known.update(repr(part).encode())
        for pictures in (self.victims, self.public):
            known.update(np.ascontiguousarray(pictures).tobytes())
        return known.hexdigest()[:24]


def _copied(features: Sequence[Array]) -> list[Array]:
    return [part.copy() for part in features]


class _Head:
    """Pictures to the features of a cut."""

    def __init__(self, bundle: Bundle, cut: Cut, space: PictureSpace) -> None:
        self._head = None if cut.head is None else open_interpreter(bundle.path(cut.head))
        self._space = space

    def __call__(self, pictures: Floats) -> list[list[Array]]:
        inputs = self._space.inputs(pictures)
        if self._head is None:
            return [[one] for one in inputs]
        head = self._head
        return [[part.copy() for part in head.run([one])] for one in inputs]


def _mean(setting: Setting, features: Sequence[Array], count: int) -> list[Floats]:
    """The mean of several releases of one frame."""
    releases = [setting.arrive(features) for _ in range(count)]
    return [np.mean(parts, axis=0, dtype=np.float32) for parts in zip(*releases, strict=True)]


def _torch_head(bundle: Bundle, cut: Cut, space: PictureSpace, picture: Floats) -> TorchHead | None:
    """The head with a gradient, checked; None at cut 0, where there is no head."""
    if cut.head is None:
        return None
    path = bundle.path(cut.head)
    head = TorchHead(path)
    head.check(open_interpreter(path), space.inputs(picture))
    return head


def _reference(name: str, pictures: Any, victims: Floats) -> Reference:
    ssim, low, high = interval(similarity(pictures, victims))
    psnr = float(decibels(pictures, victims).mean())
    return Reference(name=name, ssim=ssim, ssim_low=low, ssim_high=high, psnr_db=psnr)
