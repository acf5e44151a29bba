"""Puts the device program together from its config, runs it, and takes it apart again.

This is the rim: the only place where the clock, the operating system's entropy and the sockets are handed in.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
from pathlib import Path
from typing import Any

from edge_runtime import profile as profiles
from edge_runtime.conditions.board import Board, EmulatedBoard, RealBoard
from edge_runtime.conditions.load import LoadEstimator
from edge_runtime.config import Config
from edge_runtime.heads import Heads
from edge_runtime.offload import Offload
from edge_runtime.planner import Hysteresis, Planner, SplitProfile
from edge_runtime.profile import Profile
from edge_runtime.release import Release
from edge_runtime.runtime import Runtime, Step
from edge_runtime.sinks import JsonLines, answer_fields
from edge_runtime.sources import frames
from edge_runtime.transport import Transport
from split_model import __version__
from split_model.bundle import Bundle
from split_model.errors import ConfigError
from split_model.features.data import Data, open_data, read_labels
from split_model.keys import read_pair
from split_model.protocol.device import DeviceSession

log = logging.getLogger(__name__)


def run(config: Config) -> int:
    """Answer frames until the source ends or SIGTERM or SIGINT comes; returns the exit code."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    bundle = _open_bundle(config)
    data = _open_source(config, bundle)
    keys = read_pair(config.device.key)
    sink = JsonLines(config.sink.path)
    board = _board(config)
    heads = _heads(config, bundle)
    profile = _profile(config, bundle, heads, board)
    _say_privacy(config, bundle)
    boot_id = secrets.token_hex(16)
    transport = Transport(
        config.server.address,
        keys=keys,
        server_keys=config.server_keys,
        max_answer_bytes=sum(spec.nbytes for spec in bundle.manifest.outputs),
    )
    session = DeviceSession(boot_id=boot_id, software=f"edge-runtime {__version__}")
    offload = Offload(transport, session)
    cpus = os.cpu_count() or 1
    runtime = Runtime(
        bundle=bundle,
        heads=heads,
        board=board,
        planner=_planner(config, bundle, profile),
        offload=offload,
        profile=profile,
        boot_id=boot_id,
        answer_within_s=config.planner.answer_within_s,
        load=LoadEstimator(board.cpu_load, cpus=cpus, threads=config.device.threads),
    )
    offload.start()
    source = frames(data, repeat=config.source.repeat, interval_s=config.source.interval_s, stopped=stop.is_set)
    records = _Records(bundle)
    try:
        for step in runtime.run(source):
            for record in records.of(step):
                sink.write(record)
    finally:
        runtime.close()
        offload.stop()
        transport.terminate()
        heads.close()
        sink.close()
    counters = runtime.counters.as_dict()
    log.info("done: %s", " ".join(f"{key}={value:g}" for key, value in counters.items()))
    return os.EX_OK


def profile_now(config: Config) -> Profile:
    """Measure the board now and keep the figures, whatever was there before."""
    bundle = _open_bundle(config)
    heads = _heads(config, bundle)
    try:
        measured = _measure(config, bundle, heads, _board(config))
    finally:
        heads.close()
    return measured


def check(config: Config) -> None:
    """Open everything the config names, and raise the first error that `run` would meet."""
    bundle = _open_bundle(config)
    _open_source(config, bundle)
    read_pair(config.device.key)
    for cut in bundle.manifest.cuts:
        Release(cut, config.release.spec, entropy=os.urandom)
    _planner(config, bundle, None)


def _open_bundle(config: Config) -> Bundle:
    bundle = Bundle.open(config.device.bundle)
    offered = [cut.index for cut in bundle.manifest.cuts]
    split = config.planner.split
    if isinstance(split, int) and split not in offered:
        raise ConfigError(f"planner.split = {split}: the bundle offers {offered}, 'local' or 'auto'")
    return bundle


def _labels(bundle: Bundle) -> tuple[str, ...]:
    schema = bundle.manifest.answer
    return read_labels(bundle.path(schema.labels)) if schema is not None and schema.labels is not None else ()


def _open_source(config: Config, bundle: Bundle) -> Data:
    manifest = bundle.manifest
    return open_data(config.source.path, manifest.inputs, manifest.preprocess, _labels(bundle) or None)


