"""The parts of the device program, each made from the config: what `run`, `bench` and `config check` share.

Like the daemon it is the rim: the operating system's entropy and the sockets are handed in here.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

from edge_runtime.board.board import Board, EmulatedBoard, RealBoard
from edge_runtime.config.config import Config
from edge_runtime.daemon.accuracy import accurate_cuts
from edge_runtime.inference import profile as profiles
from edge_runtime.inference.heads import Heads
from edge_runtime.inference.local_tails import WORTH_IT_S, RestCost, Rests, load_rest, memory_bytes_of
from edge_runtime.inference.profile import Profile
from edge_runtime.link.link_thread import Offload
from edge_runtime.link.transport import Transport
from edge_runtime.loop.records import labels_of
from edge_runtime.planner.planner import Planner
from edge_runtime.planner.prediction import SplitProfile
from edge_runtime.privacy.release import Release, plan_for
from edge_runtime.sources import Wanted
from edge_runtime.sources.multiplexer import Intake
from split_model import __version__
from split_model.bundle import Bundle, Cut
from split_model.errors import ConfigError
from split_model.interpreter import Interpreter
from split_model.privacy import CodebookPlan, NoisePlan, expected_share
from split_model.protocol.device import DeviceSession
from split_model.protocol.keys import KeyPair

log = logging.getLogger(__name__)

#: By the cut's op index; None where features leave unprotected.
Plans = dict[int, NoisePlan | CodebookPlan | None]


def open_bundle(config: Config) -> Bundle:
    """The bundle, with those cuts only at which something may leave under the configured release."""
    bundle = Bundle.open(config.device.bundle)
    usable = [cut.index for cut in bundle.manifest.cuts if config.release.usable(cut)]
    split = config.planner.split
    if not usable and split != "local":
        raise ConfigError(
            "release.mechanism = 'codebook': no cut of the bundle has a codebook that fits whole_input_epsilon, "
            "words and groups; prepare it with --codebook, or set planner.split = 'local'"
        )
    if isinstance(split, int) and split not in usable:
        raise ConfigError(f"planner.split = {split}: the bundle offers {usable}, 'local' or 'auto'")
    return bundle.only(usable)


def check_sources(config: Config, bundle: Bundle) -> None:
    """Raise what is wrong with a source, touching nothing that a running program uses."""
    for source in config.sources:
        source.check(_wanted(config, bundle))


def open_sources(config: Config, bundle: Bundle, stopped: Callable[[], bool]) -> Intake:
    """All sources, open; they start when frames are taken."""
    opened = {source.label: (source.open(_wanted(config, bundle)), source.subject) for source in config.sources}
    return Intake(opened, stopped=stopped, ahead=config.planner.objective == "throughput")


def _wanted(config: Config, bundle: Bundle) -> Wanted:
    manifest = bundle.manifest
    labels = labels_of(bundle) or None
    return Wanted(
        manifest.inputs, manifest.outputs, manifest.preprocess, labels, config.device.state, model=manifest.name
    )


def make_board(config: Config) -> Board:
    slowdown = config.emulation.slowdown
    if slowdown == 1.0:
        return RealBoard()
    log.warning("EMULATED board: %g times slower than this machine", slowdown)
    return EmulatedBoard(slowdown)


def make_plans(config: Config, bundle: Bundle) -> Plans:
    """Every cut's release plan, made once: a head that comes back after a while needs it again."""
    return {cut.index: plan_for(cut, config.release.spec_at(cut)) for cut in bundle.manifest.cuts}


def make_heads(config: Config, bundle: Bundle, plans: Plans, *, loader: Executor | None = None) -> Heads:
    """The heads of a bundle, the whole model loaded; ``loader`` loads the others in the background."""
    memory_mb = config.device.head_memory_mb
    return Heads(
        bundle,
        lambda cut: Release(cut, plans[cut.index], entropy=os.urandom, root=bundle.root),
        backend=config.device.backend,
        threads=config.device.threads,
        memory_bytes=None if memory_mb is None else int(memory_mb * 1e6),
        loader=loader,
    )


def make_rests(config: Config, bundle: Bundle, heads: Heads, profile: Profile, loader: Executor) -> Rests | None:
    """What is left behind each head, loaded by ``loader``; None where the board decides nothing late."""
    memory_bytes = int(config.device.local_tail_memory_mb * 1e6)
    planner, whole_s = config.planner, profile.local.head_s
    if planner.split != "auto" or planner.objective != "latency" or whole_s < WORTH_IT_S or memory_bytes == 0:
        return None

    def load(split: int) -> Interpreter:
        return load_rest(bundle, split, backend=config.device.backend, threads=config.device.threads)

    head_s = {timing.split: timing.head_s for timing in profile.splits}
    costs = {
        cut.index: RestCost(
            memory_bytes_of(cut.tail.size_bytes, cut.raw_bytes), max(0.0, whole_s - head_s[cut.index])
        )
        for cut in bundle.manifest.cuts
    }
    return Rests(load, costs, whole=heads.whole, memory_bytes=memory_bytes, loader=loader)


def release_name(config: Config) -> str:
    """What a profile's timings are valid for."""
    return config.release.name


def profile_path(config: Config, bundle: Bundle) -> Path:
    return config.device.state / f"profile-{bundle.identity[:16]}.json"


