"""The link thread: owns the sockets, and executes the decisions of `Connection`.

The frame loop's thread reserves the link for a frame, sends, and waits for the outcome. A server that is away is
not an error here: its requests get no outcome, and the frames are finished locally in time.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable

from edge_runtime.link.connection import Connection
from edge_runtime.link.estimator import LinkEstimator
from edge_runtime.link.frame_link import Reservation
from edge_runtime.link.link_view import LinkView, Outcome
from edge_runtime.link.pending import PendingRequests
from edge_runtime.link.states import Action, CloseSocket, Finish, OpenSocket
from edge_runtime.link.transport import Transport
from edge_runtime.link.trouble import Trouble
from split_model.protocol import messages as wire
from split_model.protocol.device import DeviceSession
from split_model.service.stoppable_thread import StoppableThread
from split_model.service.throttle import PER_FRAME

log = logging.getLogger(__name__)


class Link(StoppableThread):
    """A thread that is a `FrameLink`, and the `Carrier` of its reservations. Start it, use it, `stop` it.

    Args:
        transport: The socket; the link thread opens and closes it.
        session: The protocol's state machine.
        now: The clock, in seconds.
        estimator: Learns from the traffic.
        beat: Called at every turn of the thread, ten times a second or more.
        jitter: Random numbers from 0 to 1, for pauses.
        news: Shared by the links to several servers; see `PendingRequests`.

    """

    def __init__(
        self,
        transport: Transport,
        session: DeviceSession,
        *,
        now: Callable[[], float] = time.monotonic,
        estimator: LinkEstimator | None = None,
        beat: Callable[[], None] = lambda: None,
        jitter: Callable[[], float] = random.random,
        news: threading.Condition | None = None,
    ) -> None:
        super().__init__("link", wake=lambda: self._transport.wake() if self.is_alive() else None)
        self._transport = transport
        self._now = now
        self._beat = beat
        self._lock = threading.Lock()  # guards the connection
        self._connection = Connection(
            session,
            address=transport.address,
            public_key=transport.public_key,
            now_s=now(),
            jitter=jitter,
            estimator=estimator,
        )
        self._pending = PendingRequests(now=now, changed=news)
        self._opened = threading.Event()
        self._error: BaseException | None = None

    # Called from the frame loop's thread.

    @property
    def address(self) -> str:
        """See `FrameLink.address`."""
        return self._transport.address

    def view(self, *, frame: bool = False) -> LinkView:
        """See `FrameLink.view`. Raises the error that ended the link thread, so that it is not missed."""
        with self._lock:
            if self._error is not None:
                raise self._error
            return self._connection.view(self._now(), frame=frame)

    def reserve(self, *, offloaded: bool, elsewhere: bool = False) -> Reservation:
        """See `FrameLink.reserve`."""
        with self._lock:
            number = self._connection.reservations.reserve(offloaded=offloaded, elsewhere=elsewhere)
        self._pending.open(number)
        return Reservation(self, number)

    def submit(self, number: int, request: wire.Request, payload: memoryview, *, due_at_s: float) -> None:
        """See `Reservation.send`."""
        with self._lock:
            self._connection.reservations.submit(number, request, payload, due_at_s=due_at_s)
        self._transport.wake()

    def ask(self, bundle: str, cut: int, *, due_in_s: float) -> None:
        """See `Reservation.ask`."""
        with self._lock:
            asked = self._connection.ask(bundle, cut, due_in_s=due_in_s)
        if asked:
            self._transport.wake()

    def report(self, report: wire.Report) -> bool:
        """Send a report at the thread's next turn; returns whether the server accepts reports. Any thread."""
        with self._lock:
            return self._connection.report(report)

    def release(self, number: int) -> None:
        """See `Reservation.release`."""
        with self._lock:
            cancelled = self._connection.reservations.release(number, self._now())
        self._pending.give_up(number)
        if cancelled:
            self._transport.wake()

    def acked_bytes(self, number: int) -> int:
        """See `Reservation.acked_bytes`."""
        with self._lock:
            return self._connection.reservations.acked_bytes(number)

    def wait(self, number: int, *, until_s: float, unless: Callable[[], bool]) -> Outcome | None:
        """See `Reservation.wait`."""
        return self._pending.wait(number, until_s=until_s, unless=unless)

    def has_ended(self, number: int) -> bool:
        """See `Reservation.has_ended`."""
        return self._pending.has_ended(number)

    def wait_for_news(self, *, until_s: float, unless: Callable[[], bool]) -> None:
        """See `FrameLink.wait_for_news`."""
        self._pending.wait_for_news(until_s=until_s, unless=unless)

    def nudge(self) -> None:
        """See `FrameLink.nudge`."""
        self._pending.nudge()

    @property
    def pending(self) -> int:
        """Number of reservations that are not released and have no outcome yet."""
        return len(self._pending)

    def wait_until_open(self) -> None:
        """Wait until the link thread has opened its sockets (no server needed); raises as `view` does."""
        self._opened.wait()
        self.view()

    # The link thread.

    def run(self) -> None:
        """Serve the socket until `stop`. Requests that are unfinished then get no outcome."""
        try:
            self._tick()
            self._opened.set()
            while not self.stopping.is_set():
                self._turn()
        except BaseException as error:  # noqa: BLE001  whatever it is, `view` raises it in the frame loop's thread
            self._error = error
        finally:
            self._opened.set()
            self._transport.close()
            self._pending.close()

    def _turn(self) -> None:
        self._beat()
        wants_to_send = self._send_all()
        with self._lock:
            wait_s = self._connection.wait_s(self._now())
        events = self._transport.poll(wait_s, wants_to_send=wants_to_send)
        tcp = self._transport.tcp()
        with self._lock:  # before an answer wakes a thread that reads it
            self._connection.note_tcp(tcp)
        for event in events:
            with self._lock:
                actions = self._connection.transport_event(event, self._now())
            self._do(actions)
        for frames in self._transport.receive():
            with self._lock:
                actions = self._connection.receive(frames, self._now())
            self._do(actions)
        self._tick()

    def _tick(self) -> None:
        with self._lock:
            actions = self._connection.tick(self._now())
        self._do(actions)

    def _send_all(self) -> bool:
        """Send as much as the socket accepts; returns True if more is waiting.

        Runs under the lock, so that nothing of a request is sent once its reservation is released.
        """
        with self._lock:
            while frames := self._connection.next_frames(self._now()):
                if not self._transport.send(frames):
                    self._connection.put_back(frames)
                    return True
        return False

    def _do(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, OpenSocket):
                self._transport.open()
            elif isinstance(action, CloseSocket):
                self._transport.close()
            elif isinstance(action, Finish):
                self._pending.finish(action.reservation, action.outcome)
            else:
                # A peer can make the link go up and down for ever: log that once.
                level = logging.INFO if action.view.trouble is Trouble.NONE else logging.WARNING
                log.log(level, "link: %s", action.line, extra=PER_FRAME)
