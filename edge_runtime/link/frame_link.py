"""The link to a server as a frame loop uses it: one reservation for each frame.

Two classes implement it: the link thread, and the simulator in virtual time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from edge_runtime.link.link_view import LinkView, Outcome
from split_model.protocol import messages as wire


class Carrier(Protocol):
    """The implementation behind a `Reservation`, by the reservation's ``number``; see `Reservation`."""

    def submit(self, number: int, request: wire.Request, payload: memoryview, *, due_at_s: float) -> None:
        """Send the request."""

    def ask(self, bundle: str, cut: int, *, due_in_s: float) -> None:
        """Ask the server before anything is sent."""

    def release(self, number: int) -> None:
        """Release the reservation."""

    def wait(self, number: int, *, until_s: float, unless: Callable[[], bool]) -> Outcome | None:
        """Wait for the outcome."""

    def has_ended(self, number: int) -> bool:
        """Whether the outcome is known."""

    def acked_bytes(self, number: int) -> int:
        """Bytes of the request that have arrived."""


class Reservation:
    """One frame's use of the link. Release it when the frame is done; an early or second release is safe."""

    def __init__(self, carrier: Carrier, number: int) -> None:
        self._carrier = carrier
        self._number = number

    def send(self, request: wire.Request, payload: memoryview, *, due_at_s: float) -> None:
        """Send a request as soon as the link takes it; also for a frame that was planned to stay local.

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

        The answer appears later in `LinkView.advice`; a server of an old version cannot be asked.
        """
        self._carrier.ask(bundle, cut, due_in_s=due_in_s)

    def wait(self, *, until_s: float, unless: Callable[[], bool] = lambda: False) -> Outcome | None:
        """Wait for the outcome, returned once; None when the time is up or ``unless`` holds first.

        ``unless`` is asked again at every outcome and after `FrameLink.nudge`.
        """
        return self._carrier.wait(self._number, until_s=until_s, unless=unless)

    @property
    def has_ended(self) -> bool:
        """Whether `wait` would give an outcome at once."""
        return self._carrier.has_ended(self._number)

    @property
    def acked_bytes(self) -> int:
        """Bytes of the request that the server has acknowledged; 0 once it has ended."""
        return self._carrier.acked_bytes(self._number)

    def release(self) -> None:
        """Release the link. A request without an outcome is cancelled: nothing more of it is sent.

        The monitor records how many of its bytes arrived.
        """
        self._carrier.release(self._number)


class FrameLink(Protocol):
    """What a frame loop needs of the link to one server.

    With several servers, `wait_for_news` and `nudge` of any link apply to all links.
    """

    @property
    def address(self) -> str:
        """The server's, as ``tcp://HOST:PORT``."""

    def view(self, *, frame: bool = False) -> LinkView:
        """The link's present state; ``frame``: a frame begins. Raises the error that ended the link thread."""

    def reserve(self, *, offloaded: bool, elsewhere: bool = False) -> Reservation:
        """Reserve the link for a frame that may be sent.

        Args:
            offloaded: The frame will need this link, so no probe is sent meanwhile.
            elsewhere: The frame will need the link to another server, so no whole probe is sent here meanwhile.

        """

    def wait_for_news(self, *, until_s: float, unless: Callable[[], bool]) -> None:
        """Wait until the time is up or ``unless`` holds; outcomes and `nudge` recheck it."""

    def nudge(self) -> None:
        """Make every wait look at its ``unless`` again; from any thread."""
