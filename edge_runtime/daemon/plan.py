"""A config worked out: bundle, cuts, release plans and their costs. Needs no hardware, holds nothing open.

`run`, a reload, `bench`, `doctor` and `config check` all begin here, so that what one of them accepts or refuses
the others do too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.config.config import Config
from edge_runtime.loop.records import labels_of
from edge_runtime.planner.accuracy import Accuracy, Line, Spec
from edge_runtime.planner.allowed_cuts import allowed_cuts, evaluate_command, releasable_cuts
from edge_runtime.privacy.ledger.amounts import Amount
from edge_runtime.privacy.ledger.opening import costs_of
from edge_runtime.privacy.release import ReleasePlans, plans_for
from edge_runtime.sources import Source, Wanted
from edge_runtime.sources.multiplexer import Multiplexer
from split_model.bundle import Bundle, evaluation
from split_model.errors import ConfigError, OutputError
from split_model.interpreter import choose_backend
from split_model.protocol.keys import KeyPair, read_pair
from split_model.service.config_file import as_plain

#: Tables and keys that belong to the start: another source would begin anew, and there is one ledger.
FIXED = ("source", "sink", "device.state", "device.status")


@dataclass(frozen=True)
class Plan:
    """What one config comes to.

    ``bundle`` has those cuts only at which something may leave; the planner may use the ``allowed`` ones of them.
    ``accuracy``: how well each of them answers, as far as that was measured.
    ``releases`` and ``costs`` (of one frame, in the ledger's units) are by cut. ``wanted``: what a source has to
    bring.
    """

    config: Config
    bundle: Bundle
    allowed: frozenset[int]
    releases: ReleasePlans
    costs: dict[int, Amount]
    wanted: Wanted
    accuracy: Accuracy

    @classmethod
    def of(cls, config: Config) -> Plan:
        """Read the bundle and work everything out.

        Raises:
            SplitModelError: The bundle is missing or damaged, or lacks something that the config names.

        """
        planner, release = config.planner, config.release
        whole = Bundle.open(config.device.bundle)
        usable = releasable_cuts(
            whole.manifest.cuts, split=planner.split, release=release, left_out=whole.manifest.left_out
        )
        bundle = whole.only(usable)
        releases = plans_for(bundle.manifest.cuts, release)
        accuracy = _accuracy(bundle, config)
        allowed = allowed_cuts(
            bundle.manifest.cuts,
            split=planner.split,
            earliest_cut=planner.earliest_cut,
            accuracy=accuracy,
            strict=isinstance(planner.accuracy_floor, float),
            evaluate=evaluate_command(release, bundle),
        )
        manifest = bundle.manifest
        wanted = Wanted(
            manifest.inputs,
            manifest.outputs,
            manifest.preprocess,
            labels_of(bundle) or None,
            config.device.state,
            model=manifest.name,
        )
        return cls(config, bundle, allowed, releases, costs_of(releases), wanted, accuracy)

    @property
    def wanted_cuts(self) -> frozenset[int]:
        """The cuts that the config does not forbid, however well they answer."""
        planner = self.config.planner
        return frozenset(
            cut.index for cut in self.bundle.manifest.cuts
            if cut.index >= planner.earliest_cut and planner.split in ("auto", cut.index)
        )  # fmt: skip

    def accuracy_lines(self) -> Iterator[Line]:
        """What is to be told of the accuracy of the cuts that the config does not forbid otherwise."""
        return self.accuracy.lines(self.wanted_cuts)

    @property
    def accuracy_trouble(self) -> str:
        """Why no cut is used, or what the figures lack, in one line; else empty."""
        return "; ".join(line.text for line in self.accuracy.conclusion(self.wanted_cuts))

    def check(self) -> None:
        """Raise the fault of the backend, the state, a source or a sink; touches nothing that a program uses."""
        choose_backend(self.config.device.backend)
        check_state(self.config.device.state)
        self.check_sources()
        for sink in self.config.sinks:
            sink.check()

    def check_sources(self) -> None:
        """`check` the sources alone."""
        for source in self.config.sources:
            source.check(self.wanted)

    def read_keys(self) -> KeyPair:
        """The device's key pair. Its secret half is for the service's user alone to read."""
        return read_pair(self.config.device.key)

    def open_sources(self, stopped: Callable[[], bool]) -> Multiplexer:
        """All sources, open; they start when frames are taken."""
        opened: dict[str, tuple[Source, str]] = {}
        with contextlib.ExitStack() as undo:
            for table in self.config.sources:
                source = table.open(self.wanted)
                undo.callback(source.close)
                opened[table.label] = source, table.subject
            undo.pop_all()
        return Multiplexer(opened, stopped=stopped, ahead=self.config.planner.objective == "throughput")


def _accuracy(bundle: Bundle, config: Config) -> Accuracy:
    """Where nothing can leave, or all of it leaves as it is, the figures are not read."""
    release, planner = config.release, config.planner
    cuts = bundle.manifest.cuts
    idle = planner.split == "local" or release.mechanism == "none"
    specs: dict[int, Spec] = {cut.index: None if idle else release.spec_at(cut) for cut in cuts}
    return Accuracy.of(cuts, specs, planner.floor, None if idle else evaluation.load(bundle))


def check_state(state: Path) -> None:
    """Refuse a state folder that can never be one; a disk that is full or fails may come back.

    Raises:
        OutputError: It, or a folder above it, is there and is no folder.

    """
    there = next(place for place in (state, *state.absolute().parents) if place.exists() or place.is_symlink())
    if not there.is_dir():
        raise OutputError(
            f"device.state: {state}: {there} is not a folder", remedy="set device.state to a folder of its own"
        )


def refuse_what_cannot_change(old: Plan, new: Plan) -> None:
    """Raise `ConfigError` where a running program cannot take up a plan: sources, sinks and ledger go on."""
    if changed := fixed_changes(old.config, new.config):
        raise ConfigError(
            f"{', '.join(changed)} cannot change while the program runs", remedy="restart the service"
        )
    if _brought(old) != _brought(new):
        raise ConfigError(
            f"device.bundle: {new.bundle.root} takes other inputs, pre-processing or labels than the bundle in "
            "force",
            remedy="restart the service to change to it",
        )


def fixed_changes(old: Config, new: Config) -> list[str]:
    """The keys of `FIXED` that differ."""
    before, after = as_plain(old), as_plain(new)
    changed = []
    for path in FIXED:
        table, _, key = path.partition(".")
        was, will = before[table], after[table]
        if key:
            changed += [path] if was[key] != will[key] else []
        elif isinstance(was, dict) and isinstance(will, dict):
            changed += [f"{table}.{name}" for name in sorted({*was, *will}) if was.get(name) != will.get(name)]
        elif was != will:
            changed.append(table)
    return changed


def _brought(plan: Plan) -> Any:
    """What the sources were opened for."""
    return plan.wanted.inputs, plan.wanted.preprocess, plan.wanted.labels
