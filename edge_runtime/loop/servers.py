"""Decides among the servers: usable cuts of each, the sooner one, and failover. Pure.

A server's number is its place in the config. With one server there is no choice.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable, Sequence

import msgspec
from msgspec.structs import replace

from edge_runtime.board.cpu_load import LoadEstimator
from edge_runtime.loop.decision_inputs import BoardWaits, LoadedModels, Model, Moment, Payable
from edge_runtime.loop.server_memory import ServerMemory
from edge_runtime.planner.cut_backoff import CutBackoff
from edge_runtime.planner.planner import Decision, Planner
from edge_runtime.planner.prediction import Conditions, Prediction, SplitProfile, predict
from edge_runtime.planner.questions import Question, question
from edge_runtime.planner.server_choice import ServerChoice
from edge_runtime.sources import Frame
from split_model.protocol import messages as wire
from split_model.protocol.device import Refused
from split_model.service.throttle import PER_FRAME

log = logging.getLogger(__name__)


class Rhythm:
    """Predicts the next frame from the interval of the last two."""

    def __init__(self) -> None:
        self._captured_s = -math.inf
        self._interval_s = math.inf

    def note(self, frame: Frame) -> None:
        """Note that a frame arrived."""
        self._interval_s = frame.captured_s - self._captured_s
        self._captured_s = frame.captured_s

    def next_frame_s(self, now_s: float) -> float:
        """Predicted seconds until the next frame; infinite before the second."""
        return max(0.0, self._captured_s + max(0.0, self._interval_s) - now_s)


class Usable(msgspec.Struct, frozen=True):
    """The cuts of a server: ``ready`` and payable ones, and those ``withheld`` until it was asked."""

    ready: frozenset[int]
    payable: frozenset[int]
    withheld: frozenset[int]


class Servers:
    """The servers of one frame loop; see the module.

    Args:
        model: The model as the decisions see it.
        planner: Predicts; its profiles are of the server in use.
        loaded: The loaded local tails.
        account: Finds the cuts that can be paid for.
        load: The load of this board.
        heads: Cuts whose head does not work.
        rhythm: Predicts the next frame.
        may_hedge: The config allows hedges.
        names: The servers' addresses, for the log; one without a name where there is one server.
        jitter: Random numbers from 0 to 1, for pauses.

    """

    def __init__(
        self,
        model: Model,
        planner: Planner,
        *,
        loaded: LoadedModels,
        account: Payable,
        load: LoadEstimator,
        heads: CutBackoff,
        rhythm: Rhythm,
        may_hedge: bool,
        names: Sequence[str],
        jitter: Callable[[], float],
    ) -> None:
        self._model = model
        self._planner = planner
        self._loaded = loaded
        self._account = account
        self._load = load
        self._broken_heads = heads
        self._rhythm = rhythm
        self._may_hedge = may_hedge
        self._names = tuple(names)
        self._payload_bytes = {timing.split: timing.payload_bytes for timing in model.profile.splits}
        self._memories = [ServerMemory(model, jitter=jitter, name=name) for name in names]
        self._choice = ServerChoice(planner.hysteresis)

    @property
    def count(self) -> int:
        """Number of servers."""
        return len(self._memories)

    @property
    def in_use(self) -> int:
        """The number of the server that frames are sent to now."""
        return self._choice.server

    def elsewhere(
        self, cut: int, *, tried: Collection[int], moment: Moment, waits: BoardWaits
    ) -> tuple[int, Prediction] | None:
        """Find the best other server for a release that is made and paid for.

        Args:
            cut: Where the release was made.
            tried: The servers that it was sent to before.
            moment: Now.
            waits: The waits of the frame for earlier ones.

        Returns:
            The server's number and the prediction; None if no other server can take it.

        """
        if len(tried) == self.count:
            return None
        found = [
            (server, self.behind_head(server, cut, moment, waits, released=True))
            for server in range(self.count)
            if server not in tried and cut in self._ready(server, moment, waits)[0]
        ]
        best = min(found, key=lambda one: one[1].total_s, default=None)
        return None if best is None or math.isinf(best[1].total_s) else best

    def answered(
        self, server: int, split: int, tail_s: float, *, now_s: float, load: wire.Load | None = None
    ) -> None:
        """Note an answer at a cut; ``load``: the server's report for the next request."""
        memory = self._memories[server]
        memory.backoff.answered(split)
        memory.tails.observed(split, tail_s, at_s=now_s)
        if load is not None and load.retry_s > 0.0:
            memory.backoff.crowded(split, "the server is crowded", now_s=now_s, retry_s=load.retry_s)

    def refused(self, server: int, split: int, refusal: Refused, *, now_s: float) -> None:
        """Note a refusal at a cut."""
        code, text, retry_s = refusal.code, refusal.text, refusal.retry_s
        self._memories[server].backoff.refused(split, code, text, now_s=now_s, retry_s=retry_s)

    def answered_nonsense(self, server: int, split: int, *, now_s: float) -> None:
        """Note an answer with other outputs than the model's."""
        why = "the server's answer does not have the model's outputs"
        self._memories[server].backoff.avoid(split, why, now_s=now_s)

    def crowded(self, server: int, split: int, why: str, *, now_s: float, retry_s: float) -> None:
        """Note that requests wait too long at a server, at any cut."""
        self._memories[server].backoff.crowded(split, why, now_s=now_s, retry_s=retry_s, is_queue=True)

    def usable(self, server: int, subject: str, moment: Moment, waits: BoardWaits) -> Usable:
        """Find the cuts at which a server can take a frame of this subject."""
        self._memories[server].heed_advice(moment.links[server], now_s=moment.now_s)
        ready, withheld = self._ready(server, moment, waits)
        payable = self._account.payable
        return Usable(ready, payable(ready, subject), payable(withheld, subject))

    def _ready(self, server: int, moment: Moment, waits: BoardWaits) -> tuple[frozenset[int], frozenset[int]]:
        """Find the cuts that a server offers, that fit its limits, and that it did not refuse lately.

        The second result are the withheld ones: the server was too busy for them lately, and is asked first.
        """
        now_s, link, memory = moment.now_s, moment.links[server], self._memories[server]
        offered = memory.offered(link)
        if server in waits.doubted:
            return frozenset(), frozenset()
        ready = frozenset(
            cut
            # A server may offer any name; "local" is ours, not a cut.
            for cut in self._planner.splits.intersection(offered) - {self._model.local}
            if self._broken_heads.allows(cut, now_s=now_s)
            and memory.backoff.allows(cut, now_s=now_s)
            and self._payload_bytes[cut] <= link.request_bytes
        )
        if not link.can_ask:
            return ready, frozenset()
        withheld = frozenset(cut for cut in ready if memory.backoff.asks_first(cut, now_s=now_s))
        return ready - withheld, withheld

    def profile(self, server: int, cut: int, now_s: float) -> SplitProfile:
        """Return a cut's profile with its times at a server.

        The times of the server in use fade, so that it is tried again. The standby server gets no frames just to be
        timed: until it is timed, it is assumed to be as fast as the others.
        """
        tails = self._memories[server].tails
        if not tails.is_known:
            tails = next((one.tails for one in self._memories if one.tails.is_known), tails)
        profile = tails.apply(self._planner.profile(cut), now_s=now_s, fades=server == self.in_use)
        return self._loaded.with_local_tail(profile)

    def _profiles(self, server: int, cuts: Iterable[int], now_s: float) -> list[SplitProfile]:
        return [self.profile(server, cut, now_s) for cut in sorted(cuts)]

    def conditions(self, server: int, moment: Moment, waits: BoardWaits) -> Conditions:
        """The conditions of a frame that is sent to this server."""
        link = moment.links[server]
        return Conditions(
            link=link.estimate,
            link_up=link.up,
            load=self._load.factor,
            queue_s=link.queue_s,
            local_wait_s=waits.local_s,
            may_hedge=self._may_hedge,
            next_frame_s=self._rhythm.next_frame_s(moment.now_s),
            uplink_busy_s=waits.uplink_busy_s(server),
        )

    def choose(self, usable: Sequence[frozenset[int]], moment: Moment, waits: BoardWaits) -> int:
        """Choose the server for a frame that arrived; ``usable``: the cuts at each."""
        if self.count == 1:
            return 0
        fixed, now_s, before = self._planner.fixed, moment.now_s, self.in_use
        costs_s = [
            self._planner.cost_s(
                self._profiles(server, cuts if fixed is None else cuts & {fixed}, now_s),
                self.conditions(server, moment, waits),
            )
            for server, cuts in enumerate(usable)
        ]
        server = self._choice.choose(costs_s, up=[link.up for link in moment.links], now_s=now_s)
        if server != before:
            why = "has no cut to offer now" if moment.links[before].up else "is not reached"
            if not math.isinf(costs_s[before]):
                why = f"would take {(costs_s[before] - costs_s[server]) * 1e3:.0f} ms longer"
            text = "frames go to %s from now on: %s %s"
            log.info(text, self._names[server], self._names[before], why, extra=PER_FRAME)
        return server

    def after_head(self, planned: int, cut: int, moment: Moment, waits: BoardWaits) -> int:
        """Choose the server after the head: as planned, unless another is clearly better by now."""
        if self.count == 1:
            return 0
        costs_s = [
            self.behind_head(server, cut, moment, waits).cost_s(self._planner.objective)
            if cut in self._ready(server, moment, waits)[0]
            else math.inf
            for server in range(self.count)
        ]
        best = min(range(self.count), key=lambda server: (costs_s[server], server != planned))
        return best if self._choice.is_clear_gain(costs_s[planned], costs_s[best]) else planned

    def behind_head(
        self, server: int, cut: int, moment: Moment, waits: BoardWaits, *, released: bool = False
    ) -> Prediction:
        """Predict the cost of sending after a cut's head; ``released``: the release is made, too."""
        profile = replace(self.profile(server, cut, moment.now_s), head_s=0.0)
        if released:
            profile = replace(profile, release_s=0.0)
        conditions = replace(self.conditions(server, moment, waits), may_hedge=False)
        local_s = self._planner.profile(self._model.local).head_s * conditions.load
        return predict(profile, conditions, local_s=local_s)

    def question(
        self,
        server: int,
        decision: Decision,
        withheld: Sequence[frozenset[int]],
        moment: Moment,
        waits: BoardWaits,
    ) -> tuple[int, Question | None]:
        """Choose a question to a server that was too busy lately; ``withheld``: the cuts at each.

        The server in use is asked while all frames are finished here; another one also while frames go to the one
        in use.
        """
        now_s = moment.now_s
        for other, cuts in enumerate(withheld):
            memory, link = self._memories[other], moment.links[other]
            if not cuts or (other == server and decision.split != self._model.local):
                continue
            if not memory.may_be_asked(link, now_s=now_s):
                continue
            seen = decision.seen if other == server else self.conditions(other, moment, waits)
            asked = question(replace(decision, seen=seen), self._profiles(other, cuts, now_s), self._planner)
            if asked is not None:
                memory.asked(now_s=now_s)
                return other, asked
        return server, None
