"""The link as the frame loop uses it: one reservation for each frame, which pairs all that it does on the link."""

from __future__ import annotations

import math
from collections.abc import Callable

from edge_runtime.link.link_thread import LinkView, Offload
from edge_runtime.link.pending import Outcome
from split_model.protocol import messages as wire


class Reservation:
    """One frame's use of the link, from its start until `release`."""

    def __init__(self, port: LinkPort, *, offloaded: bool) -> None:
        self.request_id: int | None = None
        self._port = port
        self._offloaded = offloaded
        self._released = False
        port.began(offloaded=offloaded)

    def send(self, request: wire.Request, payload: memoryview, *, due_at_s: float) -> None:
        """Send the frame's request, once; the payload must not change until `release`."""
        if self.request_id is not None or self._released:
            raise ValueError(f"request {request.request_id}: its frame has sent one, or is done with the link")
        self.request_id = request.request_id
        self._port.sends(request, payload, due_at_s=due_at_s, offloaded=self._offloaded)
        self._offloaded = True

    def release(self) -> None:
        """Cancel what was sent and is not answered, and hand the link to probes; doing it twice does no harm."""
        if not self._released:
            self._released = True
            self._port.ended(self.request_id, offloaded=self._offloaded)


class LinkPort:
    """Reservations over a link thread, whose own calls know of one frame. Call it in the frame loop's thread."""

    def __init__(self, offload: Offload) -> None:
        self._offload = offload
        self._offloaded = 0  # frames under way that need the link

    def view(self) -> LinkView:
        """The link as of now; raises what ended its thread."""
        return self._offload.view()

    def reserve(self, *, offloaded: bool) -> Reservation:
        """Reserve the link for a frame that begins; probes keep out of its way if it is ``offloaded``."""
        return Reservation(self, offloaded=offloaded)

    def outcome(self, request_id: int) -> Outcome | None:
        """How a request ended at the server, told once; None while it is under way."""
        return self._offload.wait(request_id, until_s=-math.inf)

    def has_ended(self, request_id: int) -> bool:
        """Whether `outcome` has something to tell."""
        return self._offload.has_ended(request_id)

    def acked_bytes(self, request_id: int) -> int:
        """Bytes of a request that have arrived at the server, as far as is known."""
        return self._offload.acked_bytes(request_id)

    def rest(self, *, until_s: float, unless: Callable[[], bool]) -> None:
        """Wait until the time is up or ``unless`` holds; an outcome and `nudge` make it look again."""
        self._offload.rest(until_s=until_s, unless=unless)

    def nudge(self) -> None:
        """Make `rest` look again; from any thread."""
        self._offload.nudge()

    def began(self, *, offloaded: bool) -> None:
        """For `Reservation`: a frame begins."""
        self._offload.frame(offloaded=offloaded or self._offloaded > 0)
        self._offloaded += offloaded

    def sends(self, request: wire.Request, payload: memoryview, *, due_at_s: float, offloaded: bool) -> None:
        """For `Reservation`: a frame sends its request."""
        if not offloaded:
            self._offloaded += 1
            self._offload.sends()
        self._offload.submit(request, payload, due_at_s=due_at_s)

    def ended(self, request_id: int | None, *, offloaded: bool) -> None:
        """For `Reservation`: a frame does not need the link any more."""
        self._offloaded -= offloaded
        if request_id is not None:
            self._offload.cancel(request_id)
        elif offloaded:
            self._offload.stays()
        if offloaded and self._offloaded:  # the calls above say that nothing is under way
            self._offload.sends()