def find_profile(
    config: Config,
    bundle: Bundle,
    heads: Heads,
    board: Board,
    stopped: Callable[[], bool],
    *,
    progress: Callable[[str], None] = log.info,
    keep: bool = True,
) -> Profile | None:
    """The stored profile if it still fits, else a new one; None if ``stopped`` held before it was there.

    ``keep``: store a new one. A board that answers frames meanwhile gives one that the next start must not use.
    """
    stored = profiles.load(profile_path(config, bundle))
    splits = [*(cut.index for cut in bundle.manifest.cuts), bundle.local]
    wanted = (bundle.identity, heads.whole.backend, config.device.threads, board.slowdown, release_name(config))
    if stored is not None and [timing.split for timing in stored.splits] == splits:
        found = (stored.bundle, stored.backend, stored.threads, stored.slowdown, stored.release)
        if found == wanted:
            return stored
    progress(f"{len(bundle.manifest.cuts)} cuts to measure")
    profile = profiles.measure(
        bundle,
        heads,
        board,
        release=release_name(config),
        threads=config.device.threads,
        stopped=stopped,
        progress=progress,
    )
    if profile is not None and keep:
        profiles.store(profile_path(config, bundle), profile)
    return profile


def allowed_cuts(config: Config, bundle: Bundle) -> frozenset[int]:
    """The cuts that the config lets the planner use; `ConfigError` where a fixed split is none of them."""
    planner = config.planner
    late_enough = [cut for cut in bundle.manifest.cuts if cut.index >= planner.earliest_cut]
    split = planner.split
    if isinstance(split, int) and split < planner.earliest_cut:
        raise ConfigError(
            f"planner.split = {split} precedes planner.earliest_cut = {planner.earliest_cut}; change one of them"
        )
    allowed = accurate_cuts(config, bundle, late_enough)
    if isinstance(split, int) and split not in allowed:
        raise ConfigError(
            f"planner.split = {split} is measured below planner.accuracy_floor = {planner.accuracy_floor}; "
            "change one of them"
        )
    return frozenset(allowed)


def make_planner(config: Config, bundle: Bundle, profile: Profile, allowed: frozenset[int]) -> Planner:
    """The planner over the cuts that the config allows."""
    splits = [
        SplitProfile(timing.split, timing.head_s, timing.release_s, timing.payload_bytes)
        for timing in profile.splits
        if timing.split in allowed or timing.split == bundle.local
    ]
    split = config.planner.split
    fixed = {"auto": None, "local": bundle.local}.get(split) if isinstance(split, str) else split
    return Planner(
        splits,
        local=bundle.local,
        hysteresis=config.planner.hysteresis,
        fixed=fixed,
        objective=config.planner.objective,
    )


def say_privacy(config: Config, bundle: Bundle, plans: Plans) -> None:
    """Print both claims for every cut, and how the budget is shared: no number goes without its unit."""
    for cut in bundle.manifest.cuts:
        plan = plans[cut.index]
        if plan is None:
            log.warning("cut %d: features leave UNPROTECTED, release.mechanism is 'none'", cut.index)
            continue
        if isinstance(plan, CodebookPlan):
            _say_codebook(cut, plan)
            continue
        log.info(
            "cut %d: %d values; per-value epsilon at most %.2f, mean %.2f; whole-input epsilon %.0f a frame; "
            "allocation %s%s",
            cut.index,
            cut.values,
            plan.per_value_epsilon_max,
            plan.per_value_epsilon_mean,
            plan.whole_input_epsilon,
            plan.spec.allocation,
            _why(cut, plan.spec.epsilon) if config.release.wish == "auto" else "",
        )


def _say_codebook(cut: Cut, plan: CodebookPlan) -> None:
    """Both claims, and beside them what the device could answer by itself."""
    log.info(
        "cut %d: codebook of %d words, %d groups; per-value and whole-input epsilon %.6g a frame; expected to be "
        "right %.3f of the time, a lookup on the device itself %.3f (%s)",
        cut.index,
        plan.spec.words,
        plan.spec.groups,
        plan.whole_input_epsilon,
        expected_share(plan.book, plan.spec.epsilon),
        plan.book.lookup,
        {"labels": "by labels", "model": "against the whole model", "variance": "of the variance"}[plan.book.truth],
    )


def _why(cut: Cut, epsilon: float) -> str:
    """Where ``auto`` has its choice from."""
    measured = cut.allocation_at(epsilon)
    if measured is None:
        return " (auto: by formula, this bundle has no measurement)"
    return f" (auto: best of {len(measured.trials)} measured at epsilon {measured.epsilon:g})"


def make_link(
    config: Config,
    bundle: Bundle,
    keys: KeyPair,
    boot_id: str,
    closing: contextlib.ExitStack,
    *,
    beat: Callable[[], None] = lambda: None,
) -> Offload:
    """The link thread, not started yet; ``closing`` ends its sockets. See `Offload` for ``beat``."""
    transport = Transport(
        config.server.address,
        keys=keys,
        server_keys=config.server_keys,
        max_answer_bytes=sum(spec.nbytes for spec in bundle.manifest.outputs),
    )
    closing.callback(transport.terminate)
    session = DeviceSession(boot_id=boot_id, software=f"edge-runtime {__version__}")
    return Offload(transport, session, beat=beat)
