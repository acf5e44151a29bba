"""The tables ``[engine]`` and ``[emulation]`` of the server's config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]


class LocalTable(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="local"):
    """``kind = "local"``: tails run on this machine's cores, in the program's own threads (`server.threads`)."""


class RayTable(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="ray"):
    """``kind = "ray"``: tails run in the replicas of a Ray cluster; see docs/cluster.md.

    ``address``: the address of the cluster's head, as ``10.0.0.1:6379``; ``"local"`` starts a Ray on this machine's
    loopback.
    ``replicas``: processes that run tails, `server.tail_threads` cores each; ``"auto"`` takes this gateway's
    share of the cluster's cores, and follows changes of the nodes. ``gateways``: number of gateways that share the
    cluster.
    ``certificate``, ``private_key``, ``authority``: this machine's PEM files for TLS, and ``token``: the file of
    the secret that all machines share. All four are required unless every address is loopback.
    ``object_store_mib``: shared memory of a Ray that is started here. ``node_files``: the folder of the tails'
    files on every node, by default one of the user's in /var/tmp; ``node_files_mib``: its limit.
    """

    address: str = "local"
    replicas: Literal["auto"] | Count = "auto"
    gateways: Count = 1
    certificate: Path | None = None
    private_key: Path | None = None
    authority: Path | None = None
    token: Path | None = None
    object_store_mib: Annotated[int, msgspec.Meta(ge=80, le=1 << 20)] = 256
    node_files: Path | None = None
    node_files_mib: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)] = 4096


EngineTable = LocalTable | RayTable


class EmulationTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[emulation]``: every tail sleeps for ``tail_s`` before it runs. For demonstrations and tests."""

    tail_s: Annotated[float, msgspec.Meta(ge=0.0, le=60.0)] = 0.0
