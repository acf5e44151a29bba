"""The device's config file: every key, its unit in its name, its default, and what must hold between them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from edge_runtime.kinds import with_kinds
from edge_runtime.ledger.amounts import epsilon_units
from edge_runtime.ledger.books import Limits
from edge_runtime.planner import Hysteresis
from edge_runtime.sinks.jsonl import JsonlTable
from edge_runtime.sinks.sink import SinkTable
from edge_runtime.sources.source import SourceTable
from split_model.bundle import Cut
from split_model.bundle.manifest import MAX_GROUPS, MAX_WORDS
from split_model.errors import BadInputError, ConfigError
from split_model.keys import parse_public
from split_model.layers import Layers, read_layers
from split_model.privacy import AllocationWish, CodebookSpec, NoiseSpec, settle, settle_codebook

# libzmq takes no host that begins otherwise.
_ADDRESS = re.compile(r"tcp://(?:[A-Za-z0-9][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})")

Positive = Annotated[float, msgspec.Meta(gt=0.0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0.0)]

#: Of the noise release: mean per-value epsilon, and bits a value.
_EPSILON, _BITS = 8.0, 8


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all tables."""


class DeviceTable(_Table, frozen=True):
    """``[device]``: what runs here. ``state`` is a folder this program may write to.

    ``head_memory_mb``: for heads that are ready. ``rest_memory_mb``: for what is left of the model behind them, to
    finish frames here with; 0 for none. ``status``: the file that ``edge-runtime status`` reads.
    """

    bundle: Path
    key: Path
    state: Path
    backend: Literal["ai-edge-litert", "tflite-runtime"] | None = None
    threads: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    head_memory_mb: Positive | None = None
    rest_memory_mb: NotNegative = 96.0
    status: Path | None = None


class ServerTable(_Table, frozen=True):
    """``[server]``: where tails run. ``public_keys`` holds one key, or two while the server's is being rotated."""

    address: str
    public_keys: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=2)]


class ReleaseTable(_Table, frozen=True):
    """``[release]``: how features are protected.

    ``noise``: ``epsilon`` is per value, the mean over a frame's values, 8 unless set. ``allocation``: how it is
    shared among channels; ``auto``, the default, takes at each cut what `prepare` measured to be best there. The
    preset ``cis`` is noise with ``rank``.

    ``codebook``: ``whole_input_epsilon`` is that of a frame as a whole, and has no default. ``words`` and
    ``groups`` say which of a cut's codebooks; else it is the one that is expected to be right most. Cuts without
    one are not used.
    """

    mechanism: Literal["noise", "codebook", "none"] = "noise"
    preset: Literal["cis"] | None = None
    epsilon: Positive | None = None
    allocation: AllocationWish | None = None
    bits: Annotated[int, msgspec.Meta(ge=4, le=8)] | None = None
    whole_input_epsilon: Positive | None = None
    words: Annotated[int, msgspec.Meta(ge=2, le=MAX_WORDS)] | None = None
    groups: Annotated[int, msgspec.Meta(ge=1, le=MAX_GROUPS)] | None = None

    @property
    def wish(self) -> AllocationWish:
        """How the budget is to be shared, preset and default included."""
        return self.allocation or ("rank" if self.preset == "cis" else "auto")

    @property
    def noise_epsilon(self) -> float:
        """Mean per-value epsilon of the noise, default included."""
        return self.epsilon or _EPSILON

    @property
    def noise_bits(self) -> int:
        """Bits a value, default included."""
        return self.bits or _BITS

    @property
    def name(self) -> str:
        """What a profile's timings are valid for; what is chosen at each cut is part of the bundle."""
        if self.mechanism == "none":
            return "none"
        if self.mechanism == "codebook":
            which = [f"{key}={value}" for key, value in (("words", self.words), ("groups", self.groups)) if value]
            return " ".join([f"codebook whole_input_epsilon={self.whole_input_epsilon or 0:g}", *which])
        return f"noise epsilon={self.noise_epsilon:g} {self.wish} bits={self.noise_bits}"

    def spec_at(self, cut: Cut) -> NoiseSpec | CodebookSpec | None:
        """The release at a cut, or None where the user chose to send features unprotected.

        Raises `ConfigError` for an epsilon out of range, and where the cut has no codebook that fits.
        """
        if self.mechanism == "none":
            return None
        if self.mechanism == "noise":
            return NoiseSpec(
                epsilon=self.noise_epsilon,
                allocation=settle(self.wish, cut, self.noise_epsilon),
                bits=self.noise_bits,
            )
        assert self.whole_input_epsilon is not None  # the config was checked
        spec = settle_codebook(cut, self.whole_input_epsilon, words=self.words, groups=self.groups)
        if spec is None:
            raise ConfigError(
                f"cut {cut.index} has no codebook that fits release.whole_input_epsilon, words and groups; prepare "
                "the bundle with --codebook"
            )
        return spec

    def usable(self, cut: Cut) -> bool:
        """Whether anything may leave at a cut: under ``codebook``, only where the bundle has one that fits."""
        if self.mechanism != "codebook" or self.whole_input_epsilon is None:
            return True
        return settle_codebook(cut, self.whole_input_epsilon, words=self.words, groups=self.groups) is not None


