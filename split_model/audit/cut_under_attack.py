"""What all settings of one cut share: pictures, features, the head's gradient, a substitute for the head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from split_model.arrays import Array
from split_model.audit.attackers.substitute import Substitute
from split_model.audit.attackers.white_box import Head
from split_model.audit.augmentation import augmented
from split_model.audit.effort import Effort
from split_model.audit.pictures import Floats, PictureSpace
from split_model.audit.torch_head import TorchHead
from split_model.bundle import Bundle, Cut
from split_model.errors import BadModelError
from split_model.interpreter import open_interpreter

#: Bytes of features of the augmented pictures that are held at once.
_MOST_BYTES = 400e6
#: A substitute is trained through tails of this many multiply-adds at most.
_SUBSTITUTE_MACS = 60e6


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

    @cached_property
    def tail(self) -> TorchHead | None:
        """The tail with a gradient, to train a substitute head through; None, with the reason kept, without one."""
        cut = self.cut
        if cut.head is None or len(cut.tensors) != 1 or len(cut.tensors[0].shape) != 4:
            why = "no single map leaves there"
        elif cut.tail_macs > _SUBSTITUTE_MACS:
            why = "its tail takes too long to train through"
        else:
            try:
                return TorchHead(self.bundle.path(cut.tail))
            except BadModelError as error:
                why = str(error)
        self.skipped.append(f"substitute head at cut {cut.index}: {why}")
        return None

    @cached_property
    def substitute(self) -> Substitute:
        """The attacker's substitute for the head, trained through the real tail on first use."""
        cut, manifest = self.cut, self.bundle.manifest
        assert self.tail is not None
        model = open_interpreter(self.bundle.path(manifest.model))
        answered = [[part.copy() for part in model.run([one])] for one in self.space.inputs(self.public)]
        answers = [np.concatenate(parts).astype(np.float32) for parts in zip(*answered, strict=True)]
        known = cut.calibration
        positive = known is not None and min(known[0].clip_low) >= 0
        made = Substitute(self.space, cut.tensors[0].shape, positive=positive)
        made.train(self.tail, cut.tail_macs, self.public, answers, budget_s=self.effort.network_s)
        return made

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


def _same(inputs: Sequence[Any]) -> Sequence[Any]:
    """The head of cut 0, where the input itself leaves."""
    return inputs
