"""The audit: every attacker on every setting of a bundle, resumable, one result a setting."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from split_model.audit.attackers.learned_prior import LearnedPrior
from split_model.audit.cut_under_attack import OfCut
from split_model.audit.effort import QUICK, Effort, Randomness
from split_model.audit.identity import People, as_answers
from split_model.audit.likelihood import identification_bound
from split_model.audit.pictures import Floats, PictureSpace
from split_model.audit.posterior import guess
from split_model.audit.quality import decibels, interval, similarity
from split_model.audit.results import Attack, Audit, Identity, Reference, Result
from split_model.audit.settings import Setting, Wishes, settings
from split_model.audit.suite import Suite
from split_model.audit.verdict import reveals
from split_model.bundle import Bundle, Cut
from split_model.errors import BadInputError
from split_model.interpreter import open_interpreter
from split_model.privacy import CodebookSpec, NoiseSpec
from split_model.service.atomic_file import write_atomically

__all__ = ["QUICK", "Auditor", "Effort"]

Progress = Callable[[str, int, int], None]

#: Of the attackers: one more, or a stronger one, makes work files of before void.
_GENERATION = 4
#: Of what a result has: attackers that were tried before are not tried again for a new one.
_SUITE = 2
#: Pictures that an attack needs at least: to be attacked, and to learn from.
LEAST_VICTIMS, LEAST_PUBLIC = 4, 16
_SHOWN = 6


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
        people: Pictures of known people, to be named; None without.

    """

    bundle: Bundle
    victims: Floats
    public: Floats
    effort: Effort
    folder: Path
    progress: Progress = field(default=lambda *_: None)
    people: People | None = None
    skipped: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Check that there are pictures enough."""
        if len(self.victims) < LEAST_VICTIMS or len(self.public) < LEAST_PUBLIC:
            raise BadInputError(
                f"{len(self.victims)} pictures to attack and {len(self.public)} to learn from",
                remedy=f"give at least {LEAST_VICTIMS} and {LEAST_PUBLIC}; see --public",
            )
        self._space = PictureSpace.of(self.bundle)
        self._randomness = Randomness()
        known = hashlib.sha256(f"{_GENERATION} {self.bundle.identity} {self.effort!r}".encode())
        for pictures in (self.victims, self.public):
            known.update(np.ascontiguousarray(pictures).tobytes())
        self._known = known
        self._learned: LearnedPrior | None = None

    def run(self, cuts: Sequence[Cut], wishes: Wishes) -> Audit:
        """Attack every setting of these cuts."""
        import torch

        torch.set_num_threads(1)  # more than one costs time where others want the cores too
        references = self._references()
        answer = None if self.people is None else as_answers(self.bundle, self._space, self.people)
        results: list[Result] = []
        of_cuts = [(cut, settings(self.bundle, cut, wishes, self._randomness)) for cut in cuts]
        total = sum(len(of_one) for _, of_one in of_cuts)
        for cut, of_one in of_cuts:
            shared: list[OfCut] = []
            for setting in of_one:
                self.progress(f"cut {cut.index}, {setting.name}", len(results), total)
                results.append(self._result(setting, shared, references[-1].ssim_high, answer))
        self.progress("audit", total, total)
        return Audit(
            bundle=self.bundle.manifest.name,
            identity=self.bundle.identity,
            victims=len(self.victims),
            public=len(self.public),
            quick=self._is_quick,
            references=references,
            results=results,
            skipped=sorted(set(self.skipped)),
            answer_identity=answer,
        )

    def _result(self, setting: Setting, shared: list[OfCut], answer_high: float, answer: Identity | None) -> Result:
        """Return the result of one setting, kept or new.

        ``shared``: a list, empty at the first attacked setting of a cut; that one adds the `OfCut` that the
        others use.
        """
        key = self._key(setting)
        named = "" if self.people is None else f"-{self.people.digest[:12]}"
        kept = self.folder / f"{key}{named}-{_SUITE}.json"
        if kept.is_file():
            done = msgspec.json.decode(kept.read_bytes(), type=_Kept)
            self.skipped += done.skipped
            return done.result
        if not shared:
            skipped: list[str] = []
            shared.append(
                OfCut(self.bundle, setting.cut, self._space, self.victims, self.public, self.effort, skipped)
            )
        of_cut = shared[0]
        thorough = not self._is_quick
        suite = Suite(of_cut, setting, key, self.folder, self._randomness, self._prior, thorough)
        seen = suite()
        attacks = [
            _attack(of_cut, name, pictures, self.victims, suite.notes[name]) for name, pictures in seen.items()
        ]
        attacks.sort(key=lambda attack: (attack.attacker.endswith("releases"), -attack.ssim))
        best = attacks[0]
        name = f"{key}.npz"
        with (self.folder / name).open("wb") as file:
            np.savez_compressed(file, pictures=(seen[best.attacker][:_SHOWN] * 255).astype(np.uint8))
        found, bound = self._identify(setting, of_cut, key)
        identity = None
        if self.people is not None:
            self._randomness.restart(f"{key} people")
            identity = self.people.named(of_cut.read, setting)
        whole = setting.whole_input_epsilon
        result = Result(
            cut=setting.cut.index,
            mechanism=setting.mechanism,
            setting=setting.name,
            spec=setting.spec if isinstance(setting.spec, NoiseSpec) else None,
            codebook=setting.spec if isinstance(setting.spec, CodebookSpec) else None,
            per_value_epsilon=setting.per_value_epsilon,
            whole_input_epsilon=whole if math.isfinite(whole) else None,
            payload_bytes=setting.payload_bytes,
            attacks=attacks,
            found=found,
            bound=bound,
            candidates=len(self.victims),
            reveals=reveals(best.ssim, best.ssim_low, answer_high, identified=_beyond(identity, answer)),
            pictures=name,
            network=suite.network_file,
            identity=identity,
        )
        self.skipped += of_cut.skipped
        write_atomically(kept, msgspec.json.encode(_Kept(result, sorted(set(of_cut.skipped)))))
        return result

    def _identify(self, setting: Setting, of_cut: OfCut, key: str) -> tuple[float | None, float | None]:
        """How often the exact likelihood picks a frame out of all that are attacked."""
        if setting.likelihood is None:
            return None, None
        features = of_cut.of_victims
        likelihood = setting.likelihood(features)
        none = np.zeros((len(features), 1), np.float32)
        generator = np.random.default_rng(0)
        self._randomness.restart(f"{key} picked out")
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

    def _prior(self) -> LearnedPrior:
        """The learned prior, trained once an audit."""
        if self._learned is None:
            path = self.folder / f"prior-{self._known.hexdigest()[:24]}.npz"
            if not path.is_file():
                LearnedPrior.train(self.public, budget_s=self.effort.prior_s).save(path)
            self._learned = LearnedPrior.load(path)
        return self._learned

    @property
    def _is_quick(self) -> bool:
        """Whether the attackers try no harder than those of ``--quick``."""
        return self.effort.steps <= QUICK.steps

    def _key(self, setting: Setting) -> str:
        """What a result follows from."""
        known = self._known.copy()
        known.update(repr((setting.cut.index, setting.name)).encode())
        return known.hexdigest()[:24]


class _Kept(msgspec.Struct, frozen=True):
    """A finished setting in the work folder."""

    result: Result
    skipped: list[str]


def _beyond(identity: Identity | None, answer: Identity | None) -> bool:
    """Whether people are named better than by the answer alone, beyond both intervals."""
    if identity is None or answer is None:
        return False
    return identity.best.low > answer.best.high


def _attack(of_cut: OfCut, name: str, pictures: Floats, victims: Floats, note: str) -> Attack:
    ssim, low, high = interval(similarity(pictures, victims))
    return Attack(
        attacker=name,
        ssim=ssim,
        ssim_low=low,
        ssim_high=high,
        psnr_db=float(decibels(pictures, victims).mean()),
        feature_distance=of_cut.distance(pictures),
        note=note,
    )


def _reference(name: str, pictures: Any, victims: Floats) -> Reference:
    ssim, low, high = interval(similarity(pictures, victims))
    psnr = float(decibels(pictures, victims).mean())
    return Reference(name=name, ssim=ssim, ssim_low=low, ssim_high=high, psnr_db=psnr)