class PrivacyTable(_Table, frozen=True):
    """``[privacy]``: what may leave this device, ever, in pure whole-input ε; every release is charged to a ledger.

    ``subject_budget``: for each source's ``subject`` by itself. ``window_budget``: besides, for every ``window_s``
    seconds of the device's running time. ``block_frames`` of a subject are paid for with one write; a crash
    forfeits the rest.
    """

    whole_input_budget: Positive | Literal["unlimited"]
    subject_budget: Positive | None = None
    window_s: Positive | None = None
    window_budget: Positive | None = None
    block_frames: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 64


class PlannerTable(_Table, frozen=True):
    """``[planner]``: ``split`` is ``auto``, ``local``, or the op index of an offered cut.

    ``answer_within_s``: an answer is of use for so long after the frame was captured. ``earliest_cut``: cuts
    before this op index are never used, whatever the link; 0 allows cut 0, the input itself under noise.
    ``accuracy_floor``: cuts whose measured accuracy under this release (agreement with the whole model, where there
    were no labels) is below it are not used; `split-model evaluate --store` measures it.
    ``objective``: ``latency`` works on one frame at a
    time; ``throughput`` on several at once and answers as many a second as it can, in the order they are done.
    ``hedge``: where the server's answer is in doubt the board goes on with the frame as well, right behind the
    head, if that is expected to save more than it costs.
    """

    split: Literal["auto", "local"] | int = "auto"
    answer_within_s: Positive = 1.0
    earliest_cut: Annotated[int, msgspec.Meta(ge=0)] = 1
    accuracy_floor: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] | None = None
    objective: Literal["latency", "throughput"] = "latency"
    min_gain: NotNegative = Hysteresis.min_gain
    dwell_s: NotNegative = Hysteresis.dwell_s
    hedge: bool = False

    @property
    def hysteresis(self) -> Hysteresis:
        """What has to be gained to move the split."""
        return Hysteresis(min_gain=self.min_gain, dwell_s=self.dwell_s)


class EmulationTable(_Table, frozen=True):
    """``[emulation]``: play a board so many times slower than this machine. For demonstrations and tests."""

    slowdown: Annotated[float, msgspec.Meta(ge=1.0)] = 1.0


