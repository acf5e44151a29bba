"""Who is it? How often a release names the person, or another label, of a picture.

The attacker has pictures of every person, and attacks other pictures of the same people. *Retrieval* takes the
person of the nearest known picture, in the features that arrived; *the probe* is a linear classifier (ridge
regression onto one-hot labels, in its dual form) trained on releases of the known pictures. Both use the features
that arrive and nothing later of the model. A folder may hold any labels: the same figures tell of attributes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_model.arrays import Array
from split_model.audit.pictures import Floats, PictureSpace
from split_model.audit.results import Identity
from split_model.audit.settings import Setting
from split_model.bundle import Bundle
from split_model.errors import BadInputError
from split_model.features.data import Data
from split_model.interpreter import open_interpreter
from split_model.prepare.evaluate.intervals import wilson

#: Releases of every known picture that the probe learns from; noise is new in each.
_RELEASES = 3
_SHRINKAGE = (1e-3, 1e-2, 1e-1, 1.0)
_LEAST_PEOPLE, _LEAST_EACH = 2, 4
_MOST_VALUES = 60_000
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class People:
    """Pictures of known people.

    Attributes:
        known: Pictures that the attacker has [n, height, width, channels]; ``of_known``: whose.
        attacked: Other pictures of the same people; ``of_attacked``: whose.

    """

    known: Floats
    of_known: Ints
    attacked: Floats
    of_attacked: Ints

    @classmethod
    def of(cls, data: Data, space: PictureSpace) -> People:
        """Every second picture of each person is known, the others are attacked.

        Raises:
            BadInputError: Too few people or pictures, or pictures without a label.

        """
        samples = list(data)
        if any(sample.label is None for sample in samples):
            raise BadInputError(
                "--people: pictures without a label", remedy="give a folder with a sub-folder a person"
            )
        labels = np.array([sample.label for sample in samples], np.int64)
        counts = np.unique(labels, return_counts=True)[1]
        if len(counts) < _LEAST_PEOPLE or counts.min() < _LEAST_EACH:
            raise BadInputError(
                f"--people: {len(counts)} people with {counts.min() if len(counts) else 0} pictures at least",
                remedy=f"give {_LEAST_PEOPLE} people or more with {_LEAST_EACH} pictures each",
            )
        pictures = space.pictures([sample.tensors[0] for sample in samples])
        turn = np.array([int((labels[:at] == label).sum()) % 2 for at, label in enumerate(labels)])
        return cls(pictures[turn == 0], labels[turn == 0], pictures[turn == 1], labels[turn == 1])

    @property
    def digest(self) -> str:
        """Of all pictures and labels."""
        known = hashlib.sha256()
        for part in (self.known, self.of_known, self.attacked, self.of_attacked):
            known.update(np.ascontiguousarray(part).tobytes())
        return known.hexdigest()

    def named(self, read: Callable[[Floats], list[list[Array]]], setting: Setting) -> Identity:
        """How often the people of the attacked pictures are named from one release each."""
        gallery = _rows([setting.arrive(one) for one in read(self.known) for _ in range(_RELEASES)])
        return self.identity(gallery, _rows([setting.arrive(one) for one in read(self.attacked)]))

    def identity(self, gallery: Floats, probes: Floats) -> Identity:
        """The same from rows of values: of each known picture one or more in a row, of each attacked one one."""
        releases = len(gallery) // len(self.of_known)
        centre, scale = gallery.mean(0), gallery.std(0) + 1e-6
        gallery, probes = (gallery - centre) / scale, (probes - centre) / scale
        of_gallery = np.repeat(self.of_known, releases)
        pictures = gallery.reshape(len(self.of_known), releases, -1).mean(1)
        nearest = self.of_known[_distances(probes, pictures).argmin(1)]
        probed = _probed(gallery, of_gallery, probes, releases)
        count = len(self.of_attacked)
        return Identity(
            people=len(np.unique(self.of_known)),
            retrieval=wilson(float((nearest == self.of_attacked).mean()), count),
            probe=wilson(float((probed == self.of_attacked).mean()), count),
        )


def as_answers(bundle: Bundle, space: PictureSpace, people: People) -> Identity:
    """The same from all outputs of the unsplit model: the part that no features are needed for."""
    model = open_interpreter(bundle.path(bundle.manifest.model))

    def answers(pictures: Floats) -> Floats:
        found = [[part.astype(np.float32) for part in model.run([one])] for one in space.inputs(pictures)]
        return _rows(found)

    return people.identity(answers(people.known), answers(people.attacked))


def _rows(released: Sequence[Sequence[Any]]) -> Floats:
    """Features as rows; of very many values evenly chosen ones."""
    rows = np.stack([np.concatenate([part.reshape(-1) for part in one]).astype(np.float32) for one in released])
    step = max(1, -(-rows.shape[1] // _MOST_VALUES))
    return np.ascontiguousarray(rows[:, ::step])


def _distances(some: Floats, others: Floats) -> NDArray[np.float64]:
    squares = (some.astype(np.float64) ** 2).sum(1)[:, None] + (others.astype(np.float64) ** 2).sum(1)[None]
    found: NDArray[np.float64] = squares - 2 * (some @ others.T)
    return found


def _probed(gallery: Floats, of_gallery: Ints, probes: Floats, releases: int) -> Ints:
    """Ridge regression onto one-hot labels; its shrinkage chosen by leaving every fourth known picture out."""
    kinds = np.unique(of_gallery)
    wanted = (of_gallery[:, None] == kinds[None]).astype(np.float64)
    gram = (gallery @ gallery.T).astype(np.float64)
    unit = float(np.trace(gram)) / len(gram)
    held = (np.arange(len(gallery)) // releases) % 4 == 0
    best, most = _SHRINKAGE[0], -1.0
    for shrinkage in _SHRINKAGE:
        inner = gram[np.ix_(~held, ~held)] + shrinkage * unit * np.eye(int((~held).sum()))
        scores = gram[np.ix_(held, ~held)] @ np.linalg.solve(inner, wanted[~held])
        right = float((kinds[scores.argmax(1)] == of_gallery[held]).mean())
        if right > most:
            best, most = shrinkage, right
    solved = np.linalg.solve(gram + best * unit * np.eye(len(gram)), wanted)
    found: Ints = kinds[((probes @ gallery.T).astype(np.float64) @ solved).argmax(1)]
    return found
