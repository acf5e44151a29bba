"""Formats the ledger for users: spent, left, and time until it is spent at this rate. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import msgspec

from edge_runtime.privacy.ledger.amounts import Amount, as_float
from edge_runtime.privacy.ledger.state import LedgerState, Limits, Now, added, advanced, refusal, rolled, total_of
from split_model.privacy.conversion import epsilon_at_delta
from split_model.service.terminal_text import counted, in_words

#: The δ of the (ε, δ) figure: the probability with which its ε may not hold.
DELTA = 1e-6
#: Minimum seconds of a run for a rate.
_LEAST_RUN_S = 10.0


class AmountStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Pure whole-input ε, ρ (zCDP), the ε that ρ gives at δ = 1e-6, and the number of releases."""

    whole_input_epsilon: float
    whole_input_rho: float
    whole_input_epsilon_at_delta: float
    delta: float
    releases: int
    unprotected_releases: int


class LeftStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One budget. ``spent_in_s``: seconds until it is spent at the rate of the last run; None if unknown."""

    budget: float
    left: float
    spent_in_s: float | None


class WindowStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The window's budget, and measured seconds until the next window."""

    budget: float
    left: float
    next_in_s: float


class LedgerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that `edge-runtime ledger` prints; ``spent`` includes ``reserved``, the prepaid releases.

    ``rate_per_s``: whole-input ε a second over the last run up to its last write; None if the run was too short.
    ``shortfalls``: a line for each budget that does not pay for one more frame, at the cheapest cut.
    """

    since_unix_s: int
    spent: AmountStatus
    reserved: AmountStatus
    subjects: dict[str, AmountStatus]
    rate_per_s: float | None
    lifetime: LeftStatus | None
    subject_budgets: dict[str, LeftStatus]
    window: WindowStatus | None
    shortfalls: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prices:
    """Costs of one frame at the cuts that may be used, and the subjects that frames are of."""

    costs: Collection[Amount] = ()
    subjects: Collection[str] = ()


def shortfalls(state: LedgerState, limits: Limits, prices: Prices) -> tuple[str, ...]:
    """A line for each budget that does not pay for one more frame at the cheapest cut."""
    if not prices.costs:
        return ()
    cheapest = min(prices.costs, key=lambda cost: cost.epsilon)
    for subject, amount in state.reserved.items():
        state = added(state, amount * -1, subject)
    refusals = (refusal(rolled(state, limits), cheapest, subject, limits) for subject in prices.subjects)
    return tuple(dict.fromkeys(refused.text for refused in refusals if refused is not None))


def ledger_status(state: LedgerState, limits: Limits, now: Now, prices: Prices | None = None) -> LedgerStatus:
    """The status of a state read from the disk, with the config's limits. ``prices``: None if unknown."""
    rate = _rate(state)
    current = rolled(advanced(state, now), limits)
    subjects = {}
    if limits.subject_budget is not None:
        subjects = {
            name: _left(limits.subject_budget, amount.epsilon, rate if list(state.reserved) == [name] else None)
            for name, amount in state.subjects.items()
        }
    return LedgerStatus(
        since_unix_s=state.since_unix_s,
        spent=_amount(state.total),
        reserved=_amount(total_of(state.reserved)),
        subjects={name: _amount(amount) for name, amount in state.subjects.items()},
        rate_per_s=rate,
        lifetime=None if limits.budget is None else _left(limits.budget, state.total.epsilon, rate),
        subject_budgets=subjects,
        window=_window(current, limits),
        shortfalls=shortfalls(current, limits, prices or Prices()),
    )


def _amount(amount: Amount) -> AmountStatus:
    epsilon, rho = as_float(amount.epsilon), as_float(amount.rho)
    return AmountStatus(
        whole_input_epsilon=epsilon,
        whole_input_rho=rho,
        whole_input_epsilon_at_delta=epsilon_at_delta(epsilon, rho, DELTA),
        delta=DELTA,
        releases=amount.releases,
        unprotected_releases=amount.unprotected,
    )


def _rate(state: LedgerState) -> float | None:
    ran_s = state.at.boot_s - state.run_at.boot_s
    if state.at.boot_id != state.run_at.boot_id or ran_s < _LEAST_RUN_S:
        return None
    return as_float(state.total.epsilon - total_of(state.reserved).epsilon - state.run_epsilon) / ran_s


def _left(budget: int, spent: int, rate: float | None) -> LeftStatus:
    left = as_float(max(0, budget - spent))
    return LeftStatus(budget=as_float(budget), left=left, spent_in_s=left / rate if rate else None)


def _window(state: LedgerState, limits: Limits) -> WindowStatus | None:
    if limits.window_s is None or limits.window_budget is None:
        return None
    return WindowStatus(
        budget=as_float(limits.window_budget),
        left=as_float(max(0, limits.window_budget - state.window_epsilon)),
        next_in_s=limits.window_s - state.window_age_s if state.window_epsilon else 0.0,
    )


def rows(status: LedgerStatus) -> list[tuple[str, str]]:
    """The status for a terminal: labels and values. Zeros and repetitions are left out."""
    found = [("spent", _spent(status.spent))]
    if len(status.subjects) > 1:
        found += [("subject", f"{name}: {_spent(amount)}") for name, amount in status.subjects.items()]
    if prepaid := status.reserved.releases:
        epsilon = in_words(status.reserved.whole_input_epsilon)
        found.append(("prepaid", f"{epsilon} of that, for {counted(prepaid, 'frame')} to come; lost if it crashes"))
    if status.rate_per_s:
        found.append(("rate", f"whole-input epsilon {in_words(status.rate_per_s * 3600)} an hour, in the last run"))
    if status.lifetime is None:
        found.append(("budget", "unlimited: the ledger counts releases, but refuses none"))
    else:
        found.append(("budget", _left_text(status.lifetime)))
    found += [("budget", f"{name}: {_left_text(left)}") for name, left in status.subject_budgets.items()]
    if (window := status.window) is not None:
        left = f"{in_words(window.left, up=False)} of {in_words(window.budget)} left"
        renewed = f", renewed in {duration(window.next_in_s)} of running time" if window.next_in_s else ""
        found.append(("window", left + renewed))
    return found + [("budget", f"TOO LITTLE: {line}; nothing leaves this device") for line in status.shortfalls]


def _spent(spent: AmountStatus) -> str:
    if not spent.releases:
        return "nothing: no release so far"
    epsilon, at_delta = in_words(spent.whole_input_epsilon), in_words(spent.whole_input_epsilon_at_delta)
    text = f"whole-input epsilon {epsilon} in {counted(spent.releases, 'release')}"
    if at_delta != epsilon:
        text += f" ({at_delta} at delta {spent.delta:g})"
    if spent.unprotected_releases:
        text += f", {spent.unprotected_releases:,} of them UNPROTECTED: no epsilon holds for those"
    return text


def _left_text(left: LeftStatus) -> str:
    text = f"{in_words(left.left, up=False)} of {in_words(left.budget)} left"
    if left.left == 0:
        return text + ": spent"
    return text if left.spent_in_s is None else text + f", spent in {duration(left.spent_in_s)} at this rate"


def duration(seconds: float) -> str:
    """Format seconds for display."""
    for unit_s, unit in ((365.25 * 86400, "years"), (86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.1f} {unit}"
    return f"{math.ceil(seconds)} s"
