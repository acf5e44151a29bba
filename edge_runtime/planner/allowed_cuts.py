"""Finds the cuts that the planner may use: releasable, late enough, and accurate enough."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Literal

from edge_runtime.config.release import ReleaseTable
from edge_runtime.planner.accuracy import Accuracy
from split_model.bundle import Bundle, Cut, LeftOut
from split_model.errors import ConfigError

log = logging.getLogger(__name__)

#: ``planner.split``: the planner's choice, everything on the board, or one cut by its op index.
Split = Literal["auto", "local"] | int


def releasable_cuts(
    cuts: Sequence[Cut], *, split: Split, release: ReleaseTable, left_out: Sequence[LeftOut] = ()
) -> list[int]:
    """Find the cuts at which the release can be made; logs the others, each with the reason.

    Args:
        cuts: All cuts of the bundle.
        split: ``planner.split``.
        release: The release in force.
        left_out: The cuts that `prepare` did not put into the bundle, for messages.

    Raises:
        ConfigError: There is none, or ``split`` is not one of them.

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
    """Make the error for a bundle without a usable cut."""
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
    accuracy: Accuracy,
    strict: bool,
    evaluate: str,
) -> frozenset[int]:
    """Find the cuts that the config lets the planner use.

    Args:
        cuts: The releasable cuts.
        split: ``planner.split``.
        earliest_cut: Cuts before this op index are not used.
        accuracy: For each cut, the share of answers that agree with the unsplit model under the present release,
            and whether it reaches the floor.
        strict: Whether the config sets an accuracy floor. If so, a cut without figures, or a fixed split below the
            floor, is an error. If not (default floor), both are only logged, and everything runs on the board if no
            cut is left.
        evaluate: The command that measures missing figures, for error texts.

    Raises:
        ConfigError: ``split`` precedes ``earliest_cut``, or an error under ``strict``.

    """
    if isinstance(split, int) and split < earliest_cut:
        raise ConfigError(
            f"planner.split = {split} precedes planner.earliest_cut = {earliest_cut}", remedy="change one of them"
        )
    allowed = [cut.index for cut in cuts if cut.index >= earliest_cut]
    floor = accuracy.floor
    if strict and floor is not None and split != "local":
        missing = next((cut for cut in allowed if accuracy[cut].verdict in ("no figures", "unmeasured")), None)
        if missing is not None:
            raise ConfigError(
                f"planner.accuracy_floor = {floor.value:g}: no measurement of cut {missing} under this release",
                remedy=f"run '{evaluate}' and copy the bundle here again",
            )
        if isinstance(split, int) and split not in accuracy.used:
            remedy = accuracy.remedy([split])
            raise ConfigError(
                f"planner.split = {split} is measured below planner.accuracy_floor = {floor.value:g}",
                remedy=f"change one of them{f'; {remedy}' if remedy else ''}",
            )
    return frozenset(allowed) & accuracy.used


def evaluate_command(release: ReleaseTable, bundle: Bundle) -> str:
    """The command that measures a bundle's accuracy under a release."""
    if release.mechanism == "codebook":
        epsilon = release.whole_input_epsilon
        return f"split-model evaluate {bundle.root} --data DATA --whole-input-epsilon {epsilon:g} --store"
    return (
        f"split-model evaluate {bundle.root} --data DATA --epsilon {release.noise_epsilon:g} "
        f"--allocation {release.wish} --bits {release.noise_bits} --store"
    )


def audit_command(release: ReleaseTable, bundle: Bundle) -> str:
    """The command that audits a bundle under a release, and keeps the verdicts."""
    start = f"split-model audit {bundle.root} --data DATA -o report --store"
    if release.mechanism == "none":
        return start
    if release.mechanism == "codebook":
        return f"{start} --codebook-epsilon {release.whole_input_epsilon:g}"
    noise = f"--epsilon {release.noise_epsilon:g} --allocation {release.wish} --bits {release.noise_bits}"
    return f"{start} {noise}"
