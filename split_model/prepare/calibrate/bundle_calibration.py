"""Calibrates all cuts of a new bundle, on all public data, and on each half of it for the figures.

The weights, which take most of the time, are measured only on the halves; the bundle gets their means.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from split_model.bundle import Allocation, AllocationChoice, ChannelCalibration, Cut, Manifest
from split_model.features.data import Data
from split_model.prepare.assemble import Progress
from split_model.prepare.calibrate.allocators import TrialOptions, try_allocations
from split_model.prepare.calibrate.augmentation import calibration_samples
from split_model.prepare.calibrate.calibration import CalibrationOptions, CutModels, calibrate
from split_model.prepare.calibrate.halves import Half, Halves, Inputs, make_halves
from split_model.prepare.calibrate.resume import KeptCalibration
from split_model.prepare.dry_run import FAILURES, one_line, without
from split_model.prepare.outputs import output_weights
from split_model.privacy.plan import why_unreleasable

_log = logging.getLogger(__name__)

#: Samples and draws of each trial of allocations in a half.
_HALF_TRIAL_SAMPLES, _HALF_TRIAL_DRAWS = 16, 1

Calibrations = dict[int, tuple[ChannelCalibration, ...]]


@dataclass(frozen=True)
class Taught:
    """Results of one half: calibration by cut, best allocation by cut and epsilon of a noise-aware tail.

    The allocation with the cut's own tail has None instead of the epsilon. ``measured``: the other half's pictures.
    """

    calibrations: Calibrations
    allocations: Mapping[tuple[int, float | None], Allocation]
    measured: Sequence[Inputs]

    def allocation(self, cut: int, epsilon: float) -> Allocation:
        """The allocation of ``auto`` at a cut for an epsilon."""
        return self.allocations.get((cut, epsilon), self.allocations[cut, None])


@dataclass(frozen=True)
class CalibratedBundle:
    """A calibrated bundle. ``kept``: files for an interrupted run, to discard. ``taught``: of each half."""

    manifest: Manifest
    kept: KeptCalibration
    halves: Halves
    taught: tuple[Taught, ...]


def calibrate_bundle(
    scratch: Path,
    manifest: Manifest,
    data: Data,
    *,
    target: Path,
    options: CalibrationOptions,
    trial: TrialOptions,
    progress: Progress,
) -> CalibratedBundle:
    """Calibrate every cut that can take noise, and try the allocations there.

    Args:
        scratch: The bundle's folder.
        manifest: The bundle's manifest so far.
        data: The public data.
        target: The future folder of the bundle; finished cuts are stored beside it.
        options: Amount of data.
        trial: Options of the trials.
        progress: Called at every step.

    """
    weights = output_weights(manifest)
    options = replace(options, pictures=min(len(data), options.samples), output_weights=weights)
    trial = replace(trial, output_weights=weights)
    samples = calibration_samples(data, count=options.samples, seed=options.seed)
    halves = make_halves(data, samples=max(1, options.samples // 2), seed=options.seed)
    made = _Calibration(scratch, manifest, target, trial, progress)
    of_halves = [
        made.calibrated(
            half.taught,
            replace(_of_half(options), pictures=half.pictures),
            f"calibrating on half {number} of the data",
        )
        for number, half in enumerate(halves.halves, 1)
    ]
    known = {cut: _mean_weights([found[cut] for found in of_halves]) for cut in made.usable} if of_halves else None
    found, kept = made.calibrated_and_kept(
        samples, options if known is None else replace(options, weight_samples=0), "calibrating", known
    )
    cuts = made.with_allocations(found, samples)
    taught = made.taught(halves.halves, of_halves)
    manifest = msgspec.structs.replace(manifest, cuts=cuts)
    if made.reasons:
        manifest = without(scratch, manifest, made.reasons)
    return CalibratedBundle(manifest, kept, halves, taught)


def _of_half(options: CalibrationOptions) -> CalibrationOptions:
    return replace(
        options,
        samples=max(1, options.samples // 2),
        rank_samples=max(1, options.rank_samples // 2),
        weight_samples=max(1, options.weight_samples // 2),
        tail_runs=max(1, options.tail_runs // 2),
    )


def _mean_weights(found: Sequence[tuple[ChannelCalibration, ...]]) -> tuple[tuple[float, ...], ...]:
    """Mean weights of the halves, by tensor and channel."""
    return tuple(
        tuple(np.mean([one.weight for one in tensors], axis=0).tolist()) for tensors in zip(*found, strict=True)
    )


class _Calibration:
    """The calibration of one bundle. ``reasons``: why cuts failed, by cut; those are removed from ``usable``."""

    def __init__(
        self, scratch: Path, manifest: Manifest, target: Path, trial: TrialOptions, progress: Progress
    ) -> None:
        self._scratch, self._manifest, self._target = scratch, manifest, target
        self._trial, self._progress = trial, progress
        self._answer = None if manifest.answer is None else manifest.answer.output
        self.usable = {cut.index: cut for cut in manifest.cuts if not any(map(why_unreleasable, cut.tensors))}
        self._models = {index: _models(scratch, cut) for index, cut in self.usable.items()}
        self.reasons: dict[int, str] = {}

    def calibrated(self, samples: Sequence[Inputs], options: CalibrationOptions, what: str) -> Calibrations:
        """The calibration of every usable cut on these samples."""
        return self.calibrated_and_kept(samples, options, what, None)[0]

    def calibrated_and_kept(
        self,
        samples: Sequence[Inputs],
        options: CalibrationOptions,
        what: str,
        weights: Mapping[int, Sequence[Sequence[float]]] | None,
    ) -> tuple[Calibrations, KeptCalibration]:
        """The same, with stored results for an interrupted run. ``weights``: the known ones."""
        kept = KeptCalibration(self._target, samples, options)
        found: Calibrations = {
            index: known for index, cut in self.usable.items() if (known := kept.load(cut)) is not None
        }
        if found:
            _log.info("%s: %d of %d cuts reused from an interrupted run", what, len(found), len(self.usable))
        found |= calibrate(
            [self._models[index] for index in self.usable if index not in found],
            samples,
            options=options,
            weights=weights,
            progress=lambda done, total: self._progress(what, done, total),
            finished=lambda index, numbers: kept.keep(self.usable[index], numbers),
            failed=self._failed,
        )
        for index in self.reasons:
            self.usable.pop(index, None)
        return found, kept

    def _failed(self, index: int, error: Exception) -> None:
        self.reasons[index] = one_line(error, self._scratch)  # type: ignore[arg-type]

    def with_allocations(self, found: Calibrations, samples: Sequence[Inputs]) -> tuple[Cut, ...]:
        """The manifest's cuts with their calibration and the best allocations."""
        cuts = []
        for done, cut in enumerate(self._manifest.cuts):
            self._progress("trying allocations", done, len(self._manifest.cuts))
            if cut.index not in self.usable:
                cuts.append(cut)
                continue
            try:
                best, aware = self._best(cut, found[cut.index], samples, self._trial)
            except FAILURES as error:
                self._failed(cut.index, error)
                self.usable.pop(cut.index)
                cuts.append(cut)
                continue
            tails = tuple(
                msgspec.structs.replace(noisy, allocation=choice)
                for noisy, choice in zip(cut.noise_tails, aware, strict=True)
            )
            cuts.append(
                msgspec.structs.replace(cut, calibration=found[cut.index], allocation=best, noise_tails=tails)
            )
        self._progress("trying allocations", len(cuts), len(cuts))
        return tuple(cuts)

    def taught(self, halves: Sequence[Half], found: Sequence[Calibrations]) -> tuple[Taught, ...]:
        """Calibrate on each half, and find the best allocations on its samples."""
        trial = replace(
            self._trial,
            samples=min(self._trial.samples, _HALF_TRIAL_SAMPLES),
            draws=min(self._trial.draws, _HALF_TRIAL_DRAWS),
        )
        made = []
        for half, calibrations in zip(halves, found, strict=True):
            allocations: dict[tuple[int, float | None], Allocation] = {}
            for index, cut in list(self.usable.items()):
                try:
                    best, aware = self._best(cut, calibrations[index], half.taught, trial)
                except FAILURES as error:
                    self._failed(index, error)
                    self.usable.pop(index)
                    continue
                allocations[index, None] = "optimal" if best is None else best.best
                for noisy, choice in zip(cut.noise_tails, aware, strict=True):
                    if choice is not None:
                        allocations[index, noisy.epsilon] = choice.best
            made.append(Taught(calibrations, allocations, half.measured))
        return tuple(made)

    def _best(
        self, cut: Cut, calibration: tuple[ChannelCalibration, ...], samples: Sequence[Inputs], trial: TrialOptions
    ) -> tuple[AllocationChoice | None, list[AllocationChoice | None]]:
        """Find the best allocation with the cut's own tail, and with each noise-aware one."""
        try_one = partial(try_allocations, self._models[cut.index], calibration, samples, answer=self._answer)
        aware = [
            try_one(options=replace(trial, epsilon=noisy.epsilon), noise_tail=self._scratch / noisy.tail.path)
            for noisy in cut.noise_tails
        ]
        return try_one(options=trial), aware


def _models(root: Path, cut: Cut) -> CutModels:
    return CutModels(
        index=cut.index,
        head=None if cut.head is None else root / cut.head.path,
        tail=root / cut.tail.path,
        tensors=cut.tensors,
    )
