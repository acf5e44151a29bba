"""Decides on a frame: its split and server on arrival, and whether to send it after its head. Pure.

Combines the planner with its other inputs: the cuts that each server offers and those that it refused lately, the
times of its tails (see `servers`), the cuts that the ledger can pay for, the load of the board, and the loaded
heads and local tails. With several servers, the one with the earlier predicted answer gets the frame.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Sequence

import msgspec
from msgspec.structs import replace

from edge_runtime.board.cpu_load import LoadEstimator
from edge_runtime.inference.profile import SplitTiming
from edge_runtime.link.link_view import LinkView
from edge_runtime.loop.decision_inputs import NO_WAITS, BoardWaits, LoadedModels, Model, Moment, Payable
from edge_runtime.loop.policies import Policy
from edge_runtime.loop.servers import Rhythm, Servers
from edge_runtime.planner.cut_backoff import CutBackoff
from edge_runtime.planner.planner import AfterHead, Decision, Planner
from edge_runtime.planner.questions import Question
from edge_runtime.sources import Frame
from split_model.errors import SplitModelError

log = logging.getLogger(__name__)

#: Seconds for which a plan to finish frames here is reused, unless one of its inputs changes. On a board that takes
#: a #: few milliseconds for a frame, planning each one again would be a large part of its time.
_HOLDS_S = 0.05
#: Minimum seconds for which a cut is avoided because of the queue at the server.
_CROWDED_S = 2.0


class Plan(msgspec.Struct, frozen=True):
    """The plan of a frame: its split and, unless that is local, the head.

    ``server``: the destination if it is sent. ``question``: a question to the server ``asks`` meanwhile, for later
    frames.
    """

    decision: Decision
    split: int
    head: object | None = None
    was_local: bool = False
    unpaid: bool = False
    server: int = 0
    question: Question | None = None
    asks: int = 0


class _Kept(msgspec.Struct, frozen=True):
    """A plan to finish frames here, reused for the next frames while its inputs stay the same.

    ``until_s``: when it ends in any case, as the estimate of the link also changes with time.
    """

    plan: Plan
    until_s: float
    subject: str
    load: float
    links: tuple[LinkView, ...]

    def holds(self, subject: str, load: float, moment: Moment) -> bool:
        """Whether the plan can be reused for another frame with no earlier frame under way."""
        return (
            moment.now_s < self.until_s
            and load == self.load
            and subject == self.subject
            and (moment.links is self.links or all(map(_allow_the_same, self.links, moment.links)))
        )


def _allow_the_same(one: LinkView, other: LinkView) -> bool:
    """Whether both link views allow the same cuts."""
    return (
        one.up is other.up
        and one.offers is other.offers
        and one.request_bytes == other.request_bytes
        and one.advice is other.advice
    )


class FrameDecisions:
    """Makes the decisions of one frame loop; remembers measured tail times and refusals. See the module.

    ``servers``: their addresses, for the log; with a single server, one empty name. ``local``: the split that runs
    everything on this board.
    """

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
        servers: Sequence[str] = ("",),
    ) -> None:
        self.planner = planner
        self.load = load
        self.loaded = loaded
        self.policy = policy
        self.local = model.local
        self._model = model
        self._timings = {timing.split: timing for timing in model.profile.splits}
        self._local_s = self._timings[model.local].head_s
        self._broken_heads = CutBackoff(jitter=jitter)
        self._rhythm = Rhythm()
        self.servers = Servers(
            model,
            planner,
            loaded=loaded,
            account=account,
            load=load,
            heads=self._broken_heads,
            rhythm=self._rhythm,
            may_hedge=may_hedge,
            names=servers,
            jitter=jitter,
        )
        self._kept: _Kept | None = None
        self._active: tuple[int, object] | None = None
        self._through: tuple[int, object] | None = None

    @property
    def decides_after_head(self) -> bool:
        """Whether a frame's split can still change after its head."""
        return self.policy.decides_after_head and not self.planner.is_fixed

    def timing(self, split: int) -> SplitTiming:
        """Times of a split on the idle board."""
        return self._timings[split]

    @property
    def local_s(self) -> float:
        """Predicted seconds of a local run of the whole model now."""
        return self._local_s * self.load.factor

    @property
    def local_p95_s(self) -> float:
        """95th percentile of a local run in seconds: from the profile, not from the times of runs on frames."""
        return self._timings[self.local].head_p95_s * self.load.factor

    def head_s(self, split: int) -> float:
        """Predicted seconds of a cut's head and release now, or of the whole model."""
        timing = self._timings[split]
        return (timing.head_s + timing.release_s) * self.load.factor

    def left_s(self, split: int, *, has_tail: bool) -> float:
        """Predicted seconds of the local run that remains after the head of this cut."""
        tail_s = self.planner.profile(split).local_tail_s if has_tail else None
        return self.local_s if tail_s is None else tail_s * self.load.factor

    def plan(self, frame: Frame, moment: Moment, waits: BoardWaits) -> Plan:
        """Choose the split of a frame that arrived, and the head that it runs through."""
        now_s = moment.now_s
        self._rhythm.note(frame)
        alone = waits is NO_WAITS and not frame.error
        if alone and self._kept is not None and self._kept.holds(frame.subject, self.load.factor, moment):
            return self._kept.plan
        plan = self._planned(frame, moment, waits)
        decision = plan.decision
        stays = plan.head is None and decision.split == self.local and decision.seen is not None
        self._kept = None
        if alone and stays and plan.question is None:
            unmoved = replace(plan, decision=replace(decision, moved_from=None))
            self._kept = _Kept(unmoved, now_s + _HOLDS_S, frame.subject, self.load.factor, moment.links)
        return plan

    def _planned(self, frame: Frame, moment: Moment, waits: BoardWaits) -> Plan:
        """Choose a new plan from the present inputs."""
        now_s, servers = moment.now_s, self.servers
        usable = [servers.usable(server, frame.subject, moment, waits) for server in range(servers.count)]
        server = servers.choose([one.payable for one in usable], moment, waits)
        here = usable[server]
        for cut in here.ready | here.withheld:
            self.planner.update_profile(servers.profile(server, cut, now_s))
        decision = self.planner.decide(servers.conditions(server, moment, waits), now_s=now_s, ready=here.payable)
        self._note_crowding(server, decision, now_s)
        unpaid = here.payable != here.ready and decision.split == self.local
        if frame.error:
            return Plan(decision, decision.split, unpaid=unpaid, server=server)
        asks, question = servers.question(server, decision, [one.withheld for one in usable], moment, waits)
        plan = Plan(decision, self.local, unpaid=unpaid, server=server, question=question, asks=asks)
        if (chosen := self._head_for(decision.split, here.payable, now_s)) is not None:
            return replace(plan, split=chosen[0], head=chosen[1])
        if (through := self._through_head(decision)) is not None:
            return replace(plan, split=through[0], head=through[1], was_local=True)
        return plan

    def after_head(self, plan: Plan, moment: Moment, waits: BoardWaits) -> tuple[int, AfterHead]:
        """Decide after the head whether to send the frame, and to which server, with the present links."""
        self._kept = None
        cut, decision = plan.split, plan.decision
        if cut:  # at cut 0 there is no head during which the link might come back
            self._through = (cut, plan.head)
        servers = self.servers
        server = servers.after_head(plan.server, cut, moment, waits)
        link = moment.links[server]
        if not self.decides_after_head or decision.seen is None:
            expected = decision.expected_at(cut)
            if server != plan.server:
                expected = servers.behind_head(server, cut, moment, waits)
            return server, AfterHead(send=True, expected=expected, hedge=decision.hedge)
        if not link.up:  # then nothing is sent, whatever the plan
            return server, AfterHead(send=False, expected=None)
        if server != plan.server:
            self.planner.update_profile(servers.profile(server, cut, moment.now_s))
        seen = replace(servers.conditions(server, moment, waits), may_hedge=decision.seen.may_hedge)
        return server, self.planner.after_head(cut, seen, was_local=plan.was_local)

    def head_failed(self, split: int, error: str, *, now_s: float) -> None:
        """Avoid a cut for a while because its head does not run."""
        self._through = None
        if self._active is not None and self._active[0] == split:
            self._active = None
        self._broken_heads.avoid(split, f"its head fails: {error}", now_s=now_s)

    def _note_crowding(self, server: int, decision: Decision, now_s: float) -> None:
        """Avoid a cut for a while if only the queue at the server makes it a bad choice.

        Otherwise all devices would come back as soon as the queue is short, and make it long again.
        """
        if decision.moved_from is None or decision.moved_from == self.local or decision.seen is None:
            return
        before, after = (decision.expected_at(split) for split in (decision.moved_from, decision.split))
        if before is None or after is None or math.isinf(before.total_s):
            return
        if before.total_s - decision.seen.queue_s < after.total_s:
            why = "requests wait too long at the server"
            self.servers.crowded(server, decision.moved_from, why, now_s=now_s, retry_s=_CROWDED_S)

    def _head_for(self, split: int, usable: frozenset[int], now_s: float) -> tuple[int, object] | None:
        """Return the head to use: the chosen one if it is loaded, else the present one; None: the whole model."""
        if split == self.local:
            self._active = None
            return None
        head = None
        try:
            head = self.loaded.head(split)
        except SplitModelError as error:
            self._broken_heads.avoid(split, f"its head does not load: {error}", now_s=now_s)
        if head is not None:
            self._active = (split, head)
        elif self._active is not None and self._active[0] not in usable:
            self._active = None
        return self._active

    def _through_head(self, decision: Decision) -> tuple[int, object] | None:
        """Return a head to run a local frame through, so that the frame can still be sent afterwards.

        It is the head that ran last, if the link is up, its cut may be used, and its local tail is loaded.
        """
        through = self._through
        if through is None or decision.seen is None or not decision.seen.link_up or not self.decides_after_head:
            return None
        usable = any(prediction.split == through[0] for prediction in decision.predictions)
        return through if usable and self.loaded.has_local_tail(through[0]) else None
