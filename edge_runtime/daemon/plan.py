"""A config worked out: bundle, cuts, release plans and their costs. Needs no hardware, holds nothing open.

`run`, a reload, `bench`, `doctor` and `config check` all begin here, so that what one of them accepts or refuses
the others do too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.config.config import Config
from edge_runtime.planner.allowed_cuts import allowed_cuts, releasable_cuts
from edge_runtime.privacy.ledger.amounts import Amount
from edge_runtime.privacy.ledger.opening import costs_of
from edge_runtime.privacy.release import ReleasePlans, plans_for
from edge_runtime.sources import Source, Wanted
from edge_runtime.sources.multiplexer import Multiplexer
from split_model.bundle import Bundle, evaluation
from split_model.errors import ConfigError, OutputError
from split_model.features.data import read_labels
from split_model.interpreter import choose_backend
from split_model.protocol.keys import KeyPair, read_pair
from split_model.service.config_file import as_plain

#: Tables and keys that belong to the start: another source would begin anew, and there is one ledger.
FIXED = ("source", "sink", "device.state", "device.status")


@dataclass(frozen=True)
class Plan:
    """What one config comes to.

    ``bundle`` has those cuts only at which something may leave; the planner may use the ``allowed`` ones of them.
    ``releases`` and ``costs`` (of one frame, in the ledger's units) are by cut. ``wanted``: what a source has to
    bring.
    """

    config: Config
    bundle: Bundle
    allowed: frozenset[int]
    releases: ReleasePlans
    costs: dict[int, Amount]
    wanted: Wanted

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
        allowed = allowed_cuts(
            bundle.manifest.cuts,
            split=planner.split,
            earliest_cut=planner.earliest_cut,
            accuracy_floor=planner.accuracy_floor,
            release=release,
            bundle=bundle,
            evaluation=lambda: evaluation.load(bundle),
        )
        manifest = bundle.manifest
        wanted = Wanted(
            manifest.inputs,
            manifest.outputs,
            manifest.preprocess,
            _labels_of(bundle),
            config.device.state,
            model=manifest.name,
        )
        return cls(config, bundle, allowed, releases, costs_of(releases), wanted)

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


def _labels_of(bundle: Bundle) -> tuple[str, ...] | None:
    """The names of the classes that folders of labelled pictures may have."""
    schema = bundle.manifest.answer
    return None if schema is None or schema.labels is None else read_labels(bundle.path(schema.labels))


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
