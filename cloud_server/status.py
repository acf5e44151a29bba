"""The status file of the running server; see `split_model.service.status_file`."""

from __future__ import annotations

from typing import Literal

import msgspec

from cloud_server.counters import Counters
from split_model.service.status_file import Written

State = Literal["starting", "running", "reloading", "draining", "stopped"]

#: The config key of the file's path.
KEY = "server.status"


class StatisticsStatus(msgspec.Struct, kw_only=True):
    """Codebook releases: ``counted`` in the file, ``copies`` that came twice, ``lost``; ``error`` or empty."""

    counted: int
    copies: int
    lost: int
    error: str


class SinkStatus(msgspec.Struct, kw_only=True):
    """Answers that a sink took, could not take, or did not get because too many waited."""

    written: int
    failed: int
    lost: int


class Status(Written, kw_only=True):
    """The content of ``status --json``.

    ``reload_error``: why the last reload was refused, or empty. ``web``: the page's address, or empty. ``reports``:
    status reports of devices; ``reports_dropped``: those that came too soon after another.
    ``threads``: tails that can run at a time now, in this program or in the replicas of a cluster's ``nodes``.
    """

    state: State
    listen: str
    public_key: str
    bundles: dict[str, str]
    tails: int
    threads: int
    devices: int
    peers: int
    queued: int
    running: int
    held_bytes: int
    counters: Counters
    refused_keys: dict[str, int]
    engine: str = "local"
    nodes: int = 1
    reloads: int = 0
    reload_error: str = ""
    statistics: StatisticsStatus | None = None
    sinks: dict[str, SinkStatus] = msgspec.field(default_factory=dict)
    web: str = ""
    reports: int = 0
    reports_dropped: int = 0
