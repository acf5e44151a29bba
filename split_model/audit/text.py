"""The audit for a terminal, and the words that its page shares: verdicts, figures, and which settings do both."""

from __future__ import annotations

from split_model.audit.results import Audit, Identity, Result
from split_model.audit.verdict import LAYOUT_SSIM, WORDS
from split_model.service.terminal_text import fold

#: A setting keeps the task from this agreement with the unsplit model on.
KEPT = 0.99


def text(audit: Audit, width: int | None = None) -> str:
    """The verdicts for a terminal, folded at its width; None folds nothing."""
    lines = [f"{audit.victims} pictures of {audit.bundle}, attackers know {audit.public} others"]
    lines += [f"  without features, {one.name}: SSIM {one.ssim:.2f}" for one in audit.references]
    if audit.answer_identity is not None:
        lines.append(f"  without features, people named: {identified(audit.answer_identity)}")
    for result in audit.results:
        best = result.best
        similar = spread(best.ssim, best.ssim_low, best.ssim_high)
        lines += [
            f"cut {result.cut}, {result.setting}: {WORDS[result.reveals]}",
            f"  SSIM {similar} by {best.attacker}{_found(result)}",
        ]
        if (share := task_share(result)) != "":
            lines.append(f"  agreement with the unsplit model {share}")
        if result.identity is not None:
            lines.append(f"  people named: {identified(result.identity)}")
    lines += statement(audit)
    broken = [check for check in audit.wire if not check.holds]
    if audit.wire:
        lines.append(f"{len(audit.wire) - len(broken)} of {len(audit.wire)} checks of what leaves hold")
    lines += [
        f"BROKEN: cut {check.cut}, {check.setting}, {check.name}: at least {check.proven:.3g} where "
        f"{check.claim:.3g} is claimed; {check.text}"
        for check in broken
    ]
    lines += [f"not tried: {reason}" for reason in audit.skipped]
    return "\n".join(fold(line, width, indent=4) for line in lines)


def statement(audit: Audit) -> list[str]:
    """Which settings keep the task and hide picture and person; nothing where the task was not measured."""
    judged = [result for result in audit.results if result.task is not None and result.task.best is not None]
    if not judged:
        return []
    good, hidden, kept = [], 0, 0
    for result in judged:
        keeps = result.task is not None and (result.task.best or 0.0) >= KEPT
        hides = result.best.ssim < LAYOUT_SSIM and near_chance(result.identity)
        hidden, kept = hidden + hides, kept + keeps
        if keeps and hides:
            good.append(f"cut {result.cut}, {result.setting}")
    people = ", and people named no more often than chance" if audit.answer_identity is not None else ""
    what = f"keep {KEPT:.0%} of the answers and stay below SSIM {LAYOUT_SSIM:g}{people}"
    named = f": {'; '.join(good)}" if good else ""
    return [
        f"{len(good)} of {len(judged)} protected settings {what}{named}.",
        f"{kept} keep the answers, {hidden} hide the picture{' and the person' if people else ''}.",
    ]


def near_chance(identity: Identity | None) -> bool:
    """Whether both attackers' intervals reach chance; also where nobody asked for people."""
    return identity is None or max(identity.retrieval.low, identity.probe.low) <= identity.chance


def identified(identity: Identity) -> str:
    """The better attacker's share of people named."""
    best = identity.best
    return f"{spread(best.value, best.low, best.high)} (chance {identity.chance:.3f})"


def task_share(result: Result) -> str:
    """Agreement, and that of the tail that was trained with the noise; empty where it was not measured."""
    task = result.task
    if task is None or task.best is None:
        return ""
    plain = "" if task.agreement is None else f"{task.agreement.value:.3f}"
    return plain if task.aware is None else f"{plain} (noise-aware tail {task.aware.value:.3f})"


def spread(value: float, low: float, high: float) -> str:
    """A figure and its interval."""
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _found(result: Result) -> str:
    if result.found is None or result.bound is None:
        return ""
    return f"; picked out of {result.candidates}: {result.found:.2f} (bound {result.bound:.2f})"
