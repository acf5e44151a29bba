"""Judges releases on held-out pictures: options, each answer's agreement, and the resulting rows.

Pictures are the unit. A release that clearly fails is stopped before all pictures are measured; one that may pass
is drawn several times per picture.
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

#: Minimum pictures before a release may be judged as failed, and the confidence for that.
_BLOCK, _SURE = 4, 0.99


@dataclass(frozen=True, kw_only=True)
class FigureOptions:
    """The ladder of releases, and the number of draws.

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
    """The unsplit model's answers to the pictures, and the agreement of other answers with them."""

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
    """Mean agreement and output error of each measured picture, in order; ``draws``: per picture."""

    agreements: list[float]
    errors: list[float]
    draws: int


def judge(pictures: Sequence[int], once: Callable[[int], tuple[float, float]], options: FigureOptions) -> Judged:
    """Draw releases until they clearly fail, or until every picture has the wanted number of draws."""
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
