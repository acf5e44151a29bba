"""The protocol of device and server: messages, chunks, and both sides as state machines without I/O."""
