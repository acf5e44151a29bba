"""The class of Ray's actors: connects a `Replica` with Ray."""

from __future__ import annotations

from typing import Any

import ray

from cloud_server.engines.replica import Replica


class RayReplica:
    """A `Replica` in a process that Ray started. Its methods are called one at a time."""

    def __init__(self, settings: bytes) -> None:
        self._replica = Replica(settings)

    def hello(self) -> bytes:
        """See `Replica.hello`."""
        return self._replica.hello(ray.get_runtime_context().get_node_id())

    def host(self, identities: list[str]) -> bytes:
        """See `Replica.host`."""
        self._replica.host(identities)
        return b""

    def run(self, batch: bytes) -> bytes:
        """See `Replica.run`."""
        return self._replica.run(batch)

    def preload(self, tails: bytes) -> bytes:
        """See `Replica.preload`."""
        return self._replica.preload(tails)

    def add(self, sha256: str, content: list[Any]) -> bytes:
        """See `Replica.add`. ``content``: a reference in a list, as Ray would fetch a bare reference at once."""
        return self._replica.add(sha256, lambda: bytes(ray.get(content[0]))).encode()
