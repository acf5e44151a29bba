"""The ledger's decisions, pure: totals and a moment in, a refusal or new totals out. No file, no clock.

The window. Its promise is: no more than its budget from the moment it began until ``window_s`` seconds of
*measured* time have passed. The time is the kernel's boot clock (which no one can set, and which goes on in
suspend), and only differences within one boot count. From one boot to the next nothing is credited, because all
that could tell how long the board was off is the wall clock: a board without a battery starts at some past date,
and the network, or whoever plays it, may then set any other. So a jump of the wall clock, a year forwards or a
year backwards, refills nothing; the price is that time spent switched off does not count towards a new window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from edge_runtime.privacy.ledger.amounts import Amount, as_float

MAX_SUBJECTS = 64
#: So many subjects have a block of their own; a slot has room for no more.
MAX_RESERVES = 8

Why = Literal["budget", "subject", "window", "unprotected", "subjects", "ledger"]


class Now(msgspec.Struct, frozen=True):
    """A moment: the boot it is in, and seconds since that boot, suspend included."""

    boot_id: str
    boot_s: float


class LedgerState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the ledger knows. Amounts include ``reserved``, by subject, which is for releases still to come.

    ``since_unix_s``: when the ledger was made, as the wall clock said, for people only. ``at``: the moment of the
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
    """What the config allows, ε in units; None is without limit. ``block_frames`` are reserved with one write."""

    budget: int | None = None
    subject_budget: int | None = None
    window_s: float | None = None
    window_budget: int | None = None
    block_frames: int = 64

    @property
    def bounded(self) -> bool:
        """Whether there is any budget."""
        return (self.budget, self.subject_budget, self.window_budget) != (None, None, None)


@dataclass(frozen=True)
class Refusal:
    """Why nothing may leave: one word for the program, one line for the user."""

    why: Why
    text: str


def total_of(reserves: Mapping[str, Amount]) -> Amount:
    """Of all subjects together."""
    return sum(reserves.values(), Amount())


def new_state(now: Now, *, since_unix_s: int) -> LedgerState:
    """A ledger with nothing in it."""
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
    """The state at the start of a program: the reserve that the last one did not give back is spent."""
    state = advanced(state, now)
    return msgspec.structs.replace(state, reserved={}, run_at=now, run_epsilon=state.total.epsilon)


def advanced(state: LedgerState, now: Now) -> LedgerState:
    """The same state at a later moment: the window has aged by what the boot clock measured, and not by more."""
    elapsed_s = now.boot_s - state.at.boot_s if now.boot_id == state.at.boot_id else 0.0
    # A boot clock that goes back is a virtual machine taken back to a snapshot; that is no time passed.
    return msgspec.structs.replace(state, window_age_s=state.window_age_s + max(0.0, elapsed_s), at=now)


def rolled(state: LedgerState, limits: Limits) -> LedgerState:
    """The same state, with a new window where the old one is over."""
    if limits.window_s is None or state.window_age_s < limits.window_s:
        return state
    return msgspec.structs.replace(state, window_epsilon=0, window_age_s=0.0)


def added(state: LedgerState, amount: Amount, subject: str) -> LedgerState:
    """The same state with an amount more, for the device, the subject and the window."""
    known = state.subjects.get(subject, Amount())
    return msgspec.structs.replace(
        state,
        total=state.total + amount,
        subjects=state.subjects | {subject: known + amount},
        window_epsilon=state.window_epsilon + amount.epsilon,
        window_age_s=state.window_age_s if state.window_epsilon else 0.0,  # it begins with its first release
    )


def lefts(state: LedgerState, limits: Limits, subject: str) -> list[tuple[Why, str, int]]:
    """What each budget has left, in units, with its name for people."""
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
    """Why a release may not be made, or None. ``state`` without a reserve, and `rolled`."""
    if subject not in state.subjects and len(state.subjects) >= MAX_SUBJECTS:
        return Refusal("subjects", f"the ledger has {MAX_SUBJECTS} subjects and no place for {subject!r}")
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
    """How many releases to reserve at once: a block, or what the budgets have left; 0 only after a `refusal`."""
    fits = [left // cost.epsilon for _, _, left in lefts(state, limits, subject)] if cost.epsilon else []
    return max(0, min([limits.block_frames, *fits]))


def with_reserves(state: LedgerState, reserves: Mapping[str, Amount]) -> LedgerState:
    """The state as it is written before the releases are made that ``reserves`` pay for, by subject."""
    for subject, amount in reserves.items():
        state = added(state, amount, subject)
    return msgspec.structs.replace(state, reserved=dict(reserves))


def bought(
    state: LedgerState, cost: Amount, subject: str, limits: Limits, others: Mapping[str, Amount]
) -> dict[str, Amount]:
    """The reserves after a block for one subject was added to those of ``others``, which go where money is short.

    ``state`` without a reserve. At least one release is paid for, as there was no `refusal`.
    """
    kept = dict([(name, amount) for name, amount in others.items() if name != subject][1 - MAX_RESERVES :])
    frames = affordable(with_reserves(state, kept), cost, subject, limits)
    if frames < 1:
        kept, frames = {}, affordable(state, cost, subject, limits)
    return kept | {subject: cost * frames}
