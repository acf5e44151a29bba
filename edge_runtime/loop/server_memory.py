"""What is remembered of one server from frame to frame: its cuts, its refusals, its tails, its advice."""

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
    """One for each server.

    Args:
        model: The model as the decisions see it.
        jitter: Random numbers from 0 to 1, for pauses.
        name: Its address, for the log, where there are several servers; else empty.

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
        """The cuts of our bundle that it offers now; a bundle that it does not host is told once."""
        offered = next((offer.cuts for offer in link.offers if offer.identity == self._model.identity), ())
        hosted = bool(offered) or not link.up
        if self._hosted and not hosted:
            what = "everything runs here" if self._alone else "nothing is sent there"
            log.warning("%s does not host bundle %s (%s); %s until it does",
                        self._who, self._model.name, self._model.identity[:12], what)  # fmt: skip
        self._hosted = hosted
        return offered

    def heed_advice(self, link: LinkView, *, now_s: float) -> None:
        """Take in its advice since the last frame, if it was asked."""
        advice = link.advice
        if advice is None or advice is self._heard or advice.bundle != self._model.identity:
            return
        self._heard = advice
        if advice.load.retry_s > 0.0:
            self.backoff.turned_away(advice.cut, now_s=now_s, retry_s=advice.load.retry_s)
        else:
            self.backoff.welcome()

    def may_be_asked(self, link: LinkView, *, now_s: float) -> bool:
        """Whether it may be asked before anything is sent."""
        return link.up and self._asked_s <= now_s - ASK_EVERY_S

    def asked(self, *, now_s: float) -> None:
        """It is asked now."""
        self._asked_s = now_s
