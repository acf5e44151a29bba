"""Makes the refusals for a device whose key is no longer on the allow-list."""

from __future__ import annotations

from split_model.errors import ProtocolError
from split_model.protocol import messages as wire


def refusals(frames: list[memoryview]) -> list[wire.Refusal]:
    """Refuse each request by its number; of other messages, refuse only those that expect a reply."""
    try:
        message = wire.decode_from_device(frames[0])
    except (ProtocolError, IndexError):
        return []
    if isinstance(message, wire.Request):
        return [refusal(message.request_id)]
    return [refusal(None)] if isinstance(message, (wire.Hello, wire.Probe)) else []


def refusal(request_id: int | None) -> wire.Refusal:
    """Make the refusal of one request, or of the connection."""
    text = "this device's key is no longer on the server's allow-list"
    return wire.Refusal(request_id=request_id, code="revoked", text=text)
