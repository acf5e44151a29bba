"""Puts the device program together from its config, runs it, and takes it apart again.

This is the rim: the only place where the clock, the operating system's entropy and the sockets are handed in.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from edge_runtime import profile as profiles
from edge_runtime.bench import command as bench_command
from edge_runtime.bench.command import Options, Parts
from edge_runtime.bench.figures import LinkFigures, Report
from edge_runtime.bench.link import LinkBench, Sample
from edge_runtime.conditions.board import Board, EmulatedBoard, RealBoard
from edge_runtime.conditions.load import LoadEstimator
from edge_runtime.conditions.sensors import Sensors
from edge_runtime.config import Config
from edge_runtime.heads import Heads
from edge_runtime.ledger import Account, system_now
from edge_runtime.ledger.opening import open_account
from edge_runtime.offload import NOT_YET, Offload
from edge_runtime.pipeline import Pipeline
from edge_runtime.planner import Hysteresis, Planner, SplitProfile
from edge_runtime.profile import Profile
from edge_runtime.records import Records, labels_of
from edge_runtime.release import Release, plan_for
from edge_runtime.runtime import Runtime
from edge_runtime.sinks import JsonLines
from edge_runtime.sources import frames
from edge_runtime.transport import Transport
from split_model import __version__
from split_model.bundle import Bundle
from split_model.errors import ConfigError
from split_model.features.data import Data, open_data
from split_model.keys import KeyPair, read_pair
from split_model.privacy import NoisePlan
from split_model.protocol.device import DeviceSession

log = logging.getLogger(__name__)

#: By the cut's op index; None where features leave unprotected.
Plans = dict[int, NoisePlan | None]


def run(config: Config, *, planner: Planner | None = None) -> int:
    """Answer frames until the source ends or SIGTERM or SIGINT comes; returns the exit code.

    ``planner`` decides instead of the configured one, for tests that force it.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    bundle = _open_bundle(config)
    data = _open_source(config, bundle)
    keys = read_pair(config.device.key)
    plans = _plans(config, bundle)
    _say_privacy(bundle, plans)
    board = _board(config)
    with contextlib.ExitStack() as closing:
        account = open_account(config, plans, now=system_now())
        closing.callback(account.close)
        heads = _heads(config, bundle, plans)
        closing.callback(heads.close)
        profile = _profile(config, bundle, heads, board, stop.is_set)
        if profile is None:
            return os.EX_OK
        sink = JsonLines(config.sink.path)
        closing.callback(sink.close)
        runtime, offload = _start(
            config=config,
            bundle=bundle,
            heads=heads,
            board=board,
            profile=profile,
            keys=keys,
            account=account,
            planner=planner or _planner(config, bundle, profile),
            closing=closing,
        )
        source = frames(data, repeat=config.source.repeat, interval_s=config.source.interval_s, stopped=stop.is_set)
        records = Records(bundle)
        for step in runtime.run(source):
            for record in records.of(step):
                sink.write(record)
        counters = runtime.counters
        # Answers may have come late after the last frame.
        view = offload.stop()
        counters.late, counters.reconnects = view.late, view.reconnects
    if view.trouble == NOT_YET:  # any other trouble was told when it came
        log.warning("%s was not reached before the last frame", config.server.address)
    log.info("done: %s", " ".join(f"{key}={value:g}" for key, value in counters.as_dict().items()))
    return os.EX_OK


def _start(
    *,
    config: Config,
    bundle: Bundle,
    heads: Heads,
    board: Board,
    profile: Profile,
    keys: KeyPair,
    account: Account,
    planner: Planner,
    closing: contextlib.ExitStack,
) -> tuple[Runtime, Offload]:
    """The frame loop, and the link thread, started; ``closing`` ends both."""
    boot_id = secrets.token_hex(16)
    offload = _link(config, bundle, keys, boot_id, closing)
    cpus = os.cpu_count() or 1
    frame_loop = Pipeline if config.planner.objective == "throughput" else Runtime
    runtime = frame_loop(
        bundle=bundle,
        heads=heads,
        board=board,
        planner=planner,
        offload=offload,
        profile=profile,
        boot_id=boot_id,
        answer_within_s=config.planner.answer_within_s,
        load=LoadEstimator(board.cpu_load, cpus=cpus, threads=config.device.threads),
        account=account,
        # Without a core to spare, a second run at the same time would only slow the first one.
        hedge_above=config.planner.hedge_above if cpus > config.device.threads else 1.0,
    )
    offload.start()
    closing.callback(offload.end)
    closing.callback(runtime.close)
    return runtime, offload


def _link(config: Config, bundle: Bundle, keys: KeyPair, boot_id: str, closing: contextlib.ExitStack) -> Offload:
    """The link thread, not started yet; ``closing`` ends its sockets."""
    transport = Transport(
        config.server.address,
        keys=keys,
        server_keys=config.server_keys,
        max_answer_bytes=sum(spec.nbytes for spec in bundle.manifest.outputs),
    )
    closing.callback(transport.terminate)
    return Offload(transport, DeviceSession(boot_id=boot_id, software=f"edge-runtime {__version__}"))


