"""The link in virtual time: the product's policy over a transport with the transfer times of the scene."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from benchmarks.adaptive.simulator.clock import Clock
from benchmarks.adaptive.simulator.network import VirtualTransport
from edge_runtime.link.connection import Connection
from edge_runtime.link.estimator import LinkEstimator
from edge_runtime.link.frame_link import Reservation
from edge_runtime.link.link_view import LinkView, Outcome
from edge_runtime.link.states import Action, CloseSocket, Finish, OpenSocket
from split_model.protocol import messages as wire
from split_model.protocol.device import DeviceSession


class VirtualLink:
    """A `FrameLink` without a thread: it runs whenever something happens, and at the end of its wait."""

    def __init__(
        self,
        transport: VirtualTransport,
        *,
        clock: Clock,
        estimator: LinkEstimator,
        versions: tuple[int, ...] = wire.VERSIONS,
    ) -> None:
        self._transport = transport
        self._clock = clock
        self.woken: Callable[[], None] = lambda: None  # called when a request has its outcome
        self._connection = Connection(
            DeviceSession(boot_id="1" * 32, software="simulator", versions=versions),
            address=transport.address,
            public_key=transport.public_key,
            now_s=clock.now_s,
            jitter=random.Random(0).random,  # noqa: S311  a play is repeatable
            estimator=estimator,
        )
        self._outcomes: dict[int, Outcome] = {}
        self._turns = 0
        transport.woken = self.turn
        clock.at(0.0, self.turn)

    def turn(self) -> None:
        """Do the work of the link thread between two waits, and schedule the next turn for the end of the wait."""
        self._do(self._connection.tick(self._clock.now_s))
        self._send_all()
        for event in self._transport.events():
            self._do(self._connection.transport_event(event, self._clock.now_s))
        for frames in self._transport.receive():
            self._do(self._connection.receive(frames, self._clock.now_s))
        self._do(self._connection.tick(self._clock.now_s))
        self._send_all()
        self._turns += 1
        turn, now_s = self._turns, self._clock.now_s
        wait_s = self._connection.wait_s(now_s)
        self._clock.at(now_s + wait_s, lambda: self.turn() if turn == self._turns else None)

    def view(self, *, frame: bool = False) -> LinkView:
        """See `FrameLink.view`."""
        return self._connection.view(self._clock.now_s, frame=frame)

    @property
    def address(self) -> str:
        """See `FrameLink.address`."""
        return self._transport.address

    def reserve(self, *, offloaded: bool, elsewhere: bool = False) -> Reservation:
        """See `FrameLink.reserve`."""
        number = self._connection.reservations.reserve(offloaded=offloaded, elsewhere=elsewhere)
        return Reservation(self, number)

    def submit(self, number: int, request: wire.Request, payload: memoryview, *, due_at_s: float) -> None:
        """See `Reservation.send`."""
        self._connection.reservations.submit(number, request, payload, due_at_s=due_at_s)
        self._transport.wake()

    def ask(self, bundle: str, cut: int, *, due_in_s: float) -> None:
        """See `Reservation.ask`."""
        if self._connection.ask(bundle, cut, due_in_s=due_in_s):
            self._transport.wake()

    def release(self, number: int) -> None:
        """See `Reservation.release`."""
        self._outcomes.pop(number, None)
        if self._connection.reservations.release(number, self._clock.now_s):
            self._transport.wake()

    def acked_bytes(self, number: int) -> int:
        """See `Reservation.acked_bytes`."""
        return self._connection.reservations.acked_bytes(number)

    def has_ended(self, number: int) -> bool:
        """See `Reservation.has_ended`."""
        return number in self._outcomes

    def wait(self, number: int, *, until_s: float, unless: Callable[[], bool]) -> Outcome | None:
        """Let time pass until there is an outcome."""
        self._clock.run_until(until_s, lambda: number in self._outcomes or unless())
        return self._outcomes.pop(number, None)

    def wait_for_news(self, *, until_s: float, unless: Callable[[], bool]) -> None:
        """Let time pass until ``unless`` is true."""
        self._clock.run_until(until_s, unless)

    def nudge(self) -> None:
        """Do nothing: every wait checks its condition after each event anyway."""

    def _send_all(self) -> None:
        while frames := self._connection.next_frames(self._clock.now_s):
            if not self._transport.send(frames):
                self._connection.put_back(frames)
                return

    def _do(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, OpenSocket):
                self._transport.open()
            elif isinstance(action, CloseSocket):
                self._transport.close()
            elif isinstance(action, Finish):
                self._outcomes[action.reservation] = action.outcome
                self.woken()
