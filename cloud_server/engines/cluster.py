"""The interface of a cluster for the engine; `RayCluster` implements it, and tests have their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from cloud_server.engines.ray_cluster import Node, Reply


class Cluster(Protocol):
    """The methods of `RayCluster` that the engine uses."""

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
