"""Decides on a frame: its split when it arrives, and whether it is sent when its head is done. Pure.

Composes the planner with the other inputs: the cuts that the server offers and those that it refused lately, the
times of its tails, the cuts that the ledger can pay for, the load of the board, and the loaded heads and local
tails.
"""

# Over 300 lines: what is remembered of cuts, tails and the server from frame to frame, and used by each decision.

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from edge_runtime.board.cpu_load import LoadEstimator
from edge_runtime.inference.profile import SplitTiming
from edge_runtime.link.link_view import Advice
from edge_runtime.loop.decision_inputs import NO_WAITS, BoardWaits, LoadedModels, Model, Moment, Payable
from edge_runtime.loop.policies import Policy
from edge_runtime.planner.cut_backoff import CutBackoff
from edge_runtime.planner.planner import AfterHead, Decision, Planner
from edge_runtime.planner.prediction import Conditions
from edge_runtime.planner.questions import ASK_EVERY_S, Question, question
from edge_runtime.planner.tail_times import TailTimes
from edge_runtime.sources import Frame
from split_model.errors import SplitModelError
from split_model.protocol import messages as wire

log = logging.getLogger(__name__)

#: A plan to finish frames here holds for this many seconds unless one of its inputs changes. On a board that takes
#: a few milliseconds for a frame, planning each anew would take a good part of them.
_HOLDS_S = 0.05
#: A queue at the server that is not worth waiting in is left alone for this time at least.
_CROWDED_S = 2.0


class Plan(msgspec.Struct, frozen=True):
    """What to do with a frame: the split that it takes and, unless that is local, the head.

    ``question``: what to ask the server meanwhile, for the frames to come.
    """

    decision: Decision
    split: int
    head: object | None = None
    was_local: bool = False
    unpaid: bool = False
    question: Question | None = None


class _Kept(msgspec.Struct, frozen=True):
    """A plan to finish frames here, and its inputs: for the next frame, too, while these stay the same.

    ``until_s``: when it ends in any case, since the estimate of the link changes with time alone.
    """

    plan: Plan
    until_s: float
    subject: str
    load: float
    up: bool
    offers: tuple[wire.Offer, ...]
    request_bytes: int
    advice: Advice | None

    def holds(self, subject: str, load: float, moment: Moment) -> bool:
        """Whether it is the plan of another frame, too, one that nothing is before."""
        link = moment.link
        return (
            moment.now_s < self.until_s
            and link.up is self.up
            and link.offers is self.offers
            and link.request_bytes == self.request_bytes
            and link.advice is self.advice
            and load == self.load
            and subject == self.subject
        )


