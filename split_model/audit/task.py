"""What each audited setting leaves of the task: agreement, with and without a tail that was trained with noise."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import msgspec

from split_model.audit.results import Result, Task
from split_model.audit.settings import Wishes
from split_model.bundle import Bundle, Cut
from split_model.bundle.evaluation import Row
from split_model.features.data import Data
from split_model.features.samples import Sample
from split_model.prepare.evaluate.measure import evaluate
from split_model.privacy import NoiseSpec, default_bits

#: Samples that agreement is measured on, at most.
_MOST = 200
_DRAWS = 2

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TaskMeasure:
    """Measures agreement on the same data, for every release of some cuts.

    Attributes:
        data: Samples; the first of them are taken.
        cuts: Where to release.
        wishes: How.
        progress: Told of every sample.

    """

    data: Data
    cuts: Sequence[Cut]
    wishes: Wishes
    progress: Progress

    def __call__(self, bundle: Bundle, results: Sequence[Result]) -> list[Result]:
        """The results with their tasks."""
        aware = self._rows(bundle)
        plain = self._rows(_untrained(bundle)) if any(cut.noise_tails for cut in self.cuts) else []
        return [msgspec.structs.replace(result, task=_task(result, aware, plain)) for result in results]

    def _rows(self, bundle: Bundle) -> list[Row]:
        by_bits: dict[int, list[float]] = {}
        for epsilon in self.wishes.epsilons:
            by_bits.setdefault(self.wishes.bits or default_bits(epsilon), []).append(epsilon)
        groups = list(by_bits.items()) or [(8, [])]
        return [row for bits, epsilons in groups for row in self._measured(bundle, epsilons, bits)]

    def _measured(self, bundle: Bundle, epsilons: Sequence[float], bits: int) -> Sequence[Row]:
        calibrated = [cut.index for cut in self.cuts if cut.calibration is not None]
        has_books = any(cut.codebooks for cut in self.cuts)
        if not calibrated or not (epsilons or has_books):
            return []
        found = evaluate(
            bundle,
            _Few(self.data, _MOST),
            cuts=calibrated,
            epsilons=epsilons,
            whole_input_epsilons=self.wishes.codebook_epsilons if has_books else (),
            allocations=self.wishes.allocations,
            bits=bits,
            draws=_DRAWS,
            entropy=os.urandom,
            progress=self.progress,
        )
        return found.rows


def _task(result: Result, aware: Sequence[Row], plain: Sequence[Row]) -> Task | None:
    spec = result.spec or result.codebook
    if spec is None:
        return None
    row = _of(result.cut, spec, aware)
    if row is None:
        return None
    if not row.noise_aware:
        return Task(agreement=row.agreement, accuracy=row.accuracy)
    untrained = _of(result.cut, spec, plain)
    return Task(
        agreement=None if untrained is None else untrained.agreement,
        accuracy=row.accuracy,
        aware=row.agreement,
    )


def _of(cut: int, spec: object, rows: Sequence[Row]) -> Row | None:
    mechanism = "noise" if isinstance(spec, NoiseSpec) else "codebook"
    for row in rows:
        if (row.cut, row.mechanism) == (cut, mechanism) and spec in (row.spec, row.codebook):
            return row
    return None


def _untrained(bundle: Bundle) -> Bundle:
    """The same bundle without the tails that were trained with noise."""
    cuts = tuple(msgspec.structs.replace(cut, noise_tails=()) for cut in bundle.manifest.cuts)
    return Bundle(bundle.root, msgspec.structs.replace(bundle.manifest, cuts=cuts), bundle.identity)


class _Few(Data):
    """The first samples of some data."""

    def __init__(self, data: Data, most: int) -> None:
        self._data, self._count = data, min(most, len(data))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Sample]:
        return islice(self._data, self._count)
