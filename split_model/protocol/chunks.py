"""Cuts payloads into chunks, and joins and times them on the receiving side. No I/O.

Chunks are separate messages, so acknowledgements, pings and cancellations can be sent between them, and receivers
need not accept messages larger than a chunk.
"""

from __future__ import annotations

from split_model.errors import ProtocolError
from split_model.protocol.messages import CHUNK_BYTES

#: Number of chunks of a payload, about: the spacing of their arrival measures the uplink.
PIECES = 8
#: Number of chunks of a small payload, of at most this size each: every message costs the server time.
SMALL_PIECES, SMALL_CHUNK_BYTES = 4, 2 << 10
#: Minimum bytes of a chunk: headers are then at most a twentieth.
MIN_CHUNK_BYTES = 1 << 10
#: The first bytes of a payload may come faster than the link's rate: token buckets, queues and radio schedulers
#: pass #: bursts. If at least as many follow, this many first bytes are left out of the timing.
BURST_BYTES = 4 << 10
#: A busy server reads messages in batches: what it sees come within less than this, in seconds, may have taken as
#: long.
RESOLUTION_S = 0.2e-3


def chunk_bytes_for(total_bytes: int) -> int:
    """Chunk size for a payload; it depends only on the payload's length, never on its content."""
    small_bytes = min(SMALL_CHUNK_BYTES, -(-total_bytes // SMALL_PIECES))
    return max(MIN_CHUNK_BYTES, small_bytes, min(CHUNK_BYTES, -(-total_bytes // PIECES)))


class Outgoing:
    """The chunks of one payload, taken in order and tracked until they are acknowledged."""

    def __init__(self, payload: memoryview) -> None:
        self.payload = payload.cast("B")
        self.total_bytes = len(self.payload)
        self.sent_bytes = 0
        self.acked_bytes = 0
        self._chunk_bytes = chunk_bytes_for(self.total_bytes)

    @property
    def unacked_bytes(self) -> int:
        """Bytes sent and not yet acknowledged."""
        return self.sent_bytes - self.acked_bytes

    @property
    def all_sent(self) -> bool:
        """Whether the last chunk was taken."""
        return self.sent_bytes == self.total_bytes

    def next_chunk(self) -> tuple[int, memoryview]:
        """Take the next chunk: offset and bytes (a view, not a copy). Call it only while not `all_sent`."""
        offset = self.sent_bytes
        chunk = self.payload[offset : offset + self._chunk_bytes]
        self.sent_bytes += len(chunk)
        return offset, chunk

    def unsend(self, chunk: memoryview) -> None:
        """Undo the last `next_chunk`, as the socket did not accept the chunk."""
        self.sent_bytes -= len(chunk)

    def acknowledge(self, received_bytes: int) -> None:
        """Note the acknowledged bytes; `ProtocolError` if they exceed the sent ones."""
        if received_bytes > self.sent_bytes:
            raise ProtocolError(f"{received_bytes} bytes acknowledged of {self.sent_bytes} sent")
        self.acked_bytes = max(self.acked_bytes, received_bytes)

    def rewind(self) -> None:
        """Start again from the first byte, for a new connection: the same bytes, not another release."""
        self.sent_bytes = 0
        self.acked_bytes = 0


class Incoming:
    """One arriving payload. Its memory is allocated once, at the first chunk, for the announced total."""

    def __init__(self, total_bytes: int, *, now_s: float) -> None:
        self.buffer = bytearray(total_bytes)
        self.received_bytes = 0
        self.started_s = now_s
        self.updated_s = now_s
        self._timed_from_s = now_s
        self._untimed_bytes = 0

    @property
    def complete(self) -> bool:
        """Whether every announced byte has arrived."""
        return self.received_bytes == len(self.buffer)

    @property
    def timed_bytes(self) -> int:
        """Timed bytes: all after the first chunk, or after the bytes of a possible burst."""
        return self.received_bytes - self._untimed_bytes

    @property
    def receive_s(self) -> float:
        """Seconds that the timed bytes took, at least `RESOLUTION_S`; 0 where none were timed."""
        return max(RESOLUTION_S, self.updated_s - self._timed_from_s) if self.timed_bytes else 0.0

    def add(self, offset: int, chunk: memoryview | bytes, *, now_s: float) -> None:
        """Copy a chunk into place. A gap, an overlap, an overrun or an empty chunk is a `ProtocolError`."""
        if offset != self.received_bytes:
            raise ProtocolError(f"chunk at {offset}, expected {self.received_bytes}")
        end = offset + len(chunk)
        if end > len(self.buffer):
            raise ProtocolError(f"chunk ends at {end}, the payload at {len(self.buffer)}")
        if not chunk and self.buffer:
            raise ProtocolError("empty chunk")
        self.buffer[offset:end] = chunk
        burst_bytes = BURST_BYTES if len(self.buffer) >= 2 * BURST_BYTES else 1
        if self._untimed_bytes < burst_bytes:
            self._untimed_bytes, self._timed_from_s = end, now_s
        self.received_bytes = end
        self.updated_s = now_s
