"""The socket that devices connect to: its options, and its address."""

from __future__ import annotations

import zmq

from cloud_server.access import endpoint_of, secure
from cloud_server.connections import HANDSHAKE_S
from cloud_server.errors import ListenError
from split_model.protocol import messages as wire
from split_model.protocol.keys import KeyPair

#: Room for CURVE's and ZMTP's framing around the largest chunk.
_FRAMING_BYTES = 1 << 10
#: Maximum replies waiting for one device: an acknowledgement for every chunk of a window, and the answers.
_SEND_MESSAGES = 128
_RECEIVE_MESSAGES = 64


def configure(router: zmq.Socket[bytes], keys: KeyPair, *, ipv6: bool) -> None:
    """Set every option of the listening socket."""
    secure(router, keys)
    router.linger = 0
    router.maxmsgsize = wire.MAX_CHUNK_BYTES + wire.MAX_HEADER_BYTES + _FRAMING_BYTES
    router.sndtimeo = 0
    router.sndhwm = _SEND_MESSAGES
    router.rcvhwm = _RECEIVE_MESSAGES
    router.handshake_ivl = int(HANDSHAKE_S * 1000)
    router.router_mandatory = True
    router.router_handover = False
    router.tcp_keepalive = 1
    router.tcp_keepalive_idle = 10
    router.tcp_keepalive_intvl = 5
    router.tcp_keepalive_cnt = 3
    router.setsockopt(zmq.TCP_MAXRT, 30_000)  # a peer may disappear with replies on their way
    router.ipv6 = ipv6


def bind(router: zmq.Socket[bytes], listen: str) -> str:
    try:
        router.bind(listen)
    except zmq.ZMQError as error:
        reason = zmq.strerror(error.errno or 0)
        raise ListenError(
            f"{listen}: {reason}", remedy="change server.listen, or stop the program that listens there"
        ) from None
    return endpoint_of(router)
