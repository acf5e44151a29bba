"""The part of a cluster that the engine needs; `RayCluster` has it, and so may a test's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from cloud_server.engines.ray_cluster import Node, Reply


class Cluster(Protocol):
    """What the engine needs of `RayCluster`."""

    def nodes(self) -> list[Node]:
        """See `RayCluster.nodes`."""

    def create(self, name: str) -> None:
        """See `RayCluster.create`."""

    def call(
        self, name: str, method: str, *arguments: object, then: Callable[[Reply], None], wait: bool = False
    ) -> None:
        """See `RayCluster.call`."""

    def put(self, content: bytes) -> object:
        """See `RayCluster.put`."""

    def end(self, name: str) -> None:
        """See `RayCluster.end`."""

    def restart(self, name: str) -> None:
        """See `RayCluster.restart`."""

    def close(self) -> None:
        """See `RayCluster.close`."""
