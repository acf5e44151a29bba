"""Remembers one server's cuts, refusals, tail times and advice from frame to frame."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from edge_runtime.link.link_view import Advice, LinkView
from edge_runtime.loop.decision_inputs import Model
from edge_runtime.planner.cut_backoff import CutBackoff
from edge_runtime.planner.questions import ASK_EVERY_S
from edge_runtime.planner.tail_times import TailTimes

log = logging.getLogger(__name__)


class ServerMemory:
    """The memory of one server.

    Args:
        model: The model as the decisions see it.
        jitter: Random numbers from 0 to 1, for pauses.
        name: The server's address for the log if there are several; else empty.

    """

    def __init__(self, model: Model, *, jitter: Callable[[], float], name: str = "") -> None:
        self.backoff = CutBackoff(jitter=jitter, tail_macs=model.tail_macs, server=name)
        self.tails = TailTimes(model.tail_macs)
        self._model = model
        self._who = name or "the server"
        self._alone = not name
        self._hosted = True
        self._heard: Advice | None = None
        self._asked_s = -math.inf

    def offered(self, link: LinkView) -> tuple[int, ...]:
        """The cuts of our bundle that the server offers now; logs once if it does not host the bundle."""
        offered = next((offer.cuts for offer in link.offers if offer.identity == self._model.identity), ())
        hosted = bool(offered) or not link.up
        if self._hosted and not hosted:
            what = "everything runs here" if self._alone else "nothing is sent there"
            log.warning("%s does not host bundle %s (%s); %s until it does",
                        self._who, self._model.name, self._model.identity[:12], what)  # fmt: skip
        self._hosted = hosted
        return offered

    def heed_advice(self, link: LinkView, *, now_s: float) -> None:
        """Learn from the advice that came since the last frame."""
        advice = link.advice
        if advice is None or advice is self._heard or advice.bundle != self._model.identity:
            return
        self._heard = advice
        if advice.load.retry_s > 0.0:
            self.backoff.turned_away(advice.cut, now_s=now_s, retry_s=advice.load.retry_s)
        else:
            self.backoff.welcome()

    def may_be_asked(self, link: LinkView, *, now_s: float) -> bool:
        """Whether a question may be sent to the server now."""
        return link.up and self._asked_s <= now_s - ASK_EVERY_S

    def asked(self, *, now_s: float) -> None:
        """Note that a question is sent now."""
        self._asked_s = now_s
