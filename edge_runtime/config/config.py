"""The device's config file: every key with its default (units are in the names), and the checks between keys."""

# Over 300 lines: every table of the config, and the checks between them.

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from edge_runtime.config.kinds import with_kinds
from edge_runtime.config.release import Positive, ReleaseTable, Table, check_release
from edge_runtime.config.renamed_keys import with_new_names
from edge_runtime.planner.planner import Hysteresis
from edge_runtime.privacy.ledger.amounts import epsilon_units
from edge_runtime.privacy.ledger.state import Limits
from edge_runtime.sinks.jsonl import JsonlTable
from edge_runtime.sinks.sink import SinkTable
from edge_runtime.sources.source import SourceTable
from split_model.bundle.exposure import Reveals
from split_model.bundle.floor import DEFAULT_FLOOR, Floor
from split_model.errors import BadInputError, ConfigError
from split_model.protocol.keys import parse_public
from split_model.protocol.reports import Period
from split_model.service.config_file import Layers, read_layers

log = logging.getLogger(__name__)

# libzmq accepts no other first character of a host.
_ADDRESS = re.compile(r"tcp://(?:[A-Za-z0-9][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})")

#: A device keeps a connection to each of its servers.
_MOST_SERVERS = 2

_BUDGETS = ("privacy.whole_input_budget", "privacy.subject_budget", "privacy.window_budget")

NotNegative = Annotated[float, msgspec.Meta(ge=0.0)]


class DeviceTable(Table, frozen=True):
    """``[device]``: bundle, keys and memory of this board. ``state`` is a folder this program may write to.

    ``head_memory_mb``: for heads that are ready. ``local_tail_memory_mb``: for the tails behind them, with which
    frames are finished here; 0 for none. ``status``: the file that ``edge-runtime status`` reads.
    """

    bundle: Path
    key: Path
    state: Path
    backend: Literal["ai-edge-litert", "tflite-runtime"] | None = None
    threads: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    head_memory_mb: Positive | None = None
    local_tail_memory_mb: NotNegative = 96.0
    status: Path | None = None


class ServerTable(Table, frozen=True):
    """``[server]``: a server that runs tails. ``public_keys``: one key, or two while the server rotates its key.

    With two servers, as ``[[server]]``, the device connects to both. A frame goes to the one with the earlier
    expected answer; if that one fails, the same release goes to the other.
    """

    address: str
    public_keys: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=2)]

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The server's public keys, in Z85."""
        return tuple(key.encode() for key in self.public_keys)


class PrivacyTable(Table, frozen=True):
    """``[privacy]``: the budgets of this device, in pure whole-input ε; every release is charged to a ledger.

    ``whole_input_budget``: for the device's whole life. ``subject_budget``: for each source's ``subject`` alone.
    ``window_budget``: an additional budget for every ``window_s`` seconds of the device's running time.
    ``block_frames`` frames of a subject are prepaid with one write; a crash loses those that were not used.
    """

    whole_input_budget: Positive | Literal["unlimited"]
    subject_budget: Positive | None = None
    window_s: Positive | None = None
    window_budget: Positive | None = None
    block_frames: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 64


class PlannerTable(Table, frozen=True):
    """``[planner]``: ``split`` is ``auto``, ``local``, or the op index of an offered cut.

    ``answer_within_s``: deadline of an answer, in seconds after the capture. ``earliest_cut``: cuts before
    this op index are never used, whatever the link; 0 allows cut 0, the input itself under noise.
    ``accuracy_floor``: the minimum agreement of a cut with the unsplit model, measured under this release; default
    0.9, ``off`` for none. Cuts below it are not used, nor cuts whose one-sided 80 % lower bound is more than 0.1
    below it. If the key is set, cuts without a measurement are not used either. ``reveal_at_most``: the maximum
    exposure of a cut under this release, by the audit that is stored with the bundle. Cuts above it and cuts
    without an audit under this release are not used. Unset: no limit. ``objective``: ``latency`` works on one frame
    at a time;
    ``throughput`` on several at once and answers as many a second as it can, in the order they are done. ``hedge``:
    if the server's answer is in doubt, the board also finishes the frame itself, right after the head, provided
    that this is expected to save more than it costs.
    """

    split: Literal["auto", "local"] | int = "auto"
    answer_within_s: Positive = 1.0
    earliest_cut: Annotated[int, msgspec.Meta(ge=0)] = 1
    accuracy_floor: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] | Literal["off"] | None = None
    reveal_at_most: Reveals | None = None
    objective: Literal["latency", "throughput"] = "latency"
    min_gain: NotNegative = Hysteresis.min_gain
    dwell_s: NotNegative = Hysteresis.dwell_s
    hedge: bool = False

    @property
    def floor(self) -> Floor | None:
        """The accuracy floor, default included; None if it is off."""
        if self.accuracy_floor is None:
            return DEFAULT_FLOOR
        return None if self.accuracy_floor == "off" else Floor.at(self.accuracy_floor)

    @property
    def hysteresis(self) -> Hysteresis:
        """The minimum gain that moves the split."""
        return Hysteresis(min_gain=self.min_gain, dwell_s=self.dwell_s)


