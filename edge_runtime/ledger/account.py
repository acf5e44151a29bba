"""One run's way to pay: the ledger, the subject of the source, and what a frame costs at each cut."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Protocol

from edge_runtime.ledger.amounts import Amount
from edge_runtime.ledger.books import Refusal
from edge_runtime.ledger.ledger import Ledger

log = logging.getLogger(__name__)


class Paying(Protocol):
    """What the frame loop asks before anything leaves."""

    def payable(self, cuts: Iterable[int]) -> frozenset[int]:
        """Those of some cuts at which a frame can still be paid for."""

    def charge(self, cut: int) -> bool:
        """Pay for one release at a cut; False: nothing may leave."""


class Account:
    """``costs``: of one frame, by cut. ``ledger``: a `Ledger`, or why there is none, and then nothing leaves."""

    def __init__(self, ledger: Ledger | Refusal, *, subject: str, costs: Mapping[int, Amount]) -> None:
        self._ledger = ledger
        self._subject = subject
        self._costs = dict(costs)
        self._said = False

    def payable(self, cuts: Iterable[int]) -> frozenset[int]:
        """Those of some cuts at which a frame can still be paid for. Says it once in the log when none is left."""
        refusals = {cut: self._refusal(cut) for cut in cuts}
        payable = frozenset(cut for cut, refused in refusals.items() if refused is None)
        if refusals and not payable:
            cheapest = min(refusals, key=lambda cut: self._costs[cut].epsilon)
            self._say(refusals[cheapest])
        return payable

    def charge(self, cut: int) -> bool:
        """Pay for one release at a cut, before it is made. False: nothing may leave; the log says why, once."""
        refused = (
            self._ledger
            if isinstance(self._ledger, Refusal)
            else self._ledger.charge(self._costs[cut], self._subject)
        )
        if refused is not None:
            self._say(refused)
            return False
        self._said = False
        return True

    def close(self) -> None:
        """Give back what was reserved."""
        if isinstance(self._ledger, Ledger):
            self._ledger.close()

    def _refusal(self, cut: int) -> Refusal | None:
        if isinstance(self._ledger, Refusal):
            return self._ledger
        return self._ledger.refusal(self._costs[cut], self._subject)

    def _say(self, refused: Refusal | None) -> None:
        if refused is not None and not self._said:
            log.warning("nothing leaves the device now: %s; frames are finished here", refused.text)
            self._said = True
