"""The plan of a config: bundle, cuts, release plans and costs. Needs no hardware, keeps nothing open.

`run`, a reload, `bench`, `doctor` and `config check` all begin here, so they accept and refuse the same configs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from edge_runtime.config.config import Config
from edge_runtime.daemon.within import each_within, faults_of, refuse_faults
from edge_runtime.planner.accuracy import Accuracy, Line, Spec
from edge_runtime.planner.allowed_cuts import allowed_cuts, audit_command, evaluate_command, releasable_cuts
from edge_runtime.planner.exposure import Exposed
from edge_runtime.privacy.claims import verdict
from edge_runtime.privacy.ledger.amounts import Amount
from edge_runtime.privacy.ledger.opening import costs_of
from edge_runtime.privacy.ledger.status import Prices
from edge_runtime.privacy.release import ReleasePlans, plans_for
from edge_runtime.sources import Wanted
from split_model.bundle import Bundle, evaluation, exposure
from split_model.errors import ConfigError, OutputError
from split_model.features.data import read_labels
from split_model.interpreter import choose_backend
from split_model.protocol.keys import KeyPair, read_pair

#: Keys that only a restart can change: there is one ledger, and one status file.
FIXED = ("device.state", "device.status")
_BROUGHT = "device.bundle"
#: For a camera's library, loaded from a slow card, and its first picture.
_LOOK_WITHIN_S = 40.0
RESTART = "run 'systemctl restart edge-runtime'"


@dataclass(frozen=True)
class Plan:
    """Everything that follows from one config and its bundle.

    ``bundle`` has only the cuts at which the release can be made; the planner uses the ``allowed`` ones of them.
    ``accuracy``: the measured agreement of each, where there is one. ``exposure``: the audited exposure of each,
    where there is one.
    ``releases`` and ``costs`` (of one frame, in the ledger's units) are by cut. ``wanted``: the form of the frames
    that a source has to give.
    """

    config: Config
    bundle: Bundle
    allowed: frozenset[int]
    releases: ReleasePlans
    costs: dict[int, Amount]
    wanted: Wanted
    accuracy: Accuracy
    exposure: Exposed

    @classmethod
    def of(cls, config: Config) -> Plan:
        """Read the bundle and make the plan.

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
        exposed = _exposure(bundle, config)
        exposed.check_split(planner.split)
        allowed &= exposed.used
        manifest = bundle.manifest
        wanted = Wanted(
            manifest.inputs,
            manifest.outputs,
            manifest.preprocess,
            _labels_of(bundle),
            config.device.state,
            model=manifest.name,
        )
        return cls(config, bundle, allowed, releases, costs_of(releases), wanted, accuracy, exposed)

    @property
    def wanted_cuts(self) -> frozenset[int]:
        """The cuts that the config does not forbid, before the accuracy floor is applied."""
        planner = self.config.planner
        return frozenset(
            cut.index for cut in self.bundle.manifest.cuts
            if cut.index >= planner.earliest_cut and planner.split in ("auto", cut.index)
        )  # fmt: skip

    def cut_lines(self) -> Iterator[Line]:
        """Log lines with accuracy and exposure of the cuts that no other key forbids."""
        yield from self.accuracy.lines(self.wanted_cuts)
        yield from self.exposure.lines(self.wanted_cuts & self.accuracy.used)

    @property
    def in_use(self) -> frozenset[int]:
        """The cuts at which frames may leave under this config."""
        split = self.config.planner.split
        return self.allowed if split == "auto" else self.allowed.intersection({split})

    @cached_property
    def privacy(self) -> str:
        """The verdict on what leaves, in words, with both epsilons."""
        return verdict(self.releases, self.in_use)

    @property
    def accuracy_trouble(self) -> str:
        """One line that says why no cut is used, or which measurements are missing; else empty."""
        return "; ".join(line.text for line in self.accuracy.conclusion(self.wanted_cuts))

    @property
    def exposure_trouble(self) -> str:
        """One line that says why every cut reveals too much; empty if one does not."""
        return "; ".join(line.text for line in self.exposure.conclusion(self.wanted_cuts & self.accuracy.used))

    @property
    def prices(self) -> Prices:
        """Costs of frames for the ledger's status; none if all frames are finished on the board."""
        split = self.config.planner.split
        used = {"auto": self.allowed, "local": ()}[split] if isinstance(split, str) else (split,)
        return Prices(
            [self.costs[cut] for cut in sorted(used)],
            tuple(dict.fromkeys(source.subject for source in self.config.sources)),
        )

    def check(self) -> None:
        """Raise a fault of backend, state folder, source or sink; does not disturb a running program."""
        self.check_board()
        self.check_sources()
        self.check_sinks()

    def check_board(self) -> None:
        """Do `check` for the backend and the state folder only."""
        choose_backend(self.config.device.backend)
        check_state(self.config.device.state)

    def check_sources(self) -> None:
        """Do `check` for the sources only."""
        refuse_faults(self.source_faults().values())

    def check_sinks(self) -> None:
        """Do `check` for the sinks only."""
        refuse_faults(self.sink_faults().values())

    def source_faults(self, *, grace_s: float | None = None) -> dict[str, Exception]:
        """The faults of sources, by label. The wait for a source that hangs is bounded, see `each_within`."""
        work = {f"source {table.label}": partial(table.check, self.wanted) for table in self.config.sources}
        return faults_of(each_within(work, grace_s=grace_s))

    def sink_faults(self) -> dict[str, Exception]:
        """The faults of sinks, by label."""
        return faults_of(each_within({f"sink {table.label}": table.check for table in self.config.sinks}))

    def check_changes(self, old: Plan) -> None:
        """`check` the sources and sinks that differ from another plan's, for a reload."""
        sources = [table for table in self.config.sources if table not in old.config.sources]
        sinks = [table for table in self.config.sinks if table not in old.config.sinks]
        work: dict[str, Callable[[], None]] = {
            f"source {table.label}": partial(table.check, self.wanted) for table in sources
        }
        work |= {f"sink {table.label}": table.check for table in sinks}
        refuse_faults(faults_of(each_within(work)).values())

    def look_at_sources(self) -> dict[str, str | Exception]:
        """What each source gives, by its label, or its fault. Only where no program has them."""
        work = {table.label: partial(table.look, self.wanted) for table in self.config.sources}
        return each_within(work, _LOOK_WITHIN_S)

    def reach_sources(self) -> list[str]:
        """Try to reach each network source; returns a line for each. Raises if one cannot be reached."""
        work = {f"source {table.label}": table.reach for table in self.config.sources}
        found = each_within(
            work,
            hangs=(
                "the look-up of its name, or the network, hangs",
                "check the name in device, and the board's DNS",
            ),
        )
        refuse_faults(faults_of(found).values())
        return [f"{name}: {told}" for name, told in found.items() if told]

    def read_keys(self) -> KeyPair:
        """Read the device's key pair. Only the service's user may read its secret half."""
        return read_pair(self.config.device.key)


def _labels_of(bundle: Bundle) -> tuple[str, ...] | None:
    """The class names, which folders of labelled pictures may be called after."""
    schema = bundle.manifest.answer
    return None if schema is None or schema.labels is None else read_labels(bundle.path(schema.labels))


def _accuracy(bundle: Bundle, config: Config) -> Accuracy:
    """Read the measured accuracy; not if nothing can leave, or if features leave unprotected."""
    release, planner = config.release, config.planner
    cuts = bundle.manifest.cuts
    idle = planner.split == "local" or release.mechanism == "none"
    specs: dict[int, Spec] = {cut.index: None if idle else release.spec_at(cut) for cut in cuts}
    return Accuracy.of(cuts, specs, planner.floor, None if idle else evaluation.load(bundle))


def _exposure(bundle: Bundle, config: Config) -> Exposed:
    """Read the audit's findings under this release; not if nothing can leave."""
    release, planner = config.release, config.planner
    cuts = bundle.manifest.cuts
    idle = planner.split == "local"
    specs: dict[int, Spec] = {
        cut.index: None if idle or release.mechanism == "none" else release.spec_at(cut) for cut in cuts
    }
    most = None if idle else planner.reveal_at_most
    found = None if idle else exposure.load(bundle)
    return Exposed.of(cuts, specs, most, found, audit_command(release, bundle))


def check_state(state: Path) -> None:
    """Refuse a state path that cannot be a folder. A full or failed disk is accepted, as it may recover.

    Raises:
        OutputError: The path, or one above it, exists and is not a folder.

    """
    there = next(place for place in (state, *state.absolute().parents) if place.exists() or place.is_symlink())
    if not there.is_dir():
        raise OutputError(
            f"device.state: {state}: {there} is not a folder", remedy="set device.state to a folder of its own"
        )


def fixed_values(plan: Plan) -> dict[str, str]:
    """Values that cannot change while a program runs: the keys of `FIXED`, and a digest of the frames' form."""
    device, wanted = plan.config.device, plan.wanted
    brought = repr((wanted.inputs, wanted.preprocess, wanted.labels))
    return {
        **{path: str(getattr(device, path.rpartition(".")[2])) for path in FIXED},
        _BROUGHT: hashlib.sha256(brought.encode()).hexdigest(),
    }


def refuse_what_cannot_change(running: Mapping[str, str], plan: Plan) -> None:
    """Refuse a plan that needs a restart.

    Args:
        running: The `fixed_values` of the running program.
        plan: The plan of the changed config.

    Raises:
        ConfigError: The ledger, the status file or the form of the frames would change.

    """
    changed = [path for path, value in fixed_values(plan).items() if running.get(path, value) != value]
    if _BROUGHT in changed:
        raise ConfigError(
            f"device.bundle: {plan.bundle.root} takes other inputs, pre-processing or labels than the bundle in "
            "force",
            remedy=RESTART,
        )
    if changed:
        raise ConfigError(f"{', '.join(changed)} cannot change while the program runs", remedy=RESTART)