class FrameDecisions:
    """See the module. One for each frame loop; it remembers measurements of tails and refusals of cuts."""

    def __init__(
        self,
        model: Model,
        planner: Planner,
        *,
        policy: Policy,
        loaded: LoadedModels,
        account: Payable,
        load: LoadEstimator,
        may_hedge: bool,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.planner = planner
        self.load = load
        self.backoff = CutBackoff(jitter=jitter, tail_macs=model.tail_macs)
        self.loaded = loaded
        self.policy = policy
        self._model = model
        self._account = account
        self._may_hedge = may_hedge
        self._timings = {timing.split: timing for timing in model.profile.splits}
        self._local_s = self._timings[model.local].head_s
        self._tails = TailTimes(model.tail_macs)
        self._hosted = True
        self._captured_s = math.nan
        self._interval_s = math.inf
        self._kept: _Kept | None = None
        self._active: tuple[int, object] | None = None
        self._through: tuple[int, object] | None = None
        self._heard: Advice | None = None
        self._asked_s = -math.inf

    @property
    def local(self) -> int:
        """The split that runs everything on this board."""
        return self._model.local

    @property
    def decides_after_head(self) -> bool:
        """Whether a frame's way is still open while its head runs."""
        return self.policy.decides_after_head and not self.planner.is_fixed

    def timing(self, split: int) -> SplitTiming:
        """What a split takes on this board when idle."""
        return self._timings[split]

    @property
    def local_s(self) -> float:
        """Seconds of a local run of the whole model now."""
        return self._local_s * self.load.factor

    @property
    def local_p95_s(self) -> float:
        """The 95th percentile of a local run's seconds: from the profile, not from what runs on frames took."""
        return self._timings[self.local].head_p95_s * self.load.factor

    def head_s(self, split: int) -> float:
        """Seconds of a cut's head and release now, or of the whole model."""
        timing = self._timings[split]
        return (timing.head_s + timing.release_s) * self.load.factor

    def left_s(self, split: int, *, has_tail: bool) -> float:
        """Seconds of the local run that is left when the head of this cut is done."""
        tail_s = self.planner.profile(split).local_tail_s if has_tail else None
        return self.local_s if tail_s is None else tail_s * self.load.factor

    def plan(self, frame: Frame, moment: Moment, waits: BoardWaits) -> Plan:
        """Choose the split of a frame that is there, and the head that it runs through."""
        now_s, link = moment.now_s, moment.link
        if not math.isnan(self._captured_s):
            self._interval_s = max(0.0, frame.captured_s - self._captured_s)
        self._captured_s = frame.captured_s
        alone = waits is NO_WAITS and not frame.error
        if alone and self._kept is not None and self._kept.holds(frame.subject, self.load.factor, moment):
            return self._kept.plan
        plan = self._planned(frame, moment, waits)
        decision = plan.decision
        stays = plan.head is None and decision.split == self.local and decision.seen is not None
        self._kept = None
        if alone and stays and plan.question is None:
            unmoved = replace(plan, decision=replace(decision, moved_from=None))
            self._kept = _Kept(
                unmoved,
                now_s + _HOLDS_S,
                frame.subject,
                self.load.factor,
                link.up,
                link.offers,
                link.request_bytes,
                link.advice,
            )
        return plan

    def _planned(self, frame: Frame, moment: Moment, waits: BoardWaits) -> Plan:
        """Choose it from everything that is known by now."""
        now_s, link = moment.now_s, moment.link
        self._heed_advice(moment)
        ready, withheld = self._ready(moment)
        payable = self._account.payable(ready, frame.subject)
        conditions = Conditions(
            link=link.estimate,
            link_up=link.up,
            load=self.load.factor,
            queue_s=link.queue_s,
            local_wait_s=waits.local_s,
            may_hedge=self._may_hedge,
            next_frame_s=self._next_frame_s(now_s),
            uplink_busy_s=waits.uplink_s,
        )
        decision = self.planner.decide(conditions, now_s=now_s, ready=payable)
        self._note_crowding(decision, now_s)
        unpaid = payable != ready and decision.split == self.local
        if frame.error:
            return Plan(decision, decision.split, unpaid=unpaid)
        question = self._question(decision, self._account.payable(withheld, frame.subject), moment)
        chosen = self._head_for(decision.split, payable, now_s)
        was_local = chosen is None
        if chosen is None:
            chosen = self._through_head(decision)
        if chosen is None:
            return Plan(decision, self.local, unpaid=unpaid, question=question)
        return Plan(decision, chosen[0], chosen[1], was_local=was_local, unpaid=unpaid, question=question)

    def after_head(self, plan: Plan, moment: Moment, waits: BoardWaits) -> AfterHead:
        """Whether to send what the head has made, with the link as it is by now."""
        self._kept = None
        cut, decision = plan.split, plan.decision
        if cut:  # at cut 0 there is nothing to run while the link may come back
            self._through = (cut, plan.head)
        if not self.decides_after_head or decision.seen is None:
            return AfterHead(send=True, expected=decision.expected_at(cut), hedge=decision.hedge)
        link = moment.link
        if not link.up:  # then nothing is sent, however it was planned
            return AfterHead(send=False, expected=None)
        seen = replace(
            decision.seen,
            link=link.estimate,
            link_up=link.up,
            load=self.load.factor,
            queue_s=link.queue_s,
            local_wait_s=waits.local_s,
            next_frame_s=self._next_frame_s(moment.now_s),
            uplink_busy_s=waits.uplink_s,
        )
        return self.planner.after_head(cut, seen, was_local=plan.was_local)

    def head_failed(self, split: int, error: str, *, now_s: float) -> None:
        """A head does not run: its cut is left alone for a while."""
        self._through = None
        if self._active is not None and self._active[0] == split:
            self._active = None
        self.backoff.avoid(split, f"its head fails: {error}", now_s=now_s)

    def answered(self, split: int, tail_s: float, *, now_s: float, load: wire.Load | None = None) -> None:
        """The server answered at this cut; ``load``: its word on the next request."""
        self.backoff.answered(split)
        self._tails.observed(split, tail_s, at_s=now_s)
        if load is not None and load.retry_s > 0.0:
            self.backoff.crowded(split, "the server is crowded", now_s=now_s, retry_s=load.retry_s)

    def _note_crowding(self, decision: Decision, now_s: float) -> None:
        """Leave a cut alone that would still be best, were it not for the queue at the server.

        Else all devices would come back as soon as it is short, and make it long again.
        """
        if decision.moved_from is None or decision.moved_from == self.local or decision.seen is None:
            return
        before, after = (decision.expected_at(split) for split in (decision.moved_from, decision.split))
        if before is None or after is None or math.isinf(before.total_s):
            return
        if before.total_s - decision.seen.queue_s < after.total_s:
            self.backoff.crowded(
                decision.moved_from,
                "requests wait too long at the server",
                now_s=now_s,
                retry_s=_CROWDED_S,
                is_queue=True,
            )

    def _ready(self, moment: Moment) -> tuple[frozenset[int], frozenset[int]]:
        """The cuts that the server offers, fit into its limits, and were not refused lately.

        The second ones are withheld: the server was too busy for them of late, and is asked first.
        """
        now_s, link = moment.now_s, moment.link
        offered = next((offer.cuts for offer in link.offers if offer.identity == self._model.identity), ())
        hosted = bool(offered) or not link.up
        if self._hosted and not hosted:
            log.warning("the server does not host bundle %s (%s); everything runs here until it does",
                        self._model.name, self._model.identity[:12])  # fmt: skip
        self._hosted = hosted
        ready = frozenset(
            cut
            # A server may offer whatever it likes; "local" is ours, not a cut.
            for cut in self.planner.splits.intersection(offered) - {self.local}
            if self.backoff.allows(cut, now_s=now_s) and self._timings[cut].payload_bytes <= link.request_bytes
        )
        for cut in ready:
            profile = self._tails.apply(self.planner.profile(cut), now_s=now_s)
            self.planner.update_profile(self.loaded.with_local_tail(profile))
        if not link.can_ask:
            return ready, frozenset()
        withheld = frozenset(cut for cut in ready if self.backoff.asks_first(cut, now_s=now_s))
        return ready - withheld, withheld

    def _heed_advice(self, moment: Moment) -> None:
        """Take in what the server said since the frame before, if it was asked."""
        advice = moment.link.advice
        if advice is None or advice is self._heard or advice.bundle != self._model.identity:
            return
        self._heard = advice
        if advice.load.retry_s > 0.0:
            self.backoff.turned_away(advice.cut, now_s=moment.now_s, retry_s=advice.load.retry_s)
        else:
            self.backoff.welcome()

    def _question(self, decision: Decision, withheld: frozenset[int], moment: Moment) -> Question | None:
        """What to ask the server while all is done here."""
        if decision.split != self.local or not moment.link.up or self._asked_s > moment.now_s - ASK_EVERY_S:
            return None
        asked = question(decision, [self.planner.profile(cut) for cut in sorted(withheld)], self.planner)
        if asked is not None:
            self._asked_s = moment.now_s
        return asked

    def _head_for(self, split: int, usable: frozenset[int], now_s: float) -> tuple[int, object] | None:
        """The head to use: the chosen one if it is loaded, else the one in use; None means the whole model."""
        if split == self.local:
            self._active = None
            return None
        head = None
        try:
            head = self.loaded.head(split)
        except SplitModelError as error:
            self.backoff.avoid(split, f"its head does not load: {error}", now_s=now_s)
        if head is not None:
            self._active = (split, head)
        elif self._active is not None and self._active[0] not in usable:
            self._active = None
        return self._active

    def _through_head(self, decision: Decision) -> tuple[int, object] | None:
        """The head to run a local frame through, so that it can still be sent if the link is back by then.

        It is the one that ran last, if the link is there, its cut may be used, and its local tail is loaded.
        """
        through = self._through
        if through is None or decision.seen is None or not decision.seen.link_up or not self.decides_after_head:
            return None
        usable = any(prediction.split == through[0] for prediction in decision.predictions)
        return through if usable and self.loaded.has_local_tail(through[0]) else None

    def _next_frame_s(self, now_s: float) -> float:
        """Seconds until the next frame, if frames go on coming as the last two did; infinite for the first."""
        return max(0.0, self._captured_s + self._interval_s - now_s)
