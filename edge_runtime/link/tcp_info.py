"""Reads the kernel's TCP_INFO of the connection (Linux): round trip, and bytes waiting in the socket.

`refined` uses two of its fields:

- ``min_rtt_s`` bounds the round trip from below. The application's figure is the time of an exchange less
  transfer, queue and tail, and may come out too small; no answer is ever back before that.
- ``waiting_bytes`` (not sent yet, or not acknowledged) are ahead of the next frame, for example those of a request
that was given up on a dying link. They add to the time that the next frame waits.

Both stay true, as lower bounds, behind a proxy that ends the TCP connection on this side of the slow link. The
other fields do not: behind such a proxy everything is acknowledged at once, even on a slow link. So the progress of
a transfer (for the stall rule) is what the *server* acknowledged, which it does for every eighth of a payload, and
the rate is taken from the server's chunk timings alone. ``delivery_bytes_s`` besides counts what the last few
segments did, bursts out of a token bucket included. `ends_at_server` tells the user of `edge-runtime bench` that
there is such a proxy.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass

from msgspec.structs import replace

from edge_runtime.link.estimator import LinkEstimate

#: struct tcp_info of <linux/tcp.h>, to its field tcpi_delivery_rate: name -> (offset, format). New kernels only
#: append fields.
_FIELDS = {
    "snd_mss": (16, "=I"),
    "unacked": (24, "=I"),
    "rtt": (68, "=I"),
    "bytes_acked": (120, "=Q"),
    "notsent_bytes": (144, "=I"),
    "min_rtt": (148, "=I"),
    "delivery_rate": (160, "=Q"),
}
#: Bytes that we read of the struct.
INFO_BYTES = 168
_NO_RTT = 0xFFFFFFFF
#: What a server may add to a ping's time over the kernel's: scheduling, decryption, a busy event loop ...
_PING_OVERHEAD_S = 0.010
#: ... in all no more than this many times the kernel's time.
_PING_FACTOR = 1.5


@dataclass(frozen=True)
class TcpInfo:
    """The kernel's figures of a connection; None if this kernel lacks a field or has not measured it yet."""

    rtt_s: float | None
    min_rtt_s: float | None
    acked_bytes: int | None
    notsent_bytes: int | None
    unacked_bytes: int
    delivery_bytes_s: int | None

    @property
    def waiting_bytes(self) -> int:
        """Bytes handed to the socket that the other end has not acknowledged; in whole segments, so rounded up."""
        return self.unacked_bytes + (self.notsent_bytes or 0)


def parse(raw: bytes) -> TcpInfo | None:
    """Parse the result of getsockopt(IPPROTO_TCP, TCP_INFO); None if even the oldest fields are missing."""
    found = {
        name: int(struct.unpack_from(form, raw, offset)[0])
        for name, (offset, form) in _FIELDS.items()
        if offset + struct.calcsize(form) <= len(raw)
    }
    if "rtt" not in found:
        return None
    min_rtt = found.get("min_rtt", _NO_RTT)
    return TcpInfo(
        rtt_s=found["rtt"] * 1e-6 or None,
        min_rtt_s=None if min_rtt in (0, _NO_RTT) else min_rtt * 1e-6,
        acked_bytes=found.get("bytes_acked"),
        notsent_bytes=found.get("notsent_bytes"),
        unacked_bytes=found["unacked"] * found["snd_mss"],
        delivery_bytes_s=found.get("delivery_rate") or None,
    )


def ends_at_server(info: TcpInfo, ping_s: float | None) -> bool:
    """Whether the connection seems to end where the pings do, and not at a proxy before the slow link.

    A proxy shows in a kernel round trip far below that of a ping through the application.
    """
    if info.min_rtt_s is None or ping_s is None:
        return False
    return ping_s <= info.min_rtt_s * _PING_FACTOR + _PING_OVERHEAD_S


def refined(estimate: LinkEstimate, info: TcpInfo | None) -> tuple[LinkEstimate, float]:
    """Bound the link's round trip by the kernel's; also return the seconds for the bytes in the socket."""
    if info is None:
        return estimate, 0.0
    if estimate.rtt_s is not None and info.min_rtt_s is not None:
        estimate = replace(estimate, rtt_s=max(estimate.rtt_s, info.min_rtt_s))
    rate = estimate.uplink_bytes_s
    return estimate, 0.0 if rate is None else info.waiting_bytes / rate


class TcpWatch:
    """Reads TCP_INFO through a duplicate of the connection's descriptor; `detach` closes it."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def attach(self, descriptor: int, *, port: int) -> bool:
        """Watch the connection behind a descriptor that libzmq reported; False if it is closed by now.

        The number may have been reused for another file meanwhile, so the peer's port is checked.
        """
        self.detach()
        watched: socket.socket | None = None
        try:
            watched = socket.socket(fileno=os.dup(descriptor))
            peer = watched.getpeername()
        except OSError:
            peer = None
        if watched is None:
            return False
        if not isinstance(peer, tuple) or peer[1] != port:
            watched.close()
            return False
        self._socket = watched
        return True

    def detach(self) -> None:
        """Close the duplicate descriptor, which keeps the connection open."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def read(self) -> TcpInfo | None:
        """Return the connection's present figures; None without a connection or without TCP_INFO."""
        option = getattr(socket, "TCP_INFO", None)
        if self._socket is None or option is None:
            return None
        try:
            return parse(self._socket.getsockopt(socket.IPPROTO_TCP, option, INFO_BYTES))
        except OSError:
            return None
