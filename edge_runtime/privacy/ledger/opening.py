"""Opens the ledger of a device as an `Account`, with the cost of a frame at each cut."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edge_runtime.privacy.ledger.account import Account
from edge_runtime.privacy.ledger.amounts import UNPROTECTED, Amount, as_float, of_event
from edge_runtime.privacy.ledger.ledger import Ledger
from edge_runtime.privacy.ledger.state import Limits, Now, Refusal, affordable, lefts
from edge_runtime.privacy.ledger.store import LedgerError
from split_model.errors import OutputError
from split_model.privacy import CodebookPlan, NoisePlan
from split_model.service.terminal_text import in_words

log = logging.getLogger(__name__)


def costs_of(plans: Mapping[int, NoisePlan | CodebookPlan | None]) -> dict[int, Amount]:
    """Costs of one frame by cut; a plan of None is a release without protection."""
    return {cut: UNPROTECTED if plan is None else of_event(plan.event()) for cut, plan in plans.items()}


def open_account(
    state: Path,
    limits: Limits,
    *,
    costs: Mapping[int, Amount],
    subjects: Sequence[str],
    now: Callable[[], Now],
) -> Account:
    """Open the account of this run.

    Args:
        state: The folder that holds the ledger.
        limits: The budgets.
        costs: Costs of one frame, by cut.
        subjects: The subjects of all sources, one or more.
        now: The boot clock.

    Returns:
        The account. If the ledger cannot be opened, an error is logged and the account refuses every release;
        frames are
                then answered on the board.

    Raises:
        NotAllowedError: Another program has the ledger.

    """
    ahead = ThreadPoolExecutor(1, thread_name_prefix="ledger")
    try:
        ledger = Ledger.open_in(state, limits, now=now, ahead=ahead)
    except (LedgerError, OutputError) as error:
        log.error("%s", error)  # noqa: TRY400  one line; the cause is in it
        return Account(Refusal("ledger", f"the privacy ledger could not be opened: {error.problem}"), costs=costs)
    _say(ledger, limits, sorted(set(subjects)), costs)
    return Account(ledger, costs=costs)


def _say(ledger: Ledger, limits: Limits, subjects: Sequence[str], costs: Mapping[int, Amount]) -> None:
    ledger_state = ledger.used
    unlimited = not lefts(ledger_state, limits, subjects[0])
    log.log(
        logging.WARNING if unlimited else logging.INFO,
        "privacy ledger: whole-input epsilon %s spent so far%s",
        in_words(as_float(ledger_state.total.epsilon)),
        "; privacy.whole_input_budget = 'unlimited' counts releases, but refuses none" if unlimited else "",
    )
    if unlimited:
        return
    told = {name: left for subject in subjects for _, name, left in lefts(ledger_state, limits, subject)}
    for name, left in told.items():
        log.info("%s: %s left", name, in_words(as_float(max(0, left)), up=False))
    for cut, cost in costs.items():
        if (
            frames := min(affordable(ledger_state, cost, subject, limits) for subject in subjects)
        ) < limits.block_frames:
            log.warning("cut %d: the budgets now pay for at most %d frames", cut, frames)
