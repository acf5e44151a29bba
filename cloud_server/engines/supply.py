"""Sends missing files of bundles to nodes, in a separate thread, so that no job waits for a disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from cloud_server.engines.ray_cluster import Lost, Raised, Reply
from split_model.bundle import Bundle
from split_model.bundle.store import MANIFEST
from split_model.errors import BadBundleError, SplitModelError


class Calls(Protocol):
    """The methods of `RayCluster` that are used here."""

    def put(self, content: bytes) -> object:
        """See `RayCluster.put`."""

    def call(self, name: str, method: str, *arguments: object, then: Callable[[Reply], None]) -> None:
        """See `RayCluster.call`."""


class Supply:
    """Reads files by their hashes, and sends them to replicas."""

    def __init__(self, cluster: Calls) -> None:
        self._cluster = cluster
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="ray-supply")

    def bring(
        self, replica: str, hashes: Sequence[str], bundles: Mapping[str, Bundle], *, then: Callable[[str], None]
    ) -> None:
        """Send files to a replica's node.

        Args:
            replica: Its name.
            hashes: Hashes of the files.
            bundles: The bundles with these files, by identity.
            then: Called once, from any thread, when they have arrived: with an empty text, or with the error.

        """
        self._reader.submit(self._bring, replica, list(hashes), dict(bundles), then)

    def close(self) -> None:
        """Send no more files."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    def _bring(
        self, replica: str, hashes: list[str], bundles: dict[str, Bundle], then: Callable[[str], None]
    ) -> None:
        first, *others = hashes
        try:
            content = [self._cluster.put(_read(first, bundles))]
        except SplitModelError as error:
            then(error.problem)
            return

        def added(reply: Reply) -> None:
            content.clear()  # the cluster may drop it now
            if isinstance(reply, Raised):
                then(reply.text)
            elif isinstance(reply, Lost) or not others:  # the waiting call reports the loss
                then("" if isinstance(reply, Lost) else reply.decode())
            elif reply:
                then(reply.decode())
            else:
                self.bring(replica, others, bundles, then=then)

        self._cluster.call(replica, "add", first, content, then=added)


def _read(sha256: str, bundles: Mapping[str, Bundle]) -> bytes:
    """Read a file of some bundles by its hash; the manifest's hash is the bundle's identity."""
    if sha256 in bundles:
        path = bundles[sha256].root / MANIFEST
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise BadBundleError(f"{path}: {error.strerror}") from None
        if hashlib.sha256(raw).hexdigest() != sha256:
            raise BadBundleError(f"{path}: changed since this program has read it", remedy="reload the service")
        return raw
    for bundle in bundles.values():
        for ref in bundle.manifest.files():
            if ref.sha256 == sha256:
                return bundle.read(ref)
    raise BadBundleError(f"{sha256}: not a file of a bundle that is hosted here")
