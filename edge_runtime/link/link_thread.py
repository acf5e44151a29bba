"""The link thread: it alone owns the sockets, carries requests to the server and answers back.

The frame loop's thread hands it requests and waits for outcomes; everything it learns of the link on the way
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

from edge_runtime.link.estimator import LinkEstimate, LinkEstimator
from edge_runtime.link.monitor import LinkMeter
from edge_runtime.link.pending import Mailbox, Outcome
from edge_runtime.link.tcp_info import TcpInfo, refined
from edge_runtime.link.transport import Transport, TransportEvent
from split_model.errors import ProtocolError
from split_model.protocol import messages as wire
from split_model.protocol.device import Answered, DeviceSession, Event, Late, Probed, Refused, State, Welcomed

log = logging.getLogger(__name__)

#: The trouble of a link that has not had the time for any other.
NOT_YET = "not connected yet"

_SILENCE_S = 8.0
_BACKOFF_S = (0.5, 5.0)
#: A server that does not take connections for so long is reported.
_AWAY_S = 3.0


@dataclass(frozen=True)
class LinkView:
    """What the rest of the program may know of the link. ``trouble`` is one line for the user, or empty.

    ``queue_s``: how long a new request waits, in our own socket behind what is left there, and at the server.
    ``late``: answers that nobody waited for any more. ``reconnects``: times that the server welcomed us again.
    """

    up: bool
    trouble: str
    offers: tuple[wire.Offer, ...]
    request_bytes: int
    estimate: LinkEstimate
    queue_s: float
    late: int
    reconnects: int
    tcp: TcpInfo | None = None


class Offload(threading.Thread):
    """Start it, ``submit`` requests, ``wait`` for their outcomes, ``cancel`` what is no longer wanted.

    ``beat`` is called at every turn of the thread, ten times a second or more.
    """

    def __init__(
        self,
        transport: Transport,
        session: DeviceSession,
        *,
        now: Callable[[], float] = time.monotonic,
        estimator: LinkEstimator | None = None,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(name="link", daemon=True)
        self._transport = transport
        self._session = session
        self._now = now
        self._beat = beat
        self._meter = LinkMeter(estimator or LinkEstimator(), now_s=now())
        self._mailbox = Mailbox(now=now)
        self._outcomes = self._mailbox.outcomes  # the simulator in benchmarks looks whether one is there
        self._lock = threading.Lock()  # guards the commands, the view and the meter
        self._commands: list[Callable[[], None]] = []
        self._view = LinkView(False, NOT_YET, (), 0, self._meter.estimate(now()), 0.0, 0, 0)
        self._tcp: TcpInfo | None = None
        self._stopping = False
        self._opened = threading.Event()
        self._heard_s = self._down_s = now()
        self._backoff_s = _BACKOFF_S[0]
        self._reopen_at_s: float | None = None
        self._welcomes = 0
        self._open_ids: set[int] = set()  # of the link thread
        self._error: BaseException | None = None

    # Called from the frame loop's thread.

    def submit(self, request: wire.Request, payload: memoryview, *, due_at_s: float) -> None:
        """Send a request as soon as the link takes it. The payload must not change until it has an outcome."""
        self._mailbox.open(request.request_id, len(payload))

        def submit() -> None:
            self._open_ids.add(request.request_id)
            self._session.submit(request, payload, due_at_s=due_at_s)

        self._command(submit)

    def frame(self, *, offloaded: bool) -> None:
        """A frame begins, and this is where it goes: probes keep out of its way."""
        with self._lock:
            self._meter.frame(self._now(), offloaded=offloaded)

    def sends(self) -> None:
        """The frame that was to stay here is sent after all."""
        with self._lock:
            self._meter.sends()

    def stays(self) -> None:
        """The frame that was to be sent stays here after all: the link is free for probes."""
        with self._lock:
            self._meter.ended()

    def wait(
        self, request_id: int, *, until_s: float, unless: Callable[[], bool] = lambda: False
    ) -> Outcome | None:
        """See `Mailbox.wait`."""
        return self._mailbox.wait(request_id, until_s=until_s, unless=unless)

    def rest(self, *, until_s: float, unless: Callable[[], bool]) -> None:
        """See `Mailbox.rest`."""
        self._mailbox.rest(until_s=until_s, unless=unless)

    def has_ended(self, request_id: int) -> bool:
        """Whether `wait` would give an outcome at once."""
        return request_id in self._outcomes

    def nudge(self) -> None:
        """Make `wait` look at its ``unless`` again."""
        self._mailbox.nudge()

    def acked_bytes(self, request_id: int) -> int:
        """How many bytes of an open request have arrived at the server, as far as we know."""
        return self._mailbox.acked_bytes(request_id)

    def cancel(self, request_id: int) -> None:
        """Nobody waits for this request any more."""
        left = self._mailbox.give_up(request_id)
        with self._lock:  # at once: the link thread may come to it only when the next frame has begun
            self._meter.ended()
            if left is not None and left.first_sent_s is not None:
                self._meter.given_up(
                    acked_bytes=left.acked_bytes,
                    total_bytes=left.total_bytes,
                    first_sent_s=left.first_sent_s,
                    now_s=self._now(),
                )

        def cancel() -> None:
            self._open_ids.discard(request_id)
            self._session.cancel(request_id)

        self._command(cancel)

    def view(self) -> LinkView:
        """The link as of now. Raises what ended the link thread, if something did: it is not to be missed."""
        with self._lock:
            if self._error is not None:
                raise self._error
            now_s = self._now()
            estimate, backlog_s = refined(self._meter.estimate(now_s), self._tcp)
            queue_s = self._meter.queue_s(now_s) + backlog_s
            late = self._mailbox.late
            return replace(self._view, estimate=estimate, queue_s=queue_s, late=late, tcp=self._tcp)

    def wait_until_open(self) -> None:
        """Wait until the link thread has its sockets, which takes no server; raises what ended it, as `view`."""
        self._opened.wait()
        self.view()

    def stop(self) -> LinkView:
        """`end`, and the last view, for its counts."""
        self.end()
        return self.view()

    def end(self) -> None:
        """End the thread; unfinished requests stay without an outcome. Doing it twice does no harm."""
        self._stopping = True
        if self.is_alive():
            self._transport.wake()
        self.join()

    # The link thread.

    def run(self) -> None:
        """Serve the sockets until `stop`."""
        try:
            self._transport.open()
            self._opened.set()
            while not self._stopping:
                self._turn()
        except BaseException as error:  # noqa: BLE001  whatever it is, `view` raises it in the frame loop's thread
            self._error = error
        finally:
            self._opened.set()
            self._transport.close()
            self._mailbox.close()

    def _turn(self) -> None:
        self._beat()
        self._run_commands()
        wants_to_send = self._send_all()
        happenings = self._transport.poll(self._timeout_s(), wants_to_send=wants_to_send)
        self._tcp = self._transport.tcp()  # before an answer wakes somebody who looks at it
        for happened in happenings:
            self._transport_event(happened)
            if self._reopen_at_s is not None:  # what else there is concerns a socket that is closed now
                break
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
        self._mailbox.note(self._session.acked_bytes, self._session.first_sent_s)
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
        if self._session.open_requests or self._session.open_probes:
            return 0.05
        now_s = self._now()
        return min(0.1, max(0.005, self._meter.probe_due_s(now_s) - now_s))

    def _command(self, action: Callable[[], None]) -> None:
        with self._lock:
            self._commands.append(action)
        self._transport.wake()

    def _run_commands(self) -> None:
        with self._lock:
            commands, self._commands = self._commands, []
        for command in commands:
            command()

    def _transport_event(self, happened: TransportEvent) -> None:
        if happened is TransportEvent.READY:
            self._heard_s = self._now()
            self._session.connected()
        elif happened is TransportEvent.LOST:
            self._down_s = self._now()
            self._session.disconnected()
            self._publish(up=False, trouble=f"lost the connection to {self._transport.address}")
        elif happened is TransportEvent.REFUSED:
            self._reopen_refused()
        else:
            self._reopen(
                f"{self._transport.address} breaks off the handshake; "
                "check server.public_keys in the config, and that a cloud-server listens there"
            )

    def _reopen_refused(self) -> None:
        self._reopen(
            f"{self._transport.address} refuses this device's key; allow it there with "
            f"cloud-server devices allow -c FILE NAME '{self._transport.public_key}'"
        )

    def _session_event(self, event: Event, now_s: float) -> None:
        if isinstance(event, Welcomed):
            self._backoff_s = _BACKOFF_S[0]
            self._meter.connected()
            self._welcomes += 1
            self._publish(up=True, trouble="", welcome=event.welcome)
            log.info("connected to %s, protocol %d", self._transport.address, event.welcome.version)
        elif isinstance(event, Answered):
            with self._lock:
                self._meter.answered(event, now_s)
            self._open_ids.discard(event.request_id)
            self._mailbox.finish(event.request_id, Outcome(now_s, answered=event))
        elif isinstance(event, Probed):
            with self._lock:
                self._meter.probed(event, now_s)
        elif isinstance(event, Late):
            self._mailbox.came_late()
        else:
            self._refused(event, now_s)

    def _refused(self, event: Refused, now_s: float) -> None:
        if event.request_id is not None:
            with self._lock:
                self._meter.ended()
            self._open_ids.discard(event.request_id)
            self._mailbox.finish(event.request_id, Outcome(now_s, refusal=event))
        elif event.code == "protocol":
            self._refuse_sent(event, now_s)
        if event.code == "revoked":
            self._reopen_refused()
        elif event.request_id is None:
            self._reopen(f"{self._transport.address}: {event.code}: {event.text}")

    def _refuse_sent(self, event: Refused, now_s: float) -> None:
        """The server objects to one of our messages, not saying which: sent again, it would be refused again.

        It takes them in order and acknowledges what it takes, so it means the first that it did not acknowledge;
        those behind go out again on the next connection.
        """
        sent = [number for number in sorted(self._open_ids) if self._session.first_sent_s(number) is not None]
        unheard = [number for number in sent if not self._session.acked_bytes(number)]
        for request_id in unheard[:1] or sent:
            self._open_ids.discard(request_id)
            self._session.cancel(request_id)
            with self._lock:
                self._meter.ended()
            self._mailbox.finish(request_id, Outcome(now_s, refusal=replace(event, request_id=request_id)))

    def _publish(self, *, up: bool, trouble: str, welcome: wire.Welcome | None = None) -> None:
        with self._lock:
            if trouble and trouble != self._view.trouble:
                log.warning("%s", trouble)
            reconnects = max(0, self._welcomes - 1)
            self._view = replace(
                self._view,
                up=up,
                trouble=trouble,
                offers=() if welcome is None else welcome.offers,
                request_bytes=0 if welcome is None else welcome.request_bytes,
                reconnects=reconnects,
            )

    def _upkeep(self) -> None:
        now_s = self._now()
        if self._reopen_at_s is not None:
            if now_s >= self._reopen_at_s:
                self._reopen_at_s = None
                self._heard_s = self._down_s = now_s
                self._transport.open()
            return
        if self._session.state is State.READY:
            self._measure(now_s)
        elif self._session.state is State.CLOSED and now_s - self._down_s > _AWAY_S:
            self._publish(
                up=False,
                trouble=f"no connection to {self._transport.address}; check that a cloud-server runs there and "
                "that nothing blocks the port; frames are answered here meanwhile",
            )
        if self._session.state is not State.CLOSED and now_s - self._heard_s > _SILENCE_S:
            self._reopen(f"nothing heard from {self._transport.address} for {_SILENCE_S:.0f} s")

    def _measure(self, now_s: float) -> None:
        session = self._session
        limit = session.welcome.window_bytes if session.welcome else session.window_bytes
        session.window_bytes = self._meter.window_bytes(limit, now_s) or session.window_bytes
        silent = now_s - self._heard_s >= _SILENCE_S / 2
        if session.open_probes or (session.open_requests and not silent):
            return
        probe_bytes = self._meter.next_probe_bytes(now_s, silent=silent)
        if probe_bytes is not None:
            session.probe(probe_bytes)

    def _reopen(self, trouble: str) -> None:
        """Close the socket and open a new one after a pause: after a refusal libzmq never tries again by itself."""
        self._session.disconnected()
        self._transport.close()
        self._reopen_at_s = self._now() + self._backoff_s * random.uniform(0.8, 1.2)  # noqa: S311  jitter, no secret
        self._backoff_s = min(self._backoff_s * 2, _BACKOFF_S[1])
        self._publish(up=False, trouble=trouble)
