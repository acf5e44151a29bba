"""Which cuts of a bundle the planner may use: releasable, late enough, and measured as accurate enough."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from edge_runtime.config.release import ReleaseTable
from split_model.bundle import Bundle, Cut, LeftOut
from split_model.bundle.evaluation import Evaluation
from split_model.errors import ConfigError

log = logging.getLogger(__name__)

#: ``planner.split``: the planner's choice, everything on the board, or one cut by its op index.
Split = Literal["auto", "local"] | int


def releasable_cuts(
    cuts: Sequence[Cut], *, split: Split, release: ReleaseTable, left_out: Sequence[LeftOut] = ()
) -> list[int]:
    """The cuts at which features may leave under the release; the log names the others, with the reason.

    Args:
        cuts: All cuts of the bundle.
        split: ``planner.split``.
        release: The release in force.
        left_out: The cuts that `prepare` left out of the bundle, for messages.

    Raises:
        ConfigError: There is none, or ``split`` is another one.

    """
    reasons = {cut.index: release.why_unusable(cut) for cut in cuts}
    usable = [index for index, reason in reasons.items() if reason is None]
    if not usable and split != "local":
        raise _nothing_usable(reasons, release)
    if isinstance(split, int) and split not in usable:
        why = reasons.get(split) or next((left.reason for left in left_out if left.index == split), None)
        raise ConfigError(
            f"planner.split = {split}: {f'cut {split} {_subject(why)}{why}; ' if why else ''}"
            f"the bundle offers {usable}, 'local' or 'auto'",
            remedy=_remedy(why),
        )
    for index, reason in reasons.items():
        if reason is not None and release.mechanism == "noise":
            log.warning("cut %d is not used: %s%s", index, "it " if reason.startswith("has ") else "", reason)
    return usable


def _subject(why: str) -> str:
    return "" if why.startswith("has ") else "is not used, "


def _remedy(why: str | None) -> str:
    return "prepare the bundle with --calibration" if why is not None and "no calibration" in why else ""


def _nothing_usable(reasons: Mapping[int, str | None], release: ReleaseTable) -> ConfigError:
    """The error where no cut can be used."""
    if release.mechanism == "codebook":
        return ConfigError(
            "release.mechanism = 'codebook': no cut of the bundle has a codebook that fits whole_input_epsilon, "
            "codewords and groups",
            remedy="prepare it with --codebook, or set planner.split = 'local'",
        )
    uncalibrated = [index for index, reason in reasons.items() if reason == "has no calibration"]
    if uncalibrated or not reasons:
        named = f"cut {uncalibrated[0]} has" if uncalibrated else "the bundle has no cut with a"
        return ConfigError(
            f"{named} {'no ' if uncalibrated else ''}calibration, so nothing may leave at it",
            remedy="prepare the bundle with --calibration, or set release.mechanism = 'none' if the features need "
            "no protection",
        )
    index, reason = next(iter(reasons.items()))
    return ConfigError(
        f"no cut of the bundle can be released with noise; cut {index}: {reason}",
        remedy="set planner.split = 'local', or prepare the model with other cuts",
    )


def allowed_cuts(
    cuts: Sequence[Cut],
    *,
    split: Split,
    earliest_cut: int,
    accuracy_floor: float | None,
    release: ReleaseTable,
    bundle: Bundle,
    evaluation: Callable[[], Evaluation | None],
) -> frozenset[int]:
    """The cuts that the config lets the planner use.

    Args:
        cuts: The releasable cuts.
        split: ``planner.split``.
        earliest_cut: Cuts before this op index are not used.
        accuracy_floor: Cuts measured below it are not used; None for no floor.
        release: The release in force.
        bundle: Theirs; error texts name it.
        evaluation: Loads the bundle's evaluation; called only where there is an accuracy floor.

    Raises:
        ConfigError: ``split`` is not among them, or a figure is missing, with the command that measures it.

    """
    if isinstance(split, int) and split < earliest_cut:
        raise ConfigError(
            f"planner.split = {split} precedes planner.earliest_cut = {earliest_cut}", remedy="change one of them"
        )
    allowed = [cut.index for cut in cuts if cut.index >= earliest_cut]
    # Unprotected features give the unsplit model's answers, bit for bit.
    if accuracy_floor is not None and release.mechanism != "none" and split != "local":
        late_enough = [cut for cut in cuts if cut.index in allowed]
        allowed = _accurate(late_enough, accuracy_floor, release, bundle, evaluation())
    if isinstance(split, int) and split not in allowed:
        raise ConfigError(
            f"planner.split = {split} is measured below planner.accuracy_floor = {accuracy_floor}",
            remedy="change one of them",
        )
    return frozenset(allowed)


def _accurate(
    cuts: Sequence[Cut], floor: float, release: ReleaseTable, bundle: Bundle, found: Evaluation | None
) -> list[int]:
    accurate = []
    for cut in cuts:
        spec = release.spec_at(cut)
        row = None if found is None or spec is None else found.find(cut.index, spec)
        if row is None:
            raise ConfigError(
                f"planner.accuracy_floor = {floor:g}: nothing was measured of cut {cut.index} under this release",
                remedy=f"run '{_command(release, bundle)}' and copy the bundle here again",
            )
        if row.measured is None:
            raise ConfigError(
                f"planner.accuracy_floor = {floor:g}: the answer of {bundle.manifest.name} is no class, so it has "
                "no accuracy",
                remedy="leave the floor out",
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


def _command(release: ReleaseTable, bundle: Bundle) -> str:
    if release.mechanism == "codebook":
        epsilon = release.whole_input_epsilon
        return f"split-model evaluate {bundle.root} --data DATA --whole-input-epsilon {epsilon:g} --store"
    return (
        f"split-model evaluate {bundle.root} --data DATA --epsilon {release.noise_epsilon:g} "
        f"--allocation {release.wish} --bits {release.noise_bits} --store"
    )