def _board(config: Config) -> Board:
    slowdown = config.emulation.slowdown
    if slowdown == 1.0:
        return RealBoard()
    log.warning("EMULATED board: %g times slower than this machine", slowdown)
    return EmulatedBoard(slowdown)


def _heads(config: Config, bundle: Bundle) -> Heads:
    return Heads(
        bundle,
        lambda cut: Release(cut, config.release.spec, entropy=os.urandom),
        backend=config.device.backend,
        threads=config.device.threads,
        memory_bytes=int(config.device.head_memory_mb * 1e6),
    )


def _release_name(config: Config) -> str:
    release = config.release
    if release.mechanism == "none":
        return "none"
    return f"noise epsilon={release.epsilon:g} {release.allocation} bits={release.bits}"


def _profile_path(config: Config, bundle: Bundle) -> Path:
    return config.device.state / f"profile-{bundle.identity[:16]}.json"


def _measure(config: Config, bundle: Bundle, heads: Heads, board: Board) -> Profile:
    log.info("measuring %d cuts on this board", len(bundle.manifest.cuts))
    profile = profiles.measure(bundle, heads, board, release=_release_name(config), threads=config.device.threads)
    profiles.store(_profile_path(config, bundle), profile)
    return profile


def _profile(config: Config, bundle: Bundle, heads: Heads, board: Board) -> Profile:
    """The stored profile if it still fits, else a new one."""
    stored = profiles.load(_profile_path(config, bundle))
    wanted = (bundle.identity, heads.whole.backend, config.device.threads, board.slowdown, _release_name(config))
    if stored is not None:
        found = (stored.bundle, stored.backend, stored.threads, stored.slowdown, stored.release)
        if found == wanted:
            return stored
    return _measure(config, bundle, heads, board)


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
        raise ConfigError(
            f"planner.split = {fixed} precedes planner.earliest_cut = {earliest}; change one of them"
        )
    hysteresis = Hysteresis(min_gain=config.planner.min_gain, dwell_s=config.planner.dwell_s)
    return Planner(splits, local=bundle.local, hysteresis=hysteresis, fixed=fixed)


def _say_privacy(config: Config, bundle: Bundle) -> None:
    """Print both claims for every cut: no number goes without its unit."""
    for cut in bundle.manifest.cuts:
        release = Release(cut, config.release.spec, entropy=os.urandom)
        if not release.protected:
            log.warning("cut %d: features leave UNPROTECTED, release.mechanism is 'none'", cut.index)
            continue
        log.info(
            "cut %d: %d values; per-value epsilon at most %.2f, mean %.2f; whole-input epsilon %.0f a frame",
            cut.index,
            cut.values,
            release.per_value_epsilon_max,
            release.per_value_epsilon_mean,
            release.whole_input_epsilon,
        )


class _Records:
    """JSON records of what the loop did: one ``frame`` each, and a ``decision`` where the split point moved."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._labels = _labels(bundle)
        self._split = bundle.local

    def of(self, step: Step) -> list[dict[str, Any]]:
        """The records of one step."""
        records = []
        if step.decision.moved:
            records.append(self._decision(step))
        records.append(self._frame(step))
        self._split = step.decision.split
        return records

    def _frame(self, step: Step) -> dict[str, Any]:
        result, estimate = step.result, step.view.estimate
        rate = estimate.uplink_bytes_s
        record: dict[str, Any] = {
            "kind": "frame",
            "index": result.frame.index,
            "name": result.frame.name,
            "captured_s": result.frame.captured_s,
            "split": result.split,
            "how": result.how,
            "latency_s": result.latency_s,
            "payload_bytes": result.payload_bytes,
            "uplink_mbit_s": None if rate is None else rate * 8e-6,
            "rtt_s": estimate.rtt_s,
            "load": step.load,
            "cpu_load": step.cpu_load,
            **result.parts,
        }
        if result.error:
            record["error"] = result.error
        else:
            record |= answer_fields(result.outputs, self._bundle.manifest.answer, self._labels)
        return record

    def _decision(self, step: Step) -> dict[str, Any]:
        decision = step.decision
        return {
            "kind": "decision",
            "at_s": step.result.frame.captured_s,
            "from": self._split,
            "to": decision.split,
            "why": decision.why,
            "predicted_s": {str(p.split): round(p.total_s, 4) for p in decision.predictions},
        }
