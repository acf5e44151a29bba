"""The link's policy: back-off, silence, greeting, probes, refusals, and reservations. Pure.

It has no thread, no socket and no clock. Events with their times go in; `Action`s come out, and `next_frames` gives
the next message while the socket accepts some. The link thread and the simulator drive it::

    PAUSED ──open──► CONNECTING ──ready──► GREETING ──welcome──► UP
      ▲                  ▲ ▲                │   ▲                │ │
      │                  │ └──────lost──────┘   └────forgotten───┘ │
      │                  └───────────────lost──────────────────────┘
      └──fail── (from everywhere: refused, silent, protocol broken; and lost or forgotten again and again)

Frames use it through ``reservations``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from msgspec.structs import replace

from edge_runtime.link.backoff import Backoff
from edge_runtime.link.estimator import LinkEstimator
from edge_runtime.link.link_view import Advice, LinkView, Outcome
from edge_runtime.link.monitor import LinkMonitor
from edge_runtime.link.reservations import Reservations
from edge_runtime.link.states import (
    TRANSITIONS,
    Action,
    CloseSocket,
    Input,
    OpenSocket,
    Phase,
    Publish,
    TransportEvent,
)
from edge_runtime.link.tcp_info import TcpInfo, refined
from edge_runtime.link.trouble import Trouble
from split_model.errors import ProtocolError
from split_model.protocol import messages as wire
from split_model.protocol.device import (
    Advised,
    Answered,
    DeviceSession,
    Event,
    Forgotten,
    Frames,
    Late,
    Probed,
    Refused,
    Welcomed,
)

_SILENCE_S = 8.0
#: A server that takes no connection for this long is reported.
_AWAY_S = 3.0
#: How long the driver may wait for the socket, in seconds: with something under way, and while idle.
_BUSY_WAIT_S = 0.05
_IDLE_WAIT_S = (0.005, 0.1)
#: Seconds for which frames in quick succession share one view while the link is idle.
_FRAME_VIEW_S = 0.05
#: The pause before the next connection varies by this share either way, to spread the return of a fleet.
_JITTER = 0.2


class Connection:
    """The state of one link and its policy; see the module. ``jitter``: random numbers from 0 to 1."""

    def __init__(
        self,
        session: DeviceSession,
        *,
        address: str,
        public_key: str,
        now_s: float,
        jitter: Callable[[], float],
        estimator: LinkEstimator | None = None,
    ) -> None:
        self.phase = Phase.PAUSED
        self._session = session
        self._address = address
        self._public_key = public_key
        self._jitter = jitter
        self._monitor = LinkMonitor(estimator or LinkEstimator(), now_s=now_s)
        self.reservations = Reservations(session, self._monitor)
        self._backoff = Backoff()
        self._open_at_s = self._heard_s = self._down_s = now_s
        self._tcp: TcpInfo | None = None
        self._welcomes = 0
        self._frame_view: LinkView | None = None  # None as soon as anything happens on the link
        self._frame_view_until_s = 0.0
        self._state = LinkView(
            False, Trouble.NOT_YET, *self._told(Trouble.NOT_YET), (), 0, self._monitor.estimate(now_s), 0.0, 0, 0
        )

    def view(self, now_s: float, *, frame: bool = False) -> LinkView:
        """Return the link's present state. ``frame``: a frame begins now; probes adapt to the rhythm of frames.

        Frames in quick succession, with no traffic on the link between them, get the same view.
        """
        if frame:
            self._monitor.frame(now_s)
            if self._frame_view is not None and now_s < self._frame_view_until_s:
                return self._frame_view
        estimate, backlog_s = refined(self._monitor.estimate(now_s), self._tcp)
        queue_s = self._monitor.queue_s(now_s) + backlog_s
        view = replace(self._state, estimate=estimate, queue_s=queue_s, tcp=self._tcp)
        self._frame_view, self._frame_view_until_s = (view if frame else None), now_s + _FRAME_VIEW_S
        return view

    # Called by the socket's driver.

    def note_tcp(self, tcp: TcpInfo | None) -> None:
        """Note the kernel's view of the connection."""
        self._tcp = tcp

    def next_frames(self, now_s: float) -> Frames | None:
        """Return the next message to send, or None."""
        return None if self.phase is Phase.PAUSED else self._session.next_message(now_s)

    def put_back(self, frames: Frames) -> None:
        """Take the last message of `next_frames` back: the socket did not accept it."""
        self._session.put_back(frames)

    def ask(self, bundle: str, cut: int, *, due_in_s: float) -> bool:
        """Ask whether a request would be in time, see `LinkView.advice`; False if the server cannot be asked."""
        return self._session.ask(bundle, cut, due_in_s=due_in_s)

    def report(self, report: wire.Report) -> bool:
        """Send a status report to the server; returns whether it accepts reports."""
        return self._session.report(report)

    def wait_s(self, now_s: float) -> float:
        """How long the driver may wait for the socket before it calls `tick`."""
        if self._session.open_requests or self._session.open_probes:
            return _BUSY_WAIT_S
        least_s, most_s = _IDLE_WAIT_S
        due_s = math.inf  # nothing is due while it connects; the socket wakes the driver
        if self.phase is Phase.PAUSED:
            due_s = self._open_at_s
        elif self.phase is Phase.UP:
            due_s = self._monitor.probe_due_s(now_s)
        return min(most_s, max(least_s, due_s - now_s))

    def transport_event(self, event: TransportEvent, now_s: float) -> list[Action]:
        """Handle an event of the connection."""
        self._frame_view = None
        if self.phase is Phase.PAUSED:  # it concerns a socket that is closed now
            return []
        if event is TransportEvent.READY:
            self._step(Input.READY)
            self._heard_s = now_s
            self._session.connected()
            return []
        if event is TransportEvent.LOST:
            return self._lost(now_s)
        refused = event is TransportEvent.REFUSED
        return self._fail(Trouble.KEY_REFUSED if refused else Trouble.HANDSHAKE_BROKEN, now_s)

    def receive(self, frames: list[memoryview], now_s: float) -> list[Action]:
        """Handle one message from the server."""
        self._frame_view = None
        if self.phase is Phase.PAUSED:
            return []
        try:
            events = self._session.receive(frames, now_s)
        except ProtocolError as error:
            return self._fail(Trouble.PROTOCOL_BROKEN, now_s, str(error))
        actions = [action for event in events for action in self._session_event(event, now_s)]
        if self.phase is Phase.UP:  # while greeting, other messages must not extend the wait
            self._heard_s = now_s
        return actions

    def tick(self, now_s: float) -> list[Action]:
        """Handle the passing of time. Call it after every wait, even a short one."""
        if self.phase is Phase.PAUSED:
            if now_s < self._open_at_s:
                return []
            self._step(Input.OPEN)
            self._heard_s = self._down_s = now_s
            return [OpenSocket()]
        actions: list[Action] = []
        if self.phase is Phase.UP:
            self._measure(now_s)
        elif self.phase is Phase.CONNECTING and now_s - self._down_s > _AWAY_S:
            actions = self._publish(Trouble.AWAY, now_s)
        if self.phase is not Phase.CONNECTING and now_s - self._heard_s > _SILENCE_S:
            actions = self._fail(Trouble.SILENT, now_s, f"{_SILENCE_S:.0f}")
        return actions

    # Internal.

    def _step(self, what: Input) -> None:
        self.phase = TRANSITIONS[self.phase, what]

    def _session_event(self, event: Event, now_s: float) -> list[Action]:
        if isinstance(event, Welcomed):
            return self._welcomed(event, now_s)
        if isinstance(event, Answered):
            self._monitor.answered(event, now_s)
            return [self.reservations.finish(event.request_id, Outcome(now_s, answered=event))]
        if isinstance(event, Probed):
            self._monitor.probed(event, now_s)
        elif isinstance(event, Advised):
            self._monitor.advised(event.load.queue_s, now_s)
            self._state = replace(self._state, advice=Advice(event.bundle, event.cut, event.load, now_s))
        elif isinstance(event, Late):
            self._state = replace(self._state, late=self._state.late + 1)
        elif isinstance(event, Forgotten):
            return self._forgotten(now_s)
        else:
            return self._refused(event, now_s)
        return []

    def _welcomed(self, event: Welcomed, now_s: float) -> list[Action]:
        self._step(Input.WELCOME)
        self._backoff.welcomed(now_s)
        self._monitor.connected()
        self._welcomes += 1
        welcome = event.welcome
        self._state = replace(
            self._state,
            up=True,
            trouble=Trouble.NONE,
            problem="",
            remedy="",
            offers=welcome.offers,
            request_bytes=welcome.request_bytes,
            reconnects=self._welcomes - 1,
            can_ask=welcome.version >= wire.LOAD_VERSION,
            advice=None,
        )
        return [Publish(self.view(now_s), f"connected to {self._address}, protocol {welcome.version}")]

    def _refused(self, event: Refused, now_s: float) -> list[Action]:
        actions: list[Action] = []
        if event.request_id is not None:
            actions.append(self.reservations.finish(event.request_id, Outcome(now_s, refusal=event)))
        elif event.code == "protocol":
            actions += self.reservations.refuse_sent(event, now_s)
        if event.code == "revoked":
            return actions + self._fail(Trouble.KEY_REFUSED, now_s)
        if event.request_id is not None:
            return actions
        if event.code == "version":
            return actions + self._fail(Trouble.OTHER_VERSION, now_s, event.text)
        return actions + self._fail(Trouble.REFUSED, now_s, f"{event.code}: {event.text}")

    def _lost(self, now_s: float) -> list[Action]:
        delay_s = self._backoff.delay_s(Trouble.LOST, now_s)
        if delay_s:  # the socket would reconnect by itself, and has done so too often
            return self._pause(Trouble.LOST, delay_s, now_s)
        self._step(Input.LOST)
        self._down_s = now_s
        self._session.disconnected()
        return self._publish(Trouble.LOST, now_s)

    def _forgotten(self, now_s: float) -> list[Action]:
        delay_s = self._backoff.delay_s(Trouble.GREETED_AGAIN, now_s)
        if delay_s:
            return self._pause(Trouble.GREETED_AGAIN, delay_s, now_s)
        self._step(Input.FORGOTTEN)
        self._heard_s = now_s
        return []

    def _fail(self, trouble: Trouble, now_s: float, detail: str = "") -> list[Action]:
        return self._pause(trouble, self._backoff.delay_s(trouble, now_s), now_s, detail)

    def _pause(self, trouble: Trouble, delay_s: float, now_s: float, detail: str = "") -> list[Action]:
        """Close the socket and open a new one later: after a refusal libzmq never tries again by itself."""
        self._step(Input.FAIL)
        self._session.disconnected()
        self._open_at_s = now_s + delay_s * (1.0 - _JITTER + 2.0 * _JITTER * self._jitter())
        return [CloseSocket(), *self._publish(trouble, now_s, detail=detail)]

    def _publish(self, trouble: Trouble, now_s: float, *, detail: str = "") -> list[Action]:
        """Publish that the link is down, and why; nothing if that is known already."""
        self._frame_view = None
        problem, remedy = self._told(trouble, detail)
        before = self._state
        self._state = replace(
            before, up=False, trouble=trouble, problem=problem, remedy=remedy, offers=(), request_bytes=0
        )
        if (before.trouble, before.problem) == (trouble, problem):
            return []
        return [Publish(self.view(now_s), self._state.trouble_line)]

    def _told(self, trouble: Trouble, detail: str = "") -> tuple[str, str]:
        return trouble.describe(address=self._address, public_key=self._public_key, detail=detail)

    def _measure(self, now_s: float) -> None:
        session = self._session
        limit = session.welcome.window_bytes if session.welcome else session.window_bytes
        session.window_bytes = self._monitor.window_bytes(limit, now_s) or session.window_bytes
        silent = now_s - self._heard_s >= _SILENCE_S / 2
        if session.open_probes or (session.open_requests and not silent):
            return
        probe_bytes = self._monitor.next_probe_bytes(now_s, silent=silent)
        if probe_bytes is not None:
            session.probe(probe_bytes)
