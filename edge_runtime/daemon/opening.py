"""From the config to an `Account`: opens the ledger, says what it has left, and what a frame takes of that."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from edge_runtime.config.config import Config
from edge_runtime.privacy.ledger.account import Account
from edge_runtime.privacy.ledger.amounts import UNPROTECTED, Amount, as_float, of_event
from edge_runtime.privacy.ledger.ledger import Ledger
from edge_runtime.privacy.ledger.state import Limits, Now, Refusal, affordable, lefts
from edge_runtime.privacy.ledger.store import LedgerError
from split_model.errors import OutputError
from split_model.privacy import CodebookPlan, NoisePlan

log = logging.getLogger(__name__)


def costs_of(plans: Mapping[int, NoisePlan | CodebookPlan | None]) -> dict[int, Amount]:
    """What one frame costs, by cut; None as a plan is a release without protection."""
    return {cut: UNPROTECTED if plan is None else of_event(plan.event()) for cut, plan in plans.items()}


def open_account(
    config: Config, plans: Mapping[int, NoisePlan | CodebookPlan | None], *, now: Callable[[], Now]
) -> Account:
    """The account of this run. Where the ledger cannot be opened, one that refuses every release, and an error in
    the log: frames are answered all the same. Raises `NotAllowedError` where another program has the ledger.
    """
    costs = costs_of(plans)
    if config.release.preset == "cis":
        log.warning(
            "release.preset = 'cis': no budget bounds what leaves; a frame costs whole-input epsilon %.6g or more",
            as_float(min(cost.epsilon for cost in costs.values())),
        )
    ahead = ThreadPoolExecutor(1, thread_name_prefix="ledger")
    try:
        ledger = Ledger.open_in(config.device.state, config.limits, now=now, ahead=ahead)
    except (LedgerError, OutputError) as error:
        log.error("%s", error)  # noqa: TRY400  one line; the cause is in it
        return Account(Refusal("ledger", "the privacy ledger could not be opened"), costs=costs)
    _say(ledger, config.limits, sorted({source.subject for source in config.sources}), costs)
    return Account(ledger, costs=costs)


def reopen_account(
    account: Account,
    config: Config,
    plans: Mapping[int, NoisePlan | CodebookPlan | None],
    *,
    now: Callable[[], Now],
) -> Account:
    """The account of another config in the same run, with the same ledger; one that was not there is tried anew.

    Its budgets hold as soon as they are handed to `Account.limit`.
    """
    return open_account(config, plans, now=now) if account.books is None else account.renewed(costs_of(plans))


def _say(ledger: Ledger, limits: Limits, subjects: Sequence[str], costs: Mapping[int, Amount]) -> None:
    books = ledger.used
    log.info("privacy ledger: whole-input epsilon %.6g spent since its beginning", as_float(books.total.epsilon))
    if not lefts(books, limits, subjects[0]):
        log.warning("privacy.whole_input_budget is 'unlimited': the ledger counts, and stops nothing")
        return
    told = {name: left for subject in subjects for _, name, left in lefts(books, limits, subject)}
    for name, left in told.items():
        log.info("%s: %.6g left", name, as_float(max(0, left)))
    for cut, cost in costs.items():
        if (frames := min(affordable(books, cost, subject, limits) for subject in subjects)) < limits.block_frames:
            log.warning("cut %d: no more than %d frames can be paid for now", cut, frames)
