"""Reads a bundle for the deployment: its files with the hashes of the manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.errors import BadBundleError, MissingError
from deploy.wheelhouse import sha256_of

#: Stored measurements and audit of the bundle, which are not part of its identity. A device reads them for its
#: accuracy #: floor and for planner.reveal_at_most.
FIGURES = ("evaluation.json", "audit.json")


@dataclass(frozen=True)
class BundleFiles:
    """``identity`` is the manifest's SHA-256; ``files`` are paths in the bundle with theirs."""

    root: Path
    name: str
    identity: str
    files: tuple[tuple[str, str], ...]


def read_bundle(root: Path) -> BundleFiles:
    """Read a bundle's manifest and check every file it names.

    Other files in the folder are not deployed, except the figures of `split-model evaluate --store` and the
    verdicts of `split-model audit --store`.
    """
    path = root / "manifest.json"
    try:
        raw = path.read_bytes()
        manifest = json.loads(raw)
        references = list(_references(manifest))
        name = str(manifest["name"])
    except OSError as error:
        raise MissingError(
            f"{path}: {error.strerror}", remedy="give --bundle a folder that 'split-model prepare' made"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise BadBundleError(f"{path}: not a bundle's manifest", remedy="prepare the bundle again") from None
    identity = hashlib.sha256(raw).hexdigest()
    files = [("manifest.json", identity)]
    for relative, sha256 in references:
        file = root / relative
        if root.resolve() not in file.resolve().parents:
            raise BadBundleError(f"{path}: {relative} lies outside the bundle", remedy="prepare the bundle again")
        if not file.is_file():
            raise BadBundleError(f"{file}: missing, but the manifest names it", remedy="prepare the bundle again")
        if sha256_of(file) != sha256:
            raise BadBundleError(
                f"{file}: does not have the hash in the manifest", remedy="copy or prepare the bundle again"
            )
        files.append((relative, sha256))
    files += [(name, sha256_of(root / name)) for name in FIGURES if (root / name).is_file()]
    return BundleFiles(root, name, identity, tuple(files))


def _references(value: Any) -> Iterator[tuple[str, str]]:
    """Find every record with ``path`` and ``sha256`` in the manifest."""
    if isinstance(value, dict):
        if {"path", "sha256"} <= value.keys():
            yield str(value["path"]), str(value["sha256"])
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)
