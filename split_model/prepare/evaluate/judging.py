"""How releases are judged on pictures that taught nothing: what to measure, each answer's agreement, and the rows.

Pictures are the unit: those of a release that clearly fails are not all looked at, and one that may pass is drawn
several times a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from split_model.bundle import Bundle, Cut
from split_model.bundle.evaluation import Row
from split_model.bundle.floor import DEFAULT_FLOOR, Floor
from split_model.prepare.evaluate.agreement import measure_for
from split_model.prepare.evaluate.intervals import bootstrap, lower_bound, upper_bound, wilson
from split_model.prepare.outputs import Floats, Spread, output_weights, squared_errors
from split_model.privacy import CodebookPlan, NoisePlan

#: Pictures looked at before a release may be found to fail, and how sure that must be.
_BLOCK, _SURE = 4, 0.99


@dataclass(frozen=True, kw_only=True)
class FigureOptions:
    """The ladder, and how much to draw.

    ``epsilons``: mean per value, of the noise release under ``auto``, each with all ``bits``; ``more_epsilons``:
    with the default bits alone. The other allocations are measured under the default release. Per group of
    codewords, ``group_epsilons``. ``draws``: of a picture under a release that may pass ``floor``.
    """

    epsilons: tuple[float, ...] = (8.0, 16.0)
    more_epsilons: tuple[float, ...] = (2.0, 4.0, 12.0, 32.0, 64.0)
    bits: tuple[int, ...] = (4, 5, 6, 7, 8)
    group_epsilons: tuple[float, ...] = (2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0)
    draws: int = 4
    threads: int = 2
    seed: int = 0
    floor: Floor = DEFAULT_FLOOR


class Truth:
    """What the unsplit model answers to each picture, and how well other answers agree with that."""

    def __init__(self, bundle: Bundle, unsplit: Sequence[Sequence[Floats]]) -> None:
        self.measure = measure_for(bundle)
        self._unsplit = unsplit
        self.spread = Spread(output_weights(bundle.manifest))
        for outputs in unsplit:
            self.spread.add(outputs)

    def judge(self, picture: int, outputs: Sequence[Floats]) -> tuple[float, float]:
        """The agreement of an answer, and the error of its outputs."""
        known = self._unsplit[picture]
        agreement = self.measure.agreement(self.measure.note(outputs, known), self.spread)
        return agreement, self.spread.error(squared_errors(outputs, known))


@dataclass(frozen=True)
class Judged:
    """Of the pictures looked at, in order: each one's mean agreement and output error; ``draws`` of each."""

    agreements: list[float]
    errors: list[float]
    draws: int


def judge(pictures: Sequence[int], once: Callable[[int], tuple[float, float]], options: FigureOptions) -> Judged:
    """Draw releases until it is clear that they fail, or of every picture as often as was asked for."""
    drawn: list[list[tuple[float, float]]] = []
    for looked, picture in enumerate(pictures, 1):
        drawn.append([once(picture)])
        if looked % _BLOCK == 0 and _fails([of_one[0][0] for of_one in drawn], options.floor):
            break
    draws = 1
    if not _fails([of_one[0][0] for of_one in drawn], options.floor):
        for _ in range(1, options.draws):
            for of_one, picture in zip(drawn, pictures, strict=True):
                of_one.append(once(picture))
        draws = options.draws
    means = np.mean(drawn, axis=1)
    return Judged(means[:, 0].tolist(), means[:, 1].tolist(), draws)


def _fails(agreements: Sequence[float], floor: Floor) -> bool:
    return upper_bound(sum(agreements), len(agreements), _SURE) < floor.value


def as_row(cut: Cut, plan: NoisePlan | CodebookPlan, judged: Judged, *, aware: bool = False) -> Row:
    pictures = len(judged.agreements)
    agreed = min(float(pictures), sum(judged.agreements))
    return Row(
        cut=cut.index,
        mechanism="noise" if isinstance(plan, NoisePlan) else "codebook",
        tensors=tuple(tensor.name for tensor in cut.tensors),
        spec=plan.spec if isinstance(plan, NoisePlan) else None,
        codebook=plan.spec if isinstance(plan, CodebookPlan) else None,
        payload_bytes=plan.payload_bytes,
        draws=judged.draws,
        agreement=wilson(agreed / pictures, pictures),
        agreement_bound=lower_bound(agreed, pictures),
        accuracy=None,
        output_error=bootstrap(judged.errors),
        per_value_epsilon_max=plan.per_value_epsilon_max,
        per_value_epsilon_mean=plan.per_value_epsilon_mean,
        whole_input_epsilon=plan.whole_input_epsilon,
        noise_aware=aware,
    )