class ReportTable(Table, frozen=True):
    """``[report]``: status reports for the server's fleet page, without any frame's content; see docs/fleet.md.

    ``period_s``: seconds between two reports. ``textfile``: a file that ends in ``.prom`` in the folder of
    node_exporter's textfile collector, written as often.
    """

    enabled: bool = True
    period_s: Period = 10.0
    textfile: Path | None = None


class EmulationTable(Table, frozen=True):
    """``[emulation]``: emulate a board that is ``slowdown`` times slower. For demonstrations and tests."""

    slowdown: Annotated[float, msgspec.Meta(ge=1.0)] = 1.0


class Config(Table, frozen=True):
    """The whole file. ``server``: one table, or two as ``[[server]]``.

    ``source`` and ``sink``: one table, or several as ``[[source]]``; see `kinds`.
    """

    device: DeviceTable
    server: ServerTable | tuple[ServerTable, ...]
    source: SourceTable | tuple[SourceTable, ...]
    release: ReleaseTable = ReleaseTable()
    privacy: PrivacyTable | None = None
    planner: PlannerTable = PlannerTable()
    sink: SinkTable | tuple[SinkTable, ...] = JsonlTable()
    report: ReportTable = ReportTable()
    emulation: EmulationTable = EmulationTable()

    @property
    def servers(self) -> tuple[ServerTable, ...]:
        """All servers, one or two."""
        return self.server if isinstance(self.server, tuple) else (self.server,)

    @property
    def sources(self) -> tuple[SourceTable, ...]:
        """All sources, one or more."""
        return self.source if isinstance(self.source, tuple) else (self.source,)

    @property
    def sinks(self) -> tuple[SinkTable, ...]:
        """All sinks."""
        return self.sink if isinstance(self.sink, tuple) else (self.sink,)

    @property
    def limits(self) -> Limits:
        """The budgets, in the ledger's units."""
        table = self.privacy or PrivacyTable(whole_input_budget="unlimited")
        budgets = (table.whole_input_budget, table.subject_budget, table.window_budget)
        whole, subject, window = (None if isinstance(b, str) or b is None else epsilon_units(b) for b in budgets)
        return Limits(
            budget=whole,
            subject_budget=subject,
            window_s=table.window_s,
            window_budget=window,
            block_frames=table.block_frames,
        )


def load(path: Path, *, check_server_keys: bool = True) -> Config:
    """Read and check a config file and its ``conf.d``; `ConfigError` names file and key.

    The commands that make the device's keys do not check the server's keys, which may be unknown at that time.
    """
    return load_layers(path, check_server_keys=check_server_keys)[0]


def load_layers(
    path: Path, *, check_server_keys: bool = True, warn: Callable[[str], None] = log.warning
) -> tuple[Config, Layers]:
    """`load`, with the origin of every value; ``warn`` is called for each key under its old name."""
    layers, warnings = with_new_names(read_layers(path))
    for text in warnings:
        warn(text)
    widened, tree = with_kinds(Config, layers)
    layers = replace(layers, tree=tree)
    config = layers.parse(widened)
    _check_labels(config.sources, "source", layers.where("source"))
    _check_labels(config.sinks, "sink", layers.where("sink"))
    _check_addresses(config, layers)
    if (key := config.device.key).suffix != ".key":
        where = layers.where("device.key")
        raise ConfigError(
            f"{where}: device.key: {key} does not end in '.key'",
            remedy="name the secret key; the public one lies beside it",
        )
    if config.emulation.slowdown > 1.0 and config.device.threads > 1:
        where = layers.where("emulation.slowdown", "device.threads")
        raise ConfigError(
            f"{where}: emulation.slowdown stretches one thread's time", remedy="set device.threads = 1"
        )
    textfile = config.report.textfile
    if textfile is not None and textfile.suffix != ".prom":
        raise ConfigError(
            f"{layers.where('report.textfile')}: report.textfile: {textfile} does not end in '.prom'",
            remedy="node_exporter reads only files with that ending",
        )
    _check_privacy(config, layers.where)
    if check_server_keys:
        _check_server_keys(config, layers)
    return config, layers


