"""The sessions of all peers and their requests. No I/O: messages in, messages out.

The gateway passes every message with the key that its sender has proved to own; answers leave by the routing id. A
device is identified by its key alone. The memory of all sessions is bounded by `ServerLimits`.
"""

# Over 300 lines: every message and every outcome of a request, each of which changes what the others may do.

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import msgspec

from cloud_server import revocation
from cloud_server.acknowledgements import Acknowledgements
from cloud_server.budgets import Budgets
from cloud_server.counters import Counters
from cloud_server.engine import Done, Engine, Outcome
from cloud_server.held_bytes import HeldBytes
from cloud_server.limits import ServerLimits
from cloud_server.open_requests import OpenRequest, OpenRequests
from cloud_server.peers import Peer, Peers
from cloud_server.statistics.collector import Collector
from cloud_server.tails import TailSet
from split_model.protocol import messages as wire
from split_model.protocol import server as protocol
from split_model.service.throttle import PER_FRAME

_log = logging.getLogger(__name__)

#: Refusals after which the same request may be accepted later.
_FOR_NOW = ("busy", "expired")


class Reply(msgspec.Struct, frozen=True):
    """One message to send."""

    routing_id: bytes
    message: wire.FromServer
    payload: bytes | None = None


class Sessions:
    """The server's logic between gateway and engine."""

    def __init__(
        self,
        *,
        tails: TailSet,
        engine: Engine,
        name_of: Callable[[str], str | None],
        boot_id: str,
        limits: ServerLimits,
        counters: Counters,
        held: HeldBytes | None = None,
        statistics: Collector | None = None,
        on_answer: Callable[[str, OpenRequest, Done], None] | None = None,
        on_report: Callable[[str, wire.Report, float], None] = lambda _key, _report, _now_s: None,
    ) -> None:
        self.counters = counters
        self._statistics = statistics
        self._on_answer = on_answer
        self._on_report = on_report
        self.draining = False
        self.tails = tails
        self._engine = engine
        self._name_of = name_of
        self._boot_id = boot_id
        self._limits = limits
        self._peers = Peers()
        self._acks = Acknowledgements()
        self._held = held or HeldBytes()
        self._open = OpenRequests(engine, self._held)

    @property
    def budgets(self) -> Budgets:
        """The budgets of a key, by the present limits."""
        return self._limits.budgets

    @property
    def peers(self) -> int:
        """Number of connections with a session."""
        return len(self._peers)

    @property
    def open_jobs(self) -> int:
        """Number of requests in the engine that were not cancelled."""
        return len(self._open)

    @property
    def held_bytes(self) -> int:
        """Payload bytes of all requests, arriving, waiting or running."""
        return self._held.total

    def heard_s(self) -> dict[str, float]:
        """Time of the last message of each greeted device, by key."""
        found: dict[str, float] = {}
        for peer in self._peers:
            if peer.session.peer_boot_id is not None:
                found[peer.key] = max(peer.session.heard_s, found.get(peer.key, -math.inf))
        return found

    def greeted(self, routing_id: bytes) -> bool:
        """Whether this peer has said hello, and is not silent."""
        peer = self._peers.find(routing_id)
        return peer is not None and peer.session.peer_boot_id is not None

    def receive(self, routing_id: bytes, user_id: str, frames: list[memoryview], now_s: float) -> list[Reply]:
        """Handle one message of a peer with the authenticated key ``user_id``."""
        if self._name_of(user_id) is None:
            self.drop(routing_id)
            return self._count([Reply(routing_id, refusal) for refusal in revocation.refusals(frames)])
        peer = self._peers.find(routing_id)
        if peer is not None and peer.key != user_id:
            self.drop(routing_id)
            peer = None
        if peer is None:
            if why := self._peers.why_no_room(user_id, self._limits):
                return self._count([Reply(routing_id, wire.Refusal(request_id=None, code="busy", text=why))])
            peer = self._add(routing_id, user_id, now_s)
        replies, events = peer.session.receive(frames, now_s)
        if peer.session.held_bytes != peer.arriving_bytes:
            self._hold_arriving(peer, peer.session.held_bytes)
        elif len(replies) == 1 and type(replies[0]) is wire.Ack and not events:  # a chunk, and not the last one
            self._acks.note(routing_id, replies[0], whole=False, now_s=now_s)
            return []
        self._account(peer, events)
        result = self._replies(peer, replies, whole=bool(events), now_s=now_s)
        for event in events:
            if isinstance(event, protocol.Arrived):
                result += self._arrived(peer, event, now_s)
            else:
                self._heed(peer, event, now_s)
        return self._count(result)

    def _heed(
        self, peer: Peer, event: protocol.Greeted | protocol.Cancelled | protocol.Reported, now_s: float
    ) -> None:
        if isinstance(event, protocol.Greeted):
            self._greeted(peer, event)
        elif isinstance(event, protocol.Reported):
            self._on_report(peer.key, event.report, now_s)
        else:
            self._cancelled(peer, event.request_id)

    def _replies(self, peer: Peer, messages: list[wire.FromServer], *, whole: bool, now_s: float) -> list[Reply]:
        """Return the replies to send at once; acknowledgements wait for `turn`.

        If a refusal names no request, acknowledgements are sent first: a device applies it to the first request
        without one.
        """
        result: list[Reply] = []
        for message in messages:
            if isinstance(message, wire.Ack):
                self._acks.note(peer.routing_id, message, whole=whole, now_s=now_s)
                continue
            if isinstance(message, wire.Refusal) and message.request_id is None:
                result += [Reply(peer.routing_id, ack) for ack in self._acks.flush(peer.routing_id)]
            result.append(Reply(peer.routing_id, message))
        return result

    def turn(self, now_s: float) -> list[Reply]:
        """Finish a batch of messages: run short tails in this thread, and acknowledge the other requests."""
        replies = [reply for outcome in self._engine.run_short() for reply in self.finished(outcome)]
        return replies + [Reply(routing_id, ack) for routing_id, ack in self._acks.due(now_s)]

    def next_turn_s(self, now_s: float) -> float:
        """Time when `turn` has something to do, unless an event comes first; infinite for never."""
        return now_s if self._engine.short else self._acks.next_s()

    @property
    def gathering(self) -> bool:
        """Whether more of a request may follow at once, and no short tail waits."""
        return self._acks.gathering and not self._engine.short

    def finished(self, outcome: Outcome) -> list[Reply]:
        """Handle the outcome of a job."""
        ended = self._open.finish(outcome.job_id)
        if ended is None:
            self.counters.late += 1
            return []
        self._acks.forget(ended.routing_id, ended.request_id)
        request = ended.arrived.request
        peer = self._peers.find(ended.routing_id)
        takes_load = peer is not None and peer.session.takes_load
        if not isinstance(outcome, Done):
            load = None
            if takes_load and outcome.code in _FOR_NOW:
                load = self._engine.load(ended.device, ended.tail, due_in_s=request.due_in_s)
            refusal = wire.Refusal(request_id=ended.request_id, code=outcome.code, text=outcome.text, load=load)
            self.counters.failed += 1
            return self._count([Reply(ended.routing_id, refusal)])
        self.counters.answered += 1
        self._acks.answered(outcome.queue_s + outcome.tail_s)
        if self._on_answer is not None:
            self._on_answer(self._name_of(ended.device) or "", ended, outcome)
        answer = wire.Answer(
            request_id=ended.request_id,
            tensors=outcome.tensors,
            timed_bytes=ended.arrived.timed_bytes,
            receive_s=ended.arrived.receive_s,
            queue_s=outcome.queue_s,
            tail_s=outcome.tail_s,
            load=self._engine.load_after(ended.device, ended.tail, due_in_s=request.due_in_s)
            if takes_load
            else None,
        )
        return [Reply(ended.routing_id, answer, outcome.payload)]

    def sweep(self, now_s: float) -> None:
        """Drop the peers that have been silent for too long."""
        for peer in self._peers:
            if now_s - peer.session.heard_s > self._limits.peer_timeout_s:
                self.counters.peers_silent += 1
                self.drop(peer.routing_id)

    def revoke(self) -> list[Reply]:
        """Handle a changed allow-list: drop peers that are no longer on it, and refuse their open requests."""
        replies = []
        for peer in self._peers:
            if self._name_of(peer.key) is not None:
                continue
            waiting = self._open.of(peer.routing_id)
            self.drop(peer.routing_id)
            replies += [Reply(peer.routing_id, revocation.refusal(request_id)) for request_id in [*waiting, None]]
        return self._count(replies)

    def host(self, tails: TailSet, limits: ServerLimits) -> list[Reply]:
        """Host other tails with other limits. Devices are asked to greet again and repeat open requests."""
        self.tails, self._limits = tails, limits
        text = "this server hosts other bundles now"
        replies = []
        for peer in self._peers:
            replies.append(Reply(peer.routing_id, wire.Refusal(request_id=None, code="hello_first", text=text)))
            self.drop(peer.routing_id)
        return replies

    def drop(self, routing_id: bytes) -> None:
        """Remove a peer and everything it holds here."""
        peer = self._peers.remove(routing_id)
        self._acks.drop(routing_id)
        if peer is not None:
            self.counters.dropped += len(peer.arriving)
            self._hold_arriving(peer, 0)
            self.counters.dropped += self._open.cancel_all(routing_id)

    def _add(self, routing_id: bytes, user_id: str, now_s: float) -> Peer:
        session = protocol.PeerSession(
            user_id=user_id,
            boot_id=self._boot_id,
            offers=self.tails.offers,
            admit=lambda request: self._admit(peer, request),
            advise=lambda ask: self._advise(peer, ask),
            limits=self._limits.peer,
            now_s=now_s,
        )
        peer = Peer(routing_id, session)
        self._peers.add(peer)
        self.counters.peers_seen += 1
        return peer

    def _admit(self, peer: Peer, request: wire.Request) -> protocol.Denial | None:
        denial = self._denial(peer, request)
        if denial is None:
            self.counters.requests += 1
            peer.arriving.add(request.request_id)
        return denial

    def _denial(self, peer: Peer, request: wire.Request) -> protocol.Denial | None:
        if self.draining:
            return protocol.Denial("busy", "this server is stopping")
        if request.request_id in self._open.of(peer.routing_id):
            return protocol.Denial("protocol", f"request {request.request_id} is open already")
        open_requests = self._open.places(peer.routing_id) + len(peer.arriving)
        if open_requests >= self._limits.peer.open_requests:
            return protocol.Denial("busy", f"{open_requests} of your requests are open already")
        reason = self.tails.admit(request)
        if reason is not None:
            return protocol.Denial(*reason)
        key = peer.key
        too_much = self._held.reason_against(key, request.total_bytes, limit_bytes=self._limits.held_bytes)
        if too_much is not None:
            return protocol.Denial("busy", too_much)
        return self._engine.denial(key, self.tails.tail_for(request), due_in_s=request.due_in_s)

    def _advise(self, peer: Peer, ask: wire.Ask) -> wire.Load:
        """Answer a device's question before a request; a missing tail is explained when it sends the request."""
        self.counters.asks += 1
        tail = self.tails.tails.get((ask.bundle, ask.cut))
        if tail is None:
            return wire.Load(queue_s=0.0, retry_s=0.0)
        return self._engine.load(peer.key, tail, due_in_s=ask.due_in_s)

    def _account(self, peer: Peer, events: list[protocol.Event]) -> None:
        """Count the outcomes of requests that were arriving; those in the engine are counted later."""
        still_open = peer.session.open_requests
        if peer.arriving == still_open:
            return
        ended = peer.arriving - still_open
        peer.arriving -= ended
        for event in events:
            if isinstance(event, protocol.Greeted):
                self.counters.dropped += len(ended)
                return
            if isinstance(event, protocol.Reported):
                continue
            request_id = event.request.request_id if isinstance(event, protocol.Arrived) else event.request_id
            if isinstance(event, protocol.Cancelled) and request_id in ended:
                self.counters.cancelled += 1
            ended -= {request_id}
        self.counters.failed += len(ended)

    def _arrived(self, peer: Peer, event: protocol.Arrived, now_s: float) -> list[Reply]:
        request, key = event.request, peer.key
        tail = self.tails.tail_for(request)
        if self._statistics is not None:  # a release counts even if its tail will not run
            name = self._name_of(key) or ""
            self._statistics.released(name, tail.bundle.manifest.name, request, event.payload)
        due_in_s = request.due_in_s - (now_s - event.started_s)
        denial: protocol.Denial | None = None
        if now_s > event.started_s:  # other requests came while its payload arrived
            denial = self._engine.denial(key, tail, due_in_s=due_in_s)
        if denial is None:
            if self._open.submit(peer.routing_id, key, event, tail, now_s=now_s):
                return []
            text = f"{self._engine.queued} requests wait already, and this device has its share of the queue"
            denial = protocol.Denial("busy", text, self._engine.load(key, tail, due_in_s=due_in_s))
        self.counters.failed += 1
        self._acks.forget(peer.routing_id, request.request_id)
        load = denial.load if peer.session.takes_load else None
        refusal = wire.Refusal(request_id=request.request_id, code=denial.code, text=denial.text, load=load)
        return [Reply(peer.routing_id, refusal)]

    def _greeted(self, peer: Peer, event: protocol.Greeted) -> None:
        """Handle a hello: it ends all earlier requests of this connection and of the device's previous one."""
        self.counters.dropped += self._open.cancel_all(peer.routing_id)
        self._acks.drop(peer.routing_id)
        for other in self._peers.of_key(peer.key):
            if other.session.peer_boot_id == event.boot_id and other is not peer:
                self.drop(other.routing_id)
        text = "device %s says hello: %s, boot %s"  # marked: a device may send it any number of times
        _log.info(text, self._name_of(peer.key), event.software, event.boot_id, extra=PER_FRAME)

    def _cancelled(self, peer: Peer, request_id: int) -> None:
        self.counters.cancelled += self._open.cancel(peer.routing_id, request_id)
        self._acks.forget(peer.routing_id, request_id)

    def _hold_arriving(self, peer: Peer, held_bytes: int) -> None:
        self._held.change(peer.key, held_bytes - peer.arriving_bytes)
        peer.arriving_bytes = held_bytes

    def _count(self, replies: list[Reply]) -> list[Reply]:
        for reply in replies:
            if isinstance(reply.message, wire.Refusal):
                self.counters.refuse(reply.message.code)
        return replies
