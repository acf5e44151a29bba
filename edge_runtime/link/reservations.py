"""Reservations of the link by frames, and their open requests. Pure.

While a frame holds the link, no probe is sent. A reservation sends at most one request, and a request that was sent
has at most one outcome. Several reservations may be open at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edge_runtime.link.link_view import Outcome
from edge_runtime.link.monitor import LinkMonitor
from edge_runtime.link.states import Finish
from split_model.protocol import messages as wire
from split_model.protocol.device import DeviceSession, Refused


@dataclass
class _Reserved:
    """One reservation. ``holds``: no probes are sent. ``request_id``: the sent request that has no outcome yet.

    ``elsewhere``: the frame is at another server, and stops whole probes of this link.
    """

    holds: bool = False
    elsewhere: bool = False
    used: bool = False
    request_id: int | None = None


class Reservations:
    """Keeps the monitor's count of holders, and the session's open requests, in step with the frames."""

    def __init__(self, session: DeviceSession, monitor: LinkMonitor) -> None:
        self._session = session
        self._monitor = monitor
        self._reserved: dict[int, _Reserved] = {}
        self._last = 0
        self._owners: dict[int, int] = {}  # request id -> reservation, while it has no outcome, in sent order

    def reserve(self, *, offloaded: bool, elsewhere: bool = False) -> int:
        """Reserve the link for a frame that may be sent; returns the reservation's number.

        Args:
            offloaded: The frame will need this link.
            elsewhere: The frame will need the link to another server, but may still be sent here.

        """
        self._last += 1
        reserved = self._reserved[self._last] = _Reserved(elsewhere=elsewhere and not offloaded)
        if offloaded:
            self._hold(reserved)
        elif elsewhere:
            self._monitor.hold_elsewhere()
        return self._last

    def submit(self, number: int, request: wire.Request, payload: memoryview, *, due_at_s: float) -> None:
        """Send a reservation's request as soon as the link takes it; the payload must not change meanwhile.

        Raises:
            ValueError: The reservation was released or has sent before, or the request's id is in use.

        """
        reserved = self._reserved.get(number)
        if reserved is None or reserved.used or request.request_id in self._owners:
            raise ValueError(f"reservation {number} cannot send request {request.request_id}: one each, once")
        reserved.used, reserved.request_id = True, request.request_id
        self._owners[request.request_id] = number
        self._hold(reserved)
        self._session.submit(request, payload, due_at_s=due_at_s)

    def release(self, number: int, now_s: float) -> bool:
        """Release a reservation; returns whether a request has to be cancelled. A second release is safe."""
        reserved = self._reserved.pop(number, None)
        if reserved is None:
            return False
        self._let_go(reserved)
        self._let_go_elsewhere(reserved)
        if reserved.request_id is None:
            return False
        if (progress := self._session.progress(reserved.request_id)) is not None:
            self._monitor.given_up(progress, now_s)
        del self._owners[reserved.request_id]
        self._session.cancel(reserved.request_id)
        return True

    def finish(self, request_id: int, outcome: Outcome) -> Finish:
        """Note the end of a request, with any outcome: probes are allowed again."""
        number = self._owners.pop(request_id)
        reserved = self._reserved[number]
        reserved.request_id = None
        self._let_go(reserved)
        return Finish(number, outcome)

    def refuse_sent(self, refusal: Refused, now_s: float) -> list[Finish]:
        """Find the request that the server refused without naming it: sent again, it would be refused again.

        The server takes requests in order and acknowledges each, so it means the first one without an
        acknowledgement. The later ones are sent again on the next connection.
        """
        progress = {request_id: self._session.progress(request_id) for request_id in self._owners}
        sent = {
            request_id: found.acked_bytes
            for request_id, found in progress.items()
            if found is not None and found.first_sent_s is not None
        }
        unheard = [request_id for request_id, acked_bytes in sent.items() if not acked_bytes]
        finished = []
        for request_id in unheard[:1] or list(sent):
            self._session.cancel(request_id)
            named = replace(refusal, request_id=request_id)
            finished.append(self.finish(request_id, Outcome(now_s, refusal=named)))
        return finished

    def acked_bytes(self, number: int) -> int:
        """Acknowledged bytes of a request without an outcome."""
        reserved = self._reserved.get(number)
        if reserved is None or reserved.request_id is None:
            return 0
        return self._session.acked_bytes(reserved.request_id)

    def _hold(self, reserved: _Reserved) -> None:
        self._let_go_elsewhere(reserved)
        if not reserved.holds:
            reserved.holds = True
            self._monitor.hold()

    def _let_go(self, reserved: _Reserved) -> None:
        if reserved.holds:
            reserved.holds = False
            self._monitor.let_go()

    def _let_go_elsewhere(self, reserved: _Reserved) -> None:
        if reserved.elsewhere:
            reserved.elsewhere = False
            self._monitor.let_go_elsewhere()
