"""What a device hears whose key is no longer on the allow-list."""

from __future__ import annotations

from split_model.errors import ProtocolError
from split_model.protocol import messages as wire


def refusals(frames: list[memoryview]) -> list[wire.Refusal]:
    """Each request is refused by its number, and of other messages only those that ask for something."""
    try:
        message = wire.decode_from_device(frames[0])
    except (ProtocolError, IndexError):
        return []
    if isinstance(message, wire.Request):
        return [refusal(message.request_id)]
    return [refusal(None)] if isinstance(message, (wire.Hello, wire.Probe)) else []


def refusal(request_id: int | None) -> wire.Refusal:
    """The refusal of one request, or of the connection."""
    text = "this device's key is no longer on the server's allow-list"
    return wire.Refusal(request_id=request_id, code="revoked", text=text)
