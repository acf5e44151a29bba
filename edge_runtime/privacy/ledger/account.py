"""Charges the releases of one run to the ledger, at the costs of each cut."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from typing import Protocol

from edge_runtime.privacy.ledger.amounts import Amount
from edge_runtime.privacy.ledger.ledger import Ledger
from edge_runtime.privacy.ledger.state import LedgerState, Limits, Refusal

log = logging.getLogger(__name__)

#: Refusals that hold for one subject; all others hold for the whole device.
_PER_SUBJECT = ("subject", "subjects")
_DEVICE = ""


class Paying(Protocol):
    """The payments as the frame loop uses them, before anything leaves."""

    def payable(self, cuts: Iterable[int], subject: str) -> frozenset[int]:
        """Return those of the given cuts at which a frame of this subject can still be paid for."""

    def charge(self, cut: int, subject: str) -> bool:
        """Pay for one release of a subject at a cut; False: the release must not be sent."""


class _Holders:
    """Counts the accounts that share one ledger. Safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._accounts = 0

    def joins(self) -> None:
        """Count one account more."""
        with self._lock:
            self._accounts += 1

    def leaves(self) -> bool:
        """Count one account less; returns whether it was the last."""
        with self._lock:
            self._accounts -= 1
            return self._accounts == 0


class Account:
    """Pays for releases. ``costs``: of one frame, by cut. ``ledger``: a `Ledger`, or why there is none.

    Without a ledger nothing leaves. Several accounts may share a ledger, see `sharing`; it is closed with the last
    of them.
    """

    def __init__(
        self, ledger: Ledger | Refusal, *, costs: Mapping[int, Amount], holders: _Holders | None = None
    ) -> None:
        self._holders = holders or _Holders()
        self._holders.joins()
        self._closed = False
        self._ledger = ledger
        self._costs = dict(costs)
        self._said: dict[str, frozenset[int]] = {}

    def payable(self, cuts: Iterable[int], subject: str) -> frozenset[int]:
        """Return those of the cuts at which a frame can still be paid for; logs each refusal once."""
        asked = frozenset(cuts)
        refusals = {cut: refused for cut in asked if (refused := self._refusal(cut, subject)) is not None}
        self._say(refusals, subject)
        payable = asked - refusals.keys()
        for whose in (subject, _DEVICE):  # a new window: its refusal will be logged again
            self._said[whose] = self._said.get(whose, frozenset()) - payable
        return payable

    def charge(self, cut: int, subject: str) -> bool:
        """Pay for one release at a cut, before it leaves. False: do not send it; the reason is logged once."""
        if isinstance(self._ledger, Refusal):
            refused: Refusal | None = self._ledger
        else:
            refused = self._ledger.charge(self._costs[cut], subject)
        if refused is not None:
            self._say({cut: refused}, subject)
        return refused is None

    @property
    def trouble(self) -> str:
        """Why nothing leaves at all, or empty."""
        return self._ledger.text if isinstance(self._ledger, Refusal) else self._ledger.trouble

    @property
    def ledger_state(self) -> LedgerState | None:
        """The state with the real charges, without prepaid frames; None without a ledger."""
        return None if isinstance(self._ledger, Refusal) else self._ledger.used

    def sharing(self, costs: Mapping[int, Amount]) -> Account:
        """Make another account of the same ledger, at other costs; close both."""
        return Account(self._ledger, costs=costs, holders=self._holders)

    def limit(self, limits: Limits) -> None:
        """Set other budgets; earlier releases count against them."""
        if isinstance(self._ledger, Ledger):
            self._ledger.limit(limits)

    def close(self) -> None:
        """Leave the ledger; the last account returns the prepaid frames. A second call does nothing."""
        closed, self._closed = self._closed, True
        if not closed and self._holders.leaves():
            self.close_ledger()

    def close_ledger(self) -> None:
        """Return the prepaid frames now, for all accounts of the ledger: nothing leaves any more."""
        if isinstance(self._ledger, Ledger):
            self._ledger.close()

    def _refusal(self, cut: int, subject: str) -> Refusal | None:
        if isinstance(self._ledger, Refusal):
            return self._ledger
        return self._ledger.refusal(self._costs[cut], subject)

    def _say(self, refusals: Mapping[int, Refusal], subject: str) -> None:
        """Log new refusals: once for the device's budgets, once for each subject's."""
        whose = {cut: subject if refused.why in _PER_SUBJECT else _DEVICE for cut, refused in refusals.items()}
        news = sorted(cut for cut in refusals if cut not in self._said.get(whose[cut], frozenset()))
        if news:
            which = f"cut {news[0]}" if len(news) == 1 else f"cuts {', '.join(map(str, news))}"
            log.warning(
                "nothing leaves at %s any more: %s; frames are finished here", which, refusals[news[0]].text
            )
            for cut in news:
                self._said[whose[cut]] = self._said.get(whose[cut], frozenset()) | {cut}
