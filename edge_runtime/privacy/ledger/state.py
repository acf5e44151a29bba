"""The ledger's decisions. Pure: totals and a moment in, a refusal or new totals out.

The window's guarantee: at most its budget is spent from its beginning until ``window_s`` seconds of *measured* time
have passed. Time is measured by the kernel's boot clock, which cannot be set and goes on in suspend; only
differences within one boot count. The time between two boots is not credited, because only the wall clock could
measure it: a board without a battery starts at some past date, and the network, or an attacker in its place, may
then set any other. So a jump of the wall clock, a year forwards or backwards, refills nothing. The price is that
the time while the board is off does not count towards a new window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from edge_runtime.privacy.ledger.amounts import Amount, as_float

MAX_SUBJECTS = 64
#: Maximum number of subjects, each with its own block; a slot has no room for more.
MAX_RESERVES = 8

Why = Literal["budget", "subject", "window", "unprotected", "subjects", "ledger"]


class Now(msgspec.Struct, frozen=True):
    """A moment: the boot's id, and seconds since that boot, suspend included."""

    boot_id: str
    boot_s: float


class LedgerState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of the ledger. Amounts include ``reserved``: prepaid releases still to come, by subject.

    ``since_unix_s``: when the ledger was made, by the wall clock; for display only. ``at``: the moment of the
    last change of the window's age. ``run_at`` and ``run_epsilon``: when the running program opened the ledger,
    and the total then.
    """

    since_unix_s: int
    total: Amount
    subjects: dict[str, Amount]
    reserved: dict[str, Amount]
    window_epsilon: int
    window_age_s: float
    at: Now
    run_at: Now
    run_epsilon: int


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The config's budgets, ε in units; None: no limit. ``block_frames``: releases prepaid with one write."""

    budget: int | None = None
    subject_budget: int | None = None
    window_s: float | None = None
    window_budget: int | None = None
    block_frames: int = 64

    @property
    def bounded(self) -> bool:
        """Whether any budget is set."""
        return (self.budget, self.subject_budget, self.window_budget) != (None, None, None)


@dataclass(frozen=True)
class Refusal:
    """The reason why a release must not be sent: a word for the program, a line for the user."""

    why: Why
    text: str


def total_of(reserves: Mapping[str, Amount]) -> Amount:
    """The sum over all subjects."""
    return sum(reserves.values(), Amount())


def new_state(now: Now, *, since_unix_s: int) -> LedgerState:
    """The state of a new, empty ledger."""
    return LedgerState(
        since_unix_s=since_unix_s,
        total=Amount(),
        subjects={},
        reserved={},
        window_epsilon=0,
        window_age_s=0.0,
        at=now,
        run_at=now,
        run_epsilon=0,
    )


def opened(state: LedgerState, now: Now) -> LedgerState:
    """The state at the start of a program: prepaid releases that the last one did not return are spent."""
    state = advanced(state, now)
    return msgspec.structs.replace(state, reserved={}, run_at=now, run_epsilon=state.total.epsilon)


def advanced(state: LedgerState, now: Now) -> LedgerState:
    """The same state at a later moment: the window ages by the time that the boot clock measured."""
    elapsed_s = now.boot_s - state.at.boot_s if now.boot_id == state.at.boot_id else 0.0
    # A boot clock goes back when a virtual machine returns to a snapshot; no time has passed then.
    return msgspec.structs.replace(state, window_age_s=state.window_age_s + max(0.0, elapsed_s), at=now)


def rolled(state: LedgerState, limits: Limits) -> LedgerState:
    """The same state, with a new window if the old one is over."""
    if limits.window_s is None or state.window_age_s < limits.window_s:
        return state
    return msgspec.structs.replace(state, window_epsilon=0, window_age_s=0.0)


def added(state: LedgerState, amount: Amount, subject: str) -> LedgerState:
    """The state with an amount added, for the device, the subject and the window."""
    known = state.subjects.get(subject, Amount())
    return msgspec.structs.replace(
        state,
        total=state.total + amount,
        subjects=state.subjects | {subject: known + amount},
        window_epsilon=state.window_epsilon + amount.epsilon,
        window_age_s=state.window_age_s if state.window_epsilon else 0.0,  # a window begins with its first release
    )


def lefts(state: LedgerState, limits: Limits, subject: str) -> list[tuple[Why, str, int]]:
    """The remaining amount of each budget in units, with its name for display."""
    left: list[tuple[Why, str, int]] = []
    if limits.budget is not None:
        left.append(("budget", "privacy.whole_input_budget", limits.budget - state.total.epsilon))
    if limits.subject_budget is not None:
        spent = state.subjects.get(subject, Amount()).epsilon
        left.append(("subject", f"privacy.subject_budget of {subject!r}", limits.subject_budget - spent))
    if limits.window_budget is not None:
        left.append(("window", "privacy.window_budget", limits.window_budget - state.window_epsilon))
    return left


def refusal(state: LedgerState, cost: Amount, subject: str, limits: Limits) -> Refusal | None:
    """Why a release must not be made, or None. ``state``: without prepaid releases, and `rolled`."""
    if subject not in state.subjects and len(state.subjects) >= MAX_SUBJECTS:
        return Refusal("subjects", f"the ledger has {MAX_SUBJECTS} subjects, no place is left for {subject!r}")
    if cost.unprotected and lefts(state, limits, subject):
        return Refusal("unprotected", "features without protection have no finite epsilon, and a budget is set")
    for why, name, left in lefts(state, limits, subject):
        if cost.epsilon > left:
            return Refusal(
                why,
                f"{name}: {as_float(max(0, left)):.6g} whole-input epsilon left, one frame costs "
                f"{as_float(cost.epsilon):.6g}",
            )
    return None


def affordable(state: LedgerState, cost: Amount, subject: str, limits: Limits) -> int:
    """Number of releases to prepay at once: a block, or the budgets' rest; 0 only after a `refusal`."""
    fits = [left // cost.epsilon for _, _, left in lefts(state, limits, subject)] if cost.epsilon else []
    return max(0, min([limits.block_frames, *fits]))


def with_reserves(state: LedgerState, reserves: Mapping[str, Amount]) -> LedgerState:
    """The state to write before the releases that ``reserves`` pay for, by subject, are made."""
    for subject, amount in reserves.items():
        state = added(state, amount, subject)
    return msgspec.structs.replace(state, reserved=dict(reserves))


def bought(
    state: LedgerState, cost: Amount, subject: str, limits: Limits, others: Mapping[str, Amount]
) -> dict[str, Amount]:
    """The reserves after buying a block for one subject; ``others`` are given up if a budget is short.

    ``state``: without prepaid releases. At least one release is paid for, as there was no `refusal`.
    """
    kept = dict([(name, amount) for name, amount in others.items() if name != subject][1 - MAX_RESERVES :])
    frames = affordable(with_reserves(state, kept), cost, subject, limits)
    if frames < 1:
        kept, frames = {}, affordable(state, cost, subject, limits)
    return kept | {subject: cost * frames}
