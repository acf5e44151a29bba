"""The link thread: it alone owns the sockets, carries requests to the server and answers back.

The inference thread hands it requests and waits for outcomes; everything it learns of the link on the way
(acknowledged chunks, timings that come with answers, probes) goes into the estimator. A server that is away
is not an error here: requests simply stay without an outcome, and the frame is finished locally in time.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from edge_runtime.conditions.link import LinkEstimate, LinkEstimator
from edge_runtime.transport import Transport, TransportEvent
from split_model.errors import ProtocolError
from split_model.protocol import messages as wire
from split_model.protocol.device import Answered, DeviceSession, Event, Late, Probed, Refused, State, Welcomed

log = logging.getLogger(__name__)

#: A probe's size, least and most: enough chunks for their spacing to show the rate.
PROBE_BYTES = (3 << 10, 8 << 10)
#: Probes take no more than this share of the uplink as it is believed to be, and only while nothing else crosses;
#: but at least every `_PROBE_AT_LEAST_S`, or a link that came back from an outage would never be noticed.
PROBE_SHARE = 0.08
#: Requests that timed fewer bytes than this say nothing certain of the rate.
MIN_TIMED_BYTES = 2 << 10
_PROBE_EVERY_S = 0.5
_PROBE_AT_LEAST_S = 2.0
_PING_EVERY_S = 2.0
_SILENCE_S = 8.0
_BACKOFF_S = (0.5, 8.0)
_WINDOW_S = 0.3
_MIN_WINDOW_BYTES = 32 << 10


@dataclass(frozen=True)
class Outcome:
    """How a request ended at the server: answered or refused, one of the two."""

    at_s: float
    answered: Answered | None = None
    refusal: Refused | None = None


@dataclass(frozen=True)
class LinkView:
    """What the rest of the program may know of the link. ``trouble`` is one line for the user, or empty."""

    up: bool
    trouble: str
    offers: tuple[wire.Offer, ...]
    estimate: LinkEstimate
    queue_s: float
    late: int
    reconnects: int


class Offload(threading.Thread):
    """Start it, ``submit`` requests, ``wait`` for their outcomes, ``cancel`` what is no longer wanted."""

    def __init__(
        self,
        transport: Transport,
        session: DeviceSession,
        *,
        now: Callable[[], float] = time.monotonic,
        estimator: LinkEstimator | None = None,
    ) -> None:
        super().__init__(name="link", daemon=True)
        self._transport = transport
        self._session = session
        self._now = now
        self._estimator = estimator or LinkEstimator()
        self._lock = threading.Condition()
        self._commands: list[Callable[[], None]] = []
        self._outcomes: dict[int, Outcome] = {}
        self._open: set[int] = set()
        self._acked: dict[int, int] = {}
        self._view = LinkView(False, "not connected yet", (), self._estimator.estimate(0.0), 0.0, 0, 0)
        self._stopping = False
        self._heard_s = self._pinged_s = self._probed_s = self._timed_s = now()
        self._backoff_s = _BACKOFF_S[0]
        self._reopen_at_s: float | None = None
        self._failed_handshakes = 0

    # Called from the inference thread.

    def submit(self, request: wire.Request, payload: memoryview, *, due_at_s: float) -> None:
        """Send a request as soon as the link takes it. The payload must not change until it has an outcome."""
        with self._lock:
            self._open.add(request.request_id)
        self._command(lambda: self._session.submit(request, payload, due_at_s=due_at_s))

    def wait(
        self, request_id: int, *, until_s: float, unless: Callable[[], bool] = lambda: False
    ) -> Outcome | None:
        """The outcome of a request, or None when the time is up or ``unless`` holds first (`nudge` rechecks it).

        An outcome is taken once; the request is then closed.
        """
        with self._lock:
            while request_id not in self._outcomes:
                remaining_s = until_s - self._now()
                if remaining_s <= 0 or self._stopping or unless():
                    return None
                self._lock.wait(min(remaining_s, 3600.0))
            self._open.discard(request_id)
            return self._outcomes.pop(request_id)

    def nudge(self) -> None:
        """Make every `wait` look at its ``unless`` again."""
        with self._lock:
            self._lock.notify_all()

    def acked_bytes(self, request_id: int) -> int:
        """How many bytes of an open request have arrived at the server, as far as we know."""
        with self._lock:
            return self._acked.get(request_id, 0)

    def cancel(self, request_id: int) -> None:
        """Nobody waits for this request any more."""
        with self._lock:
            self._open.discard(request_id)
            self._outcomes.pop(request_id, None)
        self._command(lambda: self._cancel(request_id))

    def view(self) -> LinkView:
        """The link as of now."""
        with self._lock:
            return replace(self._view, estimate=self._estimator.estimate(self._now()))

    def stop(self) -> None:
        """End the thread; unfinished requests stay without an outcome."""
        self._stopping = True
        self._transport.wake()
        self.join()

    # The link thread.

    def run(self) -> None:
        """Serve the sockets until `stop`."""
        self._transport.open()
        try:
            while not self._stopping:
                self._turn()
        finally:
            self._transport.close()
            with self._lock:
                self._stopping = True
                self._lock.notify_all()

    def _turn(self) -> None:
        self._run_commands()
        wants_to_send = self._send_all()
        for happened in self._transport.poll(self._timeout_s(), wants_to_send=wants_to_send):
            self._transport_event(happened)
        for frames in self._transport.receive():
            self._heard_s = now_s = self._now()
            try:
                events = self._session.receive(frames, now_s)
            except ProtocolError as error:
                log.warning("%s: %s; reconnecting", self._transport.address, error)
                self._reopen(str(error))
                return
            for event in events:
                self._session_event(event, now_s)
        with self._lock:
            self._acked = {request_id: self._session.acked_bytes(request_id) for request_id in self._open}
        self._upkeep()

    def _send_all(self) -> bool:
        """Put out what the socket takes; True where more waits for it."""
        if self._reopen_at_s is not None:
            return False
        while frames := self._session.next_message(self._now()):
            if not self._transport.send(frames):
                self._session.put_back(frames)
                return True
        return False

    def _timeout_s(self) -> float:
        return 0.05 if self._session.open_requests or self._session.open_probes else 0.1

    def _command(self, action: Callable[[], None]) -> None:
        with self._lock:
            self._commands.append(action)
        self._transport.wake()

    def _run_commands(self) -> None:
        with self._lock:
            commands, self._commands = self._commands, []
        for command in commands:
            command()

    def _cancel(self, request_id: int) -> None:
        """A request that is given up says how far it got: without this a dying link would keep its old estimate."""
        first_sent_s = self._session.first_sent_s(request_id)
        if first_sent_s is not None:
            now_s = self._now()
            with self._lock:
                rtt_s = self._estimator.estimate(now_s).rtt_s or 0.0
                elapsed_s = max(1e-3, now_s - first_sent_s - rtt_s)
                self._estimator.transferred(self._session.acked_bytes(request_id), elapsed_s, at_s=now_s)
            self._timed_s = now_s
        self._session.cancel(request_id)

    def _transport_event(self, happened: TransportEvent) -> None:
        if happened is TransportEvent.READY:
            self._failed_handshakes = 0
            self._heard_s = self._now()
            self._session.connected()
        elif happened is TransportEvent.LOST:
            self._session.disconnected()
            self._publish(up=False, trouble=f"lost the connection to {self._transport.address}")
        elif happened is TransportEvent.REFUSED:
            self._reopen(
                f"{self._transport.address} refuses this device's key; allow it there with "
                f"'cloud-server devices allow NAME {self._transport.public_key}'"
            )
        else:
            self._failed_handshakes += 1
            self._reopen(
                f"{self._transport.address} breaks off the handshake; "
                "check server.public_key in the config and that a cloud-server listens there"
            )

    def _session_event(self, event: Event, now_s: float) -> None:
        if isinstance(event, Welcomed):
            self._backoff_s = _BACKOFF_S[0]
            self._probed_s = -1e9
            self._publish(up=True, trouble="", offers=event.welcome.offers)
            log.info("connected to %s, protocol %d", self._transport.address, event.welcome.version)
        elif isinstance(event, Answered):
            self._answered(event, now_s)
        elif isinstance(event, Probed):
            self._probe_back(event, now_s)
        elif isinstance(event, Late):
            with self._lock:
                self._view = replace(self._view, late=self._view.late + 1)
        elif event.request_id is None:
            self._reopen(f"{self._transport.address}: {event.code}: {event.text}")
        else:
            self._finish(event.request_id, Outcome(now_s, refusal=event))

    def _answered(self, event: Answered, now_s: float) -> None:
        answer = event.answer
        with self._lock:
            transfer_s = 0.0
            if answer.timed_bytes >= MIN_TIMED_BYTES:
                self._estimator.transferred(answer.timed_bytes, answer.receive_s, at_s=now_s)
                transfer_s = answer.receive_s * event.total_bytes / answer.timed_bytes
                self._timed_s = now_s
            rest_s = event.elapsed_s - transfer_s - answer.queue_s - answer.tail_s
            self._estimator.round_trip(rest_s)
            self._view = replace(self._view, queue_s=0.5 * self._view.queue_s + 0.5 * answer.queue_s)
        self._finish(event.request_id, Outcome(now_s, answered=event))

    def _probe_back(self, event: Probed, now_s: float) -> None:
        with self._lock:
            if event.timed_bytes >= MIN_TIMED_BYTES:
                self._estimator.transferred(event.timed_bytes, event.receive_s, at_s=now_s)
                self._timed_s = now_s
            elif event.total_bytes == 0:
                self._estimator.round_trip(event.elapsed_s)

    def _finish(self, request_id: int, outcome: Outcome) -> None:
        with self._lock:
            if request_id in self._open:
                self._outcomes[request_id] = outcome
                self._lock.notify_all()
            else:
                self._view = replace(self._view, late=self._view.late + 1)

    def _publish(self, *, up: bool, trouble: str, offers: tuple[wire.Offer, ...] = ()) -> None:
        with self._lock:
            if trouble and trouble != self._view.trouble:
                log.warning("%s", trouble)
            self._view = replace(self._view, up=up, trouble=trouble, offers=offers)

    def _upkeep(self) -> None:
        now_s = self._now()
        if self._reopen_at_s is not None:
            if now_s >= self._reopen_at_s:
                self._reopen_at_s = None
                self._heard_s = now_s
                self._transport.open()
            return
        if self._session.state is State.READY:
            self._measure(now_s)
        if self._session.state is not State.CLOSED and now_s - self._heard_s > _SILENCE_S:
            self._reopen(f"nothing heard from {self._transport.address} for {_SILENCE_S:.0f} s")

    def _measure(self, now_s: float) -> None:
        """Ping now and then; probe while requests tell too little of the link."""
        estimate = self._estimator.estimate(now_s)
        rate = estimate.uplink_bytes_s
        if rate is not None:
            window = int(rate * (_WINDOW_S + (estimate.rtt_s or 0.0)))
            limit = self._session.welcome.window_bytes if self._session.welcome else _MIN_WINDOW_BYTES
            self._session.window_bytes = max(_MIN_WINDOW_BYTES, min(window, limit))
        if self._session.open_requests or self._session.open_probes:
            return
        least, most = PROBE_BYTES
        share = PROBE_SHARE * (rate or least)
        probe_bytes = max(least, min(most, int(share * _PROBE_EVERY_S)))
        pause_s = max(_PROBE_EVERY_S, min(probe_bytes / share, _PROBE_AT_LEAST_S)) if rate else _PROBE_EVERY_S
        # From the last probe's sending, not its return: one that came back late says that the link is back.
        if now_s - self._probed_s >= pause_s and now_s - self._timed_s >= _PROBE_EVERY_S / 2:
            self._probed_s = now_s
            self._session.probe(probe_bytes)
        elif now_s - max(self._pinged_s, self._heard_s) >= _PING_EVERY_S:
            self._pinged_s = now_s
            self._session.probe(0)

    def _reopen(self, trouble: str) -> None:
        """Close the socket and open a new one after a pause: after a refusal libzmq never tries again by itself."""
        self._session.disconnected()
        self._transport.close()
        self._reopen_at_s = self._now() + self._backoff_s * random.uniform(0.8, 1.2)  # noqa: S311  jitter, no secret
        self._backoff_s = min(self._backoff_s * 2, _BACKOFF_S[1])
        with self._lock:
            self._view = replace(self._view, reconnects=self._view.reconnects + 1)
        self._publish(up=False, trouble=trouble)