def bench(config: Config, options: Options) -> Report:
    """Measure this board and, unless told not to, the link; keep the profile for `run`."""
    sensors = Sensors()
    rss_before_bytes = sensors.read().rss_bytes
    bundle = _open_bundle(config)
    with contextlib.ExitStack() as closing:
        heads = _heads(config, bundle, _plans(config, bundle))
        closing.callback(heads.close)
        parts = Parts(
            bundle=bundle,
            heads=heads,
            board=_board(config),
            sensors=sensors,
            earliest_cut=config.planner.earliest_cut,
            release=_release_name(config),
            threads=config.device.threads,
            objective=config.planner.objective,
            rss_before_bytes=rss_before_bytes,
        )

        def measure_link(samples: Mapping[int, Sample]) -> tuple[LinkFigures, dict[int, float]]:
            boot_id = secrets.token_hex(16)
            offload = _link(config, bundle, read_pair(config.device.key), boot_id, closing)
            offload.start()
            closing.callback(offload.end)
            return LinkBench(offload, config.server.address, bundle.identity, boot_id).measure(samples)

        report, profile = bench_command.run(parts, options, measure_link, log.info)
    profiles.store(_profile_path(config, bundle), profile)
    return report


def check(config: Config) -> None:
    """Open everything the config names, and raise the first error that `run` would meet."""
    bundle = _open_bundle(config)
    _open_source(config, bundle)
    read_pair(config.device.key)
    _plans(config, bundle)
    _planner(config, bundle, None)


def _open_bundle(config: Config) -> Bundle:
    bundle = Bundle.open(config.device.bundle)
    offered = [cut.index for cut in bundle.manifest.cuts]
    split = config.planner.split
    if isinstance(split, int) and split not in offered:
        raise ConfigError(f"planner.split = {split}: the bundle offers {offered}, 'local' or 'auto'")
    return bundle


def _open_source(config: Config, bundle: Bundle) -> Data:
    manifest = bundle.manifest
    return open_data(config.source.path, manifest.inputs, manifest.preprocess, labels_of(bundle) or None)


def _board(config: Config) -> Board:
    slowdown = config.emulation.slowdown
    if slowdown == 1.0:
        return RealBoard()
    log.warning("EMULATED board: %g times slower than this machine", slowdown)
    return EmulatedBoard(slowdown)


def _plans(config: Config, bundle: Bundle) -> Plans:
    """Every cut's release plan, made once: a head that comes back after a while needs it again."""
    return {cut.index: plan_for(cut, config.release.spec) for cut in bundle.manifest.cuts}


def _heads(config: Config, bundle: Bundle, plans: Plans) -> Heads:
    return Heads(
        bundle,
        lambda cut: Release(cut, plans[cut.index], entropy=os.urandom),
        backend=config.device.backend,
        threads=config.device.threads,
        memory_bytes=int(config.device.head_memory_mb * 1e6),
    )


def _release_name(config: Config) -> str:
    spec = config.release.spec
    return "none" if spec is None else f"noise epsilon={spec.epsilon:g} {spec.allocation} bits={spec.bits}"


def _profile_path(config: Config, bundle: Bundle) -> Path:
    return config.device.state / f"profile-{bundle.identity[:16]}.json"


def _measure(
    config: Config, bundle: Bundle, heads: Heads, board: Board, stopped: Callable[[], bool]
) -> Profile | None:
    log.info("measuring %d cuts on this board", len(bundle.manifest.cuts))
    profile = profiles.measure(
        bundle, heads, board, release=_release_name(config), threads=config.device.threads, stopped=stopped
    )
    if profile is not None:
        profiles.store(_profile_path(config, bundle), profile)
    return profile


def _profile(
    config: Config, bundle: Bundle, heads: Heads, board: Board, stopped: Callable[[], bool]
) -> Profile | None:
    """The stored profile if it still fits, else a new one; None if ``stopped`` held before it was there."""
    stored = profiles.load(_profile_path(config, bundle))
    splits = [*(cut.index for cut in bundle.manifest.cuts), bundle.local]
    wanted = (bundle.identity, heads.whole.backend, config.device.threads, board.slowdown, _release_name(config))
    if stored is not None and [timing.split for timing in stored.splits] == splits:
        found = (stored.bundle, stored.backend, stored.threads, stored.slowdown, stored.release)
        if found == wanted:
            return stored
    return _measure(config, bundle, heads, board, stopped)


def _planner(config: Config, bundle: Bundle, profile: Profile | None) -> Planner:
    """The planner over the cuts that the config allows; without a profile, only to check the config."""
    earliest = config.planner.earliest_cut
    allowed = [cut.index for cut in bundle.manifest.cuts if cut.index >= earliest]
    splits = [
        SplitProfile(timing.split, timing.head_s, timing.release_s, timing.payload_bytes)
        for timing in (profile.splits if profile is not None else ())
        if timing.split in allowed or timing.split == bundle.local
    ] or [SplitProfile(split, 0.0) for split in (*allowed, bundle.local)]
    split = config.planner.split
    fixed = {"auto": None, "local": bundle.local}.get(split) if isinstance(split, str) else split
    if fixed is not None and fixed != bundle.local and fixed not in allowed:
        raise ConfigError(f"planner.split = {fixed} precedes planner.earliest_cut = {earliest}; change one of them")
    hysteresis = Hysteresis(min_gain=config.planner.min_gain, dwell_s=config.planner.dwell_s)
    return Planner(
        splits, local=bundle.local, hysteresis=hysteresis, fixed=fixed, objective=config.planner.objective
    )


def _say_privacy(bundle: Bundle, plans: Plans) -> None:
    """Print both claims for every cut: no number goes without its unit."""
    for cut in bundle.manifest.cuts:
        plan = plans[cut.index]
        if plan is None:
            log.warning("cut %d: features leave UNPROTECTED, release.mechanism is 'none'", cut.index)
            continue
        log.info(
            "cut %d: %d values; per-value epsilon at most %.2f, mean %.2f; whole-input epsilon %.0f a frame",
            cut.index,
            cut.values,
            plan.per_value_epsilon_max,
            plan.per_value_epsilon_mean,
            plan.whole_input_epsilon,
        )