def _server_key(config: Config, number: int, name: str) -> str:
    """The key path of a value of one server."""
    return f"server[{number}].{name}" if isinstance(config.server, tuple) else f"server.{name}"


def _check_addresses(config: Config, layers: Layers) -> None:
    where = layers.where("server.address")
    if not 1 <= len(config.servers) <= _MOST_SERVERS:
        raise ConfigError(
            f"{layers.where('server')}: server: {len(config.servers)} servers",
            remedy=f"name one, or {_MOST_SERVERS} as [[server]]",
        )
    seen = set[str]()
    for number, server in enumerate(config.servers):
        key, address = _server_key(config, number, "address"), _ADDRESS.fullmatch(server.address)
        if address is None or not 0 < int(address["port"]) < 1 << 16:
            raise ConfigError(
                f"{where}: {key}: {server.address!r} is not an address", remedy="write it as 'tcp://HOST:5555'"
            )
        if server.address in seen:
            raise ConfigError(
                f"{where}: {key}: {server.address} is the other server's, too",
                remedy="name two different servers, or leave one out",
            )
        seen.add(server.address)


def _check_server_keys(config: Config, layers: Layers) -> None:
    where = layers.where("server.public_keys")
    try:
        for number, server in enumerate(config.servers):
            key = _server_key(config, number, "public_keys")
            for index, public_key in enumerate(server.public_keys):
                parse_public(public_key, f"{where}: {key}[{index}]")
    except BadInputError as error:
        raise ConfigError(error.problem, remedy=error.remedy) from None


def _check_labels(tables: Sequence[SourceTable | SinkTable], table: str, where: str) -> None:
    if table == "source" and not tables:
        raise ConfigError(f"{where}: source: is empty", remedy="name one source")
    labels = [entry.label for entry in tables]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"{where}: {table}: {labels.count(twice)} are called {twice!r}", remedy="give each its own 'name'"
        )


def _check_privacy(config: Config, where: Callable[..., str]) -> None:
    """Check that release and budgets fit together. ``where``: gives the file of a key path, for errors."""
    release, privacy = config.release, config.privacy
    check_release(release, where)
    if privacy is None:
        if release.mechanism != "none" and config.planner.split != "local":
            raise ConfigError(
                f"{where('privacy.whole_input_budget')}: privacy.whole_input_budget is not set",
                remedy="say how much whole-input epsilon this device may release in its life, a number or "
                '"unlimited" (a frame of noise costs thousands, of a codebook release.whole_input_epsilon)',
            )
    else:
        _check_budgets(privacy, where)
        bounded = config.limits.bounded
        if bounded and release.mechanism == "none":
            raise ConfigError(
                f"{where('release.mechanism', *_BUDGETS)}: release.mechanism = 'none' has no finite epsilon, so no "
                "budget can hold",
                remedy='set privacy.whole_input_budget = "unlimited" alone, or protect the features',
            )
        if bounded and release.preset == "cis":
            raise ConfigError(
                f"{where('release.preset', *_BUDGETS)}: release.preset = 'cis' costs thousands of epsilon a frame "
                "and keeps no budget",
                remedy='set privacy.whole_input_budget = "unlimited" alone to accept that, or leave the preset out',
            )
    if release.preset == "cis" and (privacy is None or release.mechanism != "noise"):
        raise ConfigError(
            f"{where('release.preset', 'release.mechanism')}: release.preset = 'cis' is noise, which no finite "
            "budget allows",
            remedy='set privacy.whole_input_budget = "unlimited"',
        )
    if release.preset == "cis" and release.allocation not in (None, "rank"):
        raise ConfigError(
            f"{where('release.preset', 'release.allocation')}: release.preset = 'cis' shares by rank",
            remedy="leave release.allocation out",
        )


def _check_budgets(privacy: PrivacyTable, where: Callable[..., str]) -> None:
    for name in ("whole_input_budget", "subject_budget", "window_s", "window_budget"):
        value = getattr(privacy, name)
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(
                f"{where(f'privacy.{name}')}: privacy.{name} = {value}",
                remedy='give a number, or "unlimited" for privacy.whole_input_budget',
            )
    if (privacy.window_s is None) != (privacy.window_budget is None):
        raise ConfigError(
            f"{where('privacy.window_s', 'privacy.window_budget')}: privacy.window_s and privacy.window_budget go "
            "together",
            remedy="set both or neither",
        )
