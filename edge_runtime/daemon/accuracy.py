"""Which cuts are accurate enough: what was measured of the bundle against the user's floor."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from edge_runtime.config.config import Config
from edge_runtime.config.release import ReleaseTable
from split_model.bundle import Bundle, Cut, evaluation
from split_model.errors import ConfigError

log = logging.getLogger(__name__)


def accurate_cuts(config: Config, bundle: Bundle, cuts: Sequence[Cut]) -> list[int]:
    """Those of ``cuts`` whose measured accuracy under the release in force is not below the floor.

    All of them without a floor, and without a release: unprotected features give the unsplit model's answers, bit
    for bit. Raises `ConfigError` where a figure is missing, with the command that measures it.
    """
    floor = config.planner.accuracy_floor
    if floor is None or config.release.mechanism == "none" or config.planner.split == "local":
        return [cut.index for cut in cuts]
    found = evaluation.load(bundle)
    accurate = []
    for cut in cuts:
        spec = config.release.spec_at(cut)
        row = None if found is None or spec is None else found.find(cut.index, spec)
        if row is None:
            raise ConfigError(
                f"planner.accuracy_floor = {floor:g}: nothing was measured of cut {cut.index} under this release; "
                f"run '{_command(config.release, bundle)}' and copy the bundle here again"
            )
        if row.measured is None:
            raise ConfigError(
                f"planner.accuracy_floor = {floor:g}: the answer of {bundle.manifest.name} is no class, so it has "
                "no accuracy; leave the floor out"
            )
        name, share = row.measured
        if share.value >= floor:
            accurate.append(cut.index)
        log.info(
            "cut %d: measured %s %.3f [%.3f, %.3f], %s the floor of %g",
            cut.index, name, share.value, share.low, share.high,
            "not below" if share.value >= floor else "NOT USED, below", floor,
        )  # fmt: skip
    if not accurate:
        log.warning("no cut reaches planner.accuracy_floor = %g: everything runs here", floor)
    return accurate


def _command(table: ReleaseTable, bundle: Bundle) -> str:
    if table.mechanism == "codebook":
        epsilon = table.whole_input_epsilon
        return f"split-model evaluate {bundle.root} --data DATA --whole-input-epsilon {epsilon:g} --store"
    return (
        f"split-model evaluate {bundle.root} --data DATA --epsilon {table.noise_epsilon:g} "
        f"--allocation {table.wish} --bits {table.noise_bits} --store"
    )
