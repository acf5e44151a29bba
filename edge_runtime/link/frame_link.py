"""The link to a server as a frame loop sees it: one reservation for each frame, whatever carries it.

Two things carry it: the link thread, and the simulator in virtual time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from edge_runtime.link.link_view import LinkView, Outcome
from split_model.protocol import messages as wire


class Carrier(Protocol):
    """What is behind a `Reservation`; ``number`` is the reservation's. See there for the rest."""

    def submit(self, number: int, request: wire.Request, payload: memoryview, *, due_at_s: float) -> None:
        """Send the request."""

    def ask(self, bundle: str, cut: int, *, due_in_s: float) -> None:
        """Ask before anything is sent."""

    def release(self, number: int) -> None:
        """Nobody waits for it any more."""

    def wait(self, number: int, *, until_s: float, unless: Callable[[], bool]) -> Outcome | None:
        """Wait for the outcome."""

    def has_ended(self, number: int) -> bool:
        """Whether the outcome is there."""

    def acked_bytes(self, number: int) -> int:
        """How far the request has come."""


class Reservation:
    """One frame's use of the link. Release it when the frame is done; doing it early, or twice, does no harm."""

    def __init__(self, carrier: Carrier, number: int) -> None:
        self._carrier = carrier
        self._number = number

    def send(self, request: wire.Request, payload: memoryview, *, due_at_s: float) -> None:
        """Send a request as soon as the link takes it; a frame that was planned to stay here may do so too.

        Args:
            request: Its ``due_in_s`` is rewritten when the first chunk goes out.
            payload: Must not change until the reservation is released.
            due_at_s: When the answer is due, by the link's clock.

        Raises:
            ValueError: This reservation has sent before or was released.

        """
        self._carrier.submit(self._number, request, payload, due_at_s=due_at_s)

    def ask(self, bundle: str, cut: int, *, due_in_s: float) -> None:
        """Ask the server whether a request at this cut would be answered in time, if it came now.

        The answer is in `LinkView.advice` some time later, unless the server is too old to be asked.
        """
        self._carrier.ask(bundle, cut, due_in_s=due_in_s)

    def wait(self, *, until_s: float, unless: Callable[[], bool] = lambda: False) -> Outcome | None:
        """The outcome, or None when the time is up or ``unless`` holds first; it is given once.

        ``unless`` is asked again at every outcome and after `FrameLink.nudge`.
        """
        return self._carrier.wait(self._number, until_s=until_s, unless=unless)

    @property
    def has_ended(self) -> bool:
        """Whether `wait` would give an outcome at once."""
        return self._carrier.has_ended(self._number)

    @property
    def acked_bytes(self) -> int:
        """How many bytes of the request have arrived at the server, as far as we know; 0 once it has ended."""
        return self._carrier.acked_bytes(self._number)

    def release(self) -> None:
        """Give the link back. A request without an outcome is cancelled: nothing more of it is sent.

        The monitor learns how far it came.
        """
        self._carrier.release(self._number)


class FrameLink(Protocol):
    """What a frame loop needs of the link to one server.

    Links to several servers are made so that each one's `wait_for_news` and `nudge` are about all of them.
    """

    @property
    def address(self) -> str:
        """The server's, as ``tcp://HOST:PORT``."""

    def view(self, *, frame: bool = False) -> LinkView:
        """The link as of now; ``frame``: a frame begins. Raises what ended the link thread, if something did."""

    def reserve(self, *, offloaded: bool, elsewhere: bool = False) -> Reservation:
        """A frame may be sent.

        Args:
            offloaded: It is going to need the link, so probes keep out of its way.
            elsewhere: It is going to need the link to another server, so whole probes keep out of its way.

        """

    def wait_for_news(self, *, until_s: float, unless: Callable[[], bool]) -> None:
        """Wait until the time is up or ``unless`` holds; outcomes and `nudge` recheck it."""

    def nudge(self) -> None:
        """Make every wait look at its ``unless`` again; from any thread."""