class Config(_Table, frozen=True):
    """The whole file. ``source`` and ``sink``: one table, or several as ``[[source]]``; see `kinds`."""

    device: DeviceTable
    server: ServerTable
    source: SourceTable | tuple[SourceTable, ...]
    release: ReleaseTable = ReleaseTable()
    privacy: PrivacyTable | None = None
    planner: PlannerTable = PlannerTable()
    sink: SinkTable | tuple[SinkTable, ...] = JsonlTable()
    emulation: EmulationTable = EmulationTable()

    @property
    def server_keys(self) -> tuple[bytes, ...]:
        """The server's public keys, Z85."""
        return tuple(key.encode() for key in self.server.public_keys)

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

    The device's own keys can be made before the server's are known: the commands for that leave those unchecked.
    """
    return load_layers(path, check_server_keys=check_server_keys)[0]


def load_layers(path: Path, *, check_server_keys: bool = True) -> tuple[Config, Layers]:
    """`load`, and where every value is from."""
    layers = read_layers(path)
    widened, tree = with_kinds(Config, layers.tree, where=layers.where("source"))
    layers = replace(layers, tree=tree)
    config = layers.parse(widened)
    _check_labels(config.sources, "source", layers.where("source"))
    _check_labels(config.sinks, "sink", layers.where("sink"))
    address = _ADDRESS.fullmatch(config.server.address)
    if address is None or not 0 < int(address["port"]) < 1 << 16:
        where = layers.where("server.address")
        raise ConfigError(
            f"{where}: server.address: {config.server.address!r} does not look like 'tcp://HOST:5555'"
        )
    if (key := config.device.key).suffix != ".key":
        where = layers.where("device.key")
        raise ConfigError(f"{where}: device.key: {key} must end in '.key'; the public key lies beside")
    if config.emulation.slowdown > 1.0 and config.device.threads > 1:
        where = layers.where("emulation.slowdown")
        raise ConfigError(f"{where}: emulation.slowdown stretches one thread's time; set device.threads = 1")
    _check_privacy(config, str(path))
    where = layers.where("server.public_keys")
    try:
        for index, public_key in enumerate(config.server.public_keys if check_server_keys else ()):
            parse_public(public_key, f"{where}: server.public_keys[{index}]")
    except BadInputError as error:
        raise ConfigError(str(error)) from None
    return config, layers


def _check_labels(tables: Sequence[SourceTable | SinkTable], table: str, where: str) -> None:
    if table == "source" and not tables:
        raise ConfigError(f"{where}: source: is empty; name one")
    labels = [entry.label for entry in tables]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise ConfigError(f"{where}: {table}: {labels.count(twice)} are called {twice!r}; give each its own 'name'")


def _check_release(release: ReleaseTable, where: str) -> None:
    """An epsilon of the other mechanism has another unit, and must not pass for this one's."""
    others = {
        "noise": ("codebook", ("whole_input_epsilon", "words", "groups")),
        "codebook": ("noise", ("epsilon", "allocation", "bits")),
        "none": ("codebook", ("whole_input_epsilon", "words", "groups")),
    }
    units = {"epsilon": " is per value and", "whole_input_epsilon": " is of a frame as a whole and"}
    other, names = others[release.mechanism]
    for name in names:
        if getattr(release, name) is not None:
            raise ConfigError(
                f"{where}: release.{name}{units.get(name, '')} belongs to release.mechanism = '{other}', not "
                f"'{release.mechanism}'; leave it out"
            )
    if release.mechanism == "codebook" and release.whole_input_epsilon is None:
        raise ConfigError(
            f"{where}: release.mechanism = 'codebook' needs release.whole_input_epsilon, what one frame costs: "
            "6 to 8 for a few dozen words"
        )
    for name in ("epsilon", "whole_input_epsilon"):
        value = getattr(release, name)
        if value is not None and not math.isfinite(value):
            raise ConfigError(f"{where}: release.{name} = {value}: give a number")


def _check_privacy(config: Config, where: str) -> None:
    """What release and budgets must have in common."""
    release, privacy = config.release, config.privacy
    _check_release(release, where)
    if privacy is None:
        if release.mechanism != "none" and config.planner.split != "local":
            raise ConfigError(
                f"{where}: privacy.whole_input_budget is not set: say how much whole-input epsilon this device may "
                'release in its life, a number or "unlimited"; a frame of noise costs thousands, of a codebook '
                "release.whole_input_epsilon"
            )
    else:
        _check_budgets(privacy, where)
        bounded = config.limits.bounded
        if bounded and release.mechanism == "none":
            raise ConfigError(
                f"{where}: release.mechanism = 'none' has no finite epsilon, so no budget can hold: set "
                'privacy.whole_input_budget = "unlimited" alone, or protect the features'
            )
        if bounded and release.preset == "cis":
            raise ConfigError(
                f"{where}: release.preset = 'cis' costs thousands of epsilon a frame and keeps no budget: "
                'set privacy.whole_input_budget = "unlimited" alone to accept that, or leave the preset out'
            )
    if release.preset == "cis" and (privacy is None or release.mechanism != "noise"):
        raise ConfigError(
            f"{where}: release.preset = 'cis' is noise, and needs privacy.whole_input_budget = \"unlimited\""
        )
    if release.preset == "cis" and release.allocation not in (None, "rank"):
        raise ConfigError(f"{where}: release.preset = 'cis' shares by rank; leave release.allocation out")


def _check_budgets(privacy: PrivacyTable, where: str) -> None:
    for name in ("whole_input_budget", "subject_budget", "window_s", "window_budget"):
        value = getattr(privacy, name)
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f'{where}: privacy.{name} = {value}: give a number, or "unlimited" for the first')
    if (privacy.window_s is None) != (privacy.window_budget is None):
        raise ConfigError(f"{where}: privacy.window_s and privacy.window_budget go together; set both or neither")
