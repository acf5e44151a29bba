"""Every attacker on one setting: what each makes of the same releases, kept so that an audit can go on."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from split_model.arrays import Array
from split_model.audit.attackers.decoder import Decoder
from split_model.audit.attackers.inverse_network import InverseNetwork
from split_model.audit.attackers.learned_prior import LearnedPrior
from split_model.audit.attackers.white_box import Head, Noise, WhiteBox, total_variation
from split_model.audit.augmentation import augmented
from split_model.audit.pictures import Floats, PictureSpace
from split_model.audit.settings import Setting
from split_model.audit.torch_head import TorchHead
from split_model.bundle import Bundle, Cut
from split_model.errors import BadModelError
from split_model.interpreter import open_interpreter
from split_model.service.atomic_file import write_atomically

_TUNED_ON = 4
_LEARNED = "learned prior"
#: Bytes of features of the augmented pictures that are held at once.
_MOST_BYTES = 400e6
#: A feature loss is worth its time where the head is small.
_FEATURE_LOSS_MACS = 60e6


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How hard the attackers try.

    Attributes:
        victims: Pictures attacked.
        steps: Of white-box gradient descent.
        network_s: About the seconds of one core to train each inverse network.
        prior_s: The same for the learned prior, which is trained once.
        averaged: Releases of one frame that the averaging attacker has.
        augmented: Pictures that the inverse network sees, variations included.

    """

    victims: int = 16
    steps: int = 1000
    network_s: float = 240.0
    prior_s: float = 120.0
    averaged: int = 16
    augmented: int = 2000


QUICK = Effort(victims=6, steps=150, network_s=10.0, prior_s=5.0, augmented=400)


class Randomness:
    """Random bytes that begin anew for every piece of work, so that a repeated audit finds the same.

    For the audit's own releases alone: a device draws from its operating system.
    """

    def __init__(self) -> None:
        self._source = random.Random()  # noqa: S311  no secret is protected here

    def restart(self, label: str) -> None:
        """Begin the bytes of one piece of work."""
        self._source = random.Random(hashlib.sha256(label.encode()).digest())  # noqa: S311

    def __call__(self, count: int) -> bytes:
        """See `os.urandom`."""
        return self._source.randbytes(count)


class FeatureReader:
    """Pictures to the features of a cut, by the interpreter."""

    def __init__(self, bundle: Bundle, cut: Cut, space: PictureSpace) -> None:
        self._head = None if cut.head is None else open_interpreter(bundle.path(cut.head))
        self._space = space

    def __call__(self, pictures: Floats) -> list[list[Array]]:
        """By picture, the live tensors [1, ...]."""
        inputs = self._space.inputs(pictures)
        if self._head is None:
            return [[one] for one in inputs]
        return [[part.copy() for part in self._head.run([one])] for one in inputs]


@dataclass
class OfCut:
    """What all settings of one cut share. Features are read when first asked for.

    Attributes:
        bundle: What is audited.
        cut: Where.
        space: Between pictures and inputs.
        victims: Pictures attacked [n, ...].
        public: Pictures known [n, ...].
        effort: How hard the attackers try.
        skipped: Collects what could not be tried, and why.

    """

    bundle: Bundle
    cut: Cut
    space: PictureSpace
    victims: Floats
    public: Floats
    effort: Effort
    skipped: list[str]

    def __post_init__(self) -> None:
        """Open the head."""
        self.read = FeatureReader(self.bundle, self.cut, self.space)
        self._pool: tuple[Floats, list[list[Array]]] | None = None
        self.of_victims = self.read(self.victims)
        self.gradient = self._gradient()

    @property
    def pool(self) -> tuple[Floats, list[list[Array]]]:
        """The public pictures with their variations, and the features of each."""
        if self._pool is None:
            most = max(len(self.public), int(_MOST_BYTES / max(1, self.cut.raw_bytes)))
            pictures = augmented(self.public, min(max(self.effort.augmented, len(self.public)), most))
            self._pool = (pictures, self.read(pictures))
        return self._pool

    def distance(self, pictures: Floats) -> float:
        """How far the features of pictures are from the victims'; see `results.Attack`."""
        mean = self.read(self.public.mean(axis=0)[None])[0]
        found, worst = 0.0, 0.0
        for ours, theirs in zip(self.read(pictures), self.of_victims, strict=True):
            for one, other, middle in zip(ours, theirs, mean, strict=True):
                found += float(((one.astype(np.float64) - other) ** 2).sum())
                worst += float(((middle.astype(np.float64) - other) ** 2).sum())
        return found / max(worst, 1e-12)

    def _gradient(self) -> Head | None:
        """The head with a gradient, checked; None, with the reason kept, where there is none."""
        if self.cut.head is None:
            return _same
        path = self.bundle.path(self.cut.head)
        try:
            head = TorchHead(path)
            head.check(open_interpreter(path), self.space.inputs(self.public[:1]))
        except BadModelError as error:
            self.skipped.append(f"white box: {error}")
            return None
        return head


