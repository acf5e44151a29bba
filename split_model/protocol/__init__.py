"""The wire between device and server: messages, chunks, and both sides as state machines without I/O."""
