"""Finds the best allocation of the budget at a cut, by a trial of each on public calibration samples.

The formula of `split_model.privacy.allocation` weighs noise energy by a gradient, which is a proxy. So each
allocation is measured as well, at equal total budget: the samples go through head, release and tail, and the
outputs are compared with those of the unprotected model. ``auto`` takes the best.

The noise is drawn from a seeded generator, so that the same inputs give the same bundle: the samples are public and
need no protection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from split_model.arrays import Array
from split_model.bundle import Allocation, AllocationChoice, AllocationTrial, ChannelCalibration, Cut
from split_model.errors import BadInputError, BadModelError, UsageError
from split_model.interpreter import Interpreter, open_interpreter
from split_model.prepare.calibrate.calibration import CutModels, Inputs
from split_model.prepare.outputs import Spread, real_outputs, squared_errors
from split_model.privacy import (
    ALLOCATIONS,
    NoisePlan,
    NoiseRelease,
    NoiseSpec,
    cut_channels,
    recover,
    relative_cost,
)
from split_model.privacy.plan import DEFAULT_BITS, DEFAULT_EPSILON
from split_model.service.terminal_text import counted
from split_model.terminal import Part, Table

#: Measured errors that differ by less count as equal.
_CHANCE = 0.03


@dataclass(frozen=True)
class TrialOptions:
    """Options of the trials. ``epsilon``: the mean per-value epsilon of the intended release.

    ``output_weights``: weight of each output; None: equal weights.
    """

    epsilon: float = DEFAULT_EPSILON
    bits: int = DEFAULT_BITS
    samples: int = 64
    draws: int = 2
    seed: int = 0
    backend: str | None = None
    output_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        NoiseSpec(epsilon=self.epsilon, bits=self.bits)
        if min(self.samples, self.draws) < 1:
            raise UsageError(
                "allocation trials need samples and draws", remedy="give at least one sample and one draw"
            )


def try_allocations(
    cut: CutModels,
    calibration: Sequence[ChannelCalibration],
    samples: Sequence[Inputs],
    *,
    options: TrialOptions,
    answer: int | None = None,
    noise_tail: Path | None = None,
) -> AllocationChoice | None:
    """Try each allocation at one cut; None if noise cannot be added to its tensors.

    ``answer``: the output that is read as classes, if any. ``noise_tail``: the tail under noise of this epsilon, if
    it is not the cut's own. The best is the one of least output error, or ``optimal`` if none is better by more
    than chance. The same arguments give the same numbers on the same machine.
    """
    try:
        channels = cut_channels(cut.tensors, calibration)
    except BadInputError:
        return None
    tail = open_interpreter(cut.tail, backend=options.backend)
    noisy = tail if noise_tail is None else open_interpreter(noise_tail, backend=options.backend)
    # The same random bits for each: two allocations with equal epsilons get the same noise and the same error.
    variants = [
        _Variant(each, cut, calibration, options, np.random.default_rng((options.seed, cut.index)))
        for each in ALLOCATIONS
    ]
    chosen = samples[: options.samples]
    spread = Spread(options.output_weights)
    for features in _features(cut, chosen, options.backend):
        base = real_outputs(tail, features)
        spread.add(base)
        for variant in variants:
            variant.count(noisy, features, base, answer)
    trials = tuple(
        variant.trial(
            relative_cost(variant.allocation, channels, options.epsilon), spread, classes=answer is not None
        )
        for variant in variants
    )
    return AllocationChoice(
        best=_best(trials),
        epsilon=options.epsilon,
        bits=options.bits,
        samples=len(chosen),
        draws=options.draws,
        trials=trials,
    )


def _best(trials: Sequence[AllocationTrial]) -> Allocation:
    """The allocation of least error; but the best by formula, unless another is better by more than chance."""
    least = min(trials, key=lambda trial: trial.output_error)
    formula = next(trial for trial in trials if trial.allocation == "optimal")
    chosen = formula if formula.output_error <= (1 + _CHANCE) * least.output_error else least
    return chosen.allocation


def parts(cuts: Sequence[Cut]) -> list[Part]:
    """Cost of each allocation at each cut, for people, with the cuts where ``rank`` loses to ``uniform``."""
    tried = [(cut.index, cut.allocation) for cut in cuts if cut.allocation is not None]
    if not tried:
        return []
    first = tried[0][1]
    headings = (
        "cut",
        *(heading for trial in first.trials for heading in (f"{trial.allocation}: noise", "error")),
        "auto",
    )
    rows = []
    for index, choice in tried:
        cells = (f"{figure:.3f}" for trial in choice.trials for figure in (trial.relative_cost, trial.output_error))
        rows.append((str(index), *cells, choice.best))
    about = (
        f"how channels share a mean per-value epsilon of {first.epsilon:g}: noise energy over the optimum's, by "
        "formula, and squared error of the outputs over their variance, on "
        f"{counted(first.samples, 'public sample')}"
    )
    found: list[Part] = [about, Table(headings, rows, left=frozenset({"auto"}))]
    by_formula = [index for index, choice in tried if _loses(choice, 0.005, lambda trial: trial.relative_cost)]
    measured = [index for index, choice in tried if _loses(choice, _CHANCE, lambda trial: trial.output_error)]
    for where, how in ((by_formula, "by formula"), (measured, "as measured")):
        if where:
            found.append(f"rank loses to uniform {how} at {_listed(where)}")
    return [*found, "release.allocation = 'auto' takes the one of least measured error"]


def _loses(choice: AllocationChoice, matters: float, cost: Callable[[AllocationTrial], float]) -> bool:
    """Whether rank costs clearly more than uniform; in measured errors, differences of percents are chance."""
    costs = {trial.allocation: cost(trial) for trial in choice.trials}
    return costs["rank"] > costs["uniform"] * (1 + matters)


def _listed(cuts: Sequence[int]) -> str:
    return f"cut {cuts[0]}" if len(cuts) == 1 else f"cuts {', '.join(map(str, cuts))}"


class _Variant:
    """One allocation with its measured errors."""

    def __init__(
        self,
        allocation: Allocation,
        cut: CutModels,
        calibration: Sequence[ChannelCalibration],
        options: TrialOptions,
        generator: np.random.Generator,
    ) -> None:
        self.allocation = allocation
        spec = NoiseSpec(epsilon=options.epsilon, allocation=allocation, bits=options.bits)
        self._plan = NoisePlan.make(spec, cut.tensors, calibration)
        self._release = NoiseRelease(self._plan, entropy=generator.bytes)
        self._draws = options.draws
        self._errors: list[list[float]] = []
        self._agreed: list[bool] = []

    def count(
        self, tail: Interpreter, features: Sequence[Array], base: Sequence[Array], answer: int | None
    ) -> None:
        for _ in range(self._draws):
            outputs = real_outputs(tail, recover(self._plan, self._release(features)))
            if not all(np.isfinite(output).all() for output in outputs):
                raise BadModelError("the tail's outputs are not finite under noise", remedy="leave this cut out")
            self._errors.append(squared_errors(outputs, base))
            if answer is not None:
                self._agreed.append(bool(outputs[answer].argmax() == base[answer].argmax()))

    def trial(self, cost: float, spread: Spread, *, classes: bool) -> AllocationTrial:
        return AllocationTrial(
            allocation=self.allocation,
            relative_cost=float(f"{cost:.7g}"),
            output_error=float(f"{spread.error(np.mean(self._errors, axis=0).tolist()):.7g}"),
            agreement=float(f"{np.mean(self._agreed):.7g}") if classes else None,
        )


def _features(cut: CutModels, samples: Sequence[Inputs], backend: str | None) -> Iterator[Sequence[Array]]:
    head = None if cut.head is None else open_interpreter(cut.head, backend=backend)
    yield from (sample if head is None else head.run(sample) for sample in samples)