@dataclass
class Suite:
    """Attacks one setting.

    Attributes:
        of_cut: The cut.
        setting: The release.
        key: Names the setting and all that its results follow from.
        folder: Where finished pieces are kept.
        randomness: What the setting's releases draw from.
        prior: Makes the learned prior when it is first needed.

    """

    of_cut: OfCut
    setting: Setting
    key: str
    folder: Path
    randomness: Randomness
    prior: Callable[[], LearnedPrior]
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def network_file(self) -> str:
        """The trained network, in the folder."""
        return f"{self.key}-network.npz"

    def __call__(self) -> dict[str, Floats]:
        """What each attacker drew [victims, ...], by its name; a name ends in ``releases`` where it had several."""
        of_cut, setting = self.of_cut, self.setting
        network = self._network()
        arrived = self._arrive("victims", of_cut.of_victims)
        drawn = self._kept("inverse network", lambda: network(arrived))
        seen = {"inverse network": drawn}
        if setting.mechanism == "codebook":
            of_cut.skipped.append("white box on codebooks: a codeword has no gradient; see the likelihood test")
            return seen
        several = f"{of_cut.effort.averaged} releases"
        means = self._means() if setting.mechanism == "noise" else []
        if means:
            seen[f"inverse network, {several}"] = self._kept(f"inverse network, {several}", lambda: network(means))
        if of_cut.gradient is None:
            return seen
        for name in ("white box", _LEARNED):
            seen[name] = self._kept(name, partial(self._follow, name, network, arrived, drawn))
        if means:
            name = f"white box, {several}"
            start = seen[f"inverse network, {several}"]
            seen[name] = self._kept(name, partial(self._follow, name, network, means, start))
        return seen

    def _follow(self, name: str, network: Decoder, arrived: Sequence[Sequence[Floats]], start: Floats) -> Floats:
        """The white box, its prior's weight chosen on public pictures."""
        of_cut = self.of_cut
        assert of_cut.gradient is not None
        penalty = self.prior() if name == _LEARNED else total_variation
        steps = of_cut.effort.steps
        noise = Noise(self.setting.spread, self.setting.limits)
        box = WhiteBox(of_cut.gradient, of_cut.space, noise, steps=steps, penalty=penalty)
        few, features = of_cut.public[:_TUNED_ON], of_cut.read(of_cut.public[:_TUNED_ON])
        count = of_cut.effort.averaged if name.endswith("releases") else 1
        self.randomness.restart(f"{self.key} tuning {name}")
        tried = [_mean([self.setting.arrive(one) for _ in range(count)]) for one in features]
        box.tune(few, tried, network(tried))
        self.notes[name] = f"weight of the prior {box.prior:g}"
        return box(arrived, start)

    def _network(self) -> Decoder:
        """The inverse network, trained or taken up. What is stored is what is used, with its rounding."""
        path = self.folder / self.network_file
        if not path.is_file():
            pictures, features = self.of_cut.pool
            macs = self.of_cut.cut.head_macs
            loss = None
            if self.of_cut.gradient is not None and macs <= _FEATURE_LOSS_MACS:
                head, space = self.of_cut.gradient, self.of_cut.space
                loss = lambda shown: head([space.torch_inputs(shown)])  # noqa: E731
            self.randomness.restart(f"{self.key} training")
            trained = InverseNetwork(
                lambda chosen: [self.setting.arrive(features[number]) for number in chosen],
                pictures,
                budget_s=self.of_cut.effort.network_s,
                features=loss,
                features_macs=macs,
            )
            write_atomically(path, trained.decoder.to_bytes())
        return Decoder.from_bytes(path.read_bytes(), str(path))

    def _arrive(self, label: str, features: Sequence[Sequence[Array]]) -> list[list[Floats]]:
        self.randomness.restart(f"{self.key} {label}")
        return [self.setting.arrive(one) for one in features]

    def _means(self) -> list[list[Floats]]:
        """The mean of several releases of each victim."""
        self.randomness.restart(f"{self.key} several")
        count = self.of_cut.effort.averaged
        return [_mean([self.setting.arrive(one) for _ in range(count)]) for one in self.of_cut.of_victims]

    def _kept(self, name: str, make: Callable[[], Floats]) -> Floats:
        path = self.folder / f"{self.key}-{name.replace(' ', '-').replace(',', '')}.npz"
        if not path.is_file():
            pictures = make()
            with path.with_suffix(".part").open("wb") as file:
                np.savez(file, pictures=pictures.astype(np.float16), note=self.notes.get(name, ""))
            path.with_suffix(".part").replace(path)
        with np.load(path) as kept:
            self.notes[name] = str(kept["note"])
            found: Floats = kept["pictures"].astype(np.float32)
        return found


def _mean(releases: Sequence[Sequence[Floats]]) -> list[Floats]:
    return [np.mean(parts, axis=0, dtype=np.float32) for parts in zip(*releases, strict=True)]


def _same(inputs: Sequence[Any]) -> Sequence[Any]:
    """The head of cut 0, where the input itself leaves."""
    return inputs
