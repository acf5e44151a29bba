"""Opens the models of a device: the board, heads, measured profile, and local tails."""

from __future__ import annotations

import contextlib
import logging
import os
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from edge_runtime.board.board import Board
from edge_runtime.daemon.plan import Plan
from edge_runtime.daemon.program import Program
from edge_runtime.inference import profile as profiles
from edge_runtime.inference.heads import Heads
from edge_runtime.inference.local_tails import LocalTails, open_tails
from edge_runtime.inference.model_files import ModelFiles
from edge_runtime.inference.profile import Profile
from edge_runtime.privacy.release import Release
from split_model.service.heartbeats import WatchedPool

log = logging.getLogger(__name__)

#: Seconds within which a head must be loaded, even from a slow memory card.
_HEAD_WITHIN_S = 300.0


@dataclass(frozen=True)
class LoadedModels:
    """The board with its heads, local tails and profile. ``loader``: the thread that loads them."""

    board: Board
    heads: Heads
    profile: Profile
    tails: LocalTails | None

    @classmethod
    def open(
        cls, plan: Plan, program: Program, closing: contextlib.ExitStack, *, keep_profile: bool
    ) -> LoadedModels | None:
        """Load the whole model, measure the board unless that was done, and run the model once.

        Returns None if the program received a stop signal meanwhile. ``keep_profile``: store a profile that had to
        be measured; false where the board answers frames at the same time.
        """
        config, bundle = plan.config, plan.bundle
        board = program.make_board(config.emulation.slowdown)
        program.doing("loading the model")
        loader = WatchedPool("heads", program.beats, within_s=lambda: _HEAD_WITHIN_S)
        heads = open_heads(plan, closing, loader=loader)
        profile = _profile(plan, heads, board, program, keep=keep_profile)
        if profile is None:
            return None
        heads_ms = [timing.head_s * 1e3 for timing in profile.splits[:-1] if timing.head_s]
        if heads_ms:
            span = min(heads_ms), max(heads_ms), profile.local.head_s * 1e3
            log.info("on this board a head takes %.2g to %.2g ms, the whole model %.2g ms", *span)
        # A stored profile says nothing of whether the model runs today.
        heads.whole.run([np.zeros(spec.shape, spec.dtype) for spec in bundle.manifest.inputs])
        # The longest time of a local tail was not measured: with slots, local runs use the whole model.
        paced = config.release.pace == "fixed"
        decides_late = config.planner.split == "auto" and config.planner.objective == "latency" and not paced
        if paced:
            profile = profile.in_slots()
        tails = None if not decides_late else open_tails(
            bundle,
            heads,
            profile,
            backend=config.device.backend,
            threads=config.device.threads,
            memory_bytes=int(config.device.local_tail_memory_mb * 1e6),
            loader=loader,
        )  # fmt: skip
        return cls(board, heads, profile, tails)


def open_heads(
    plan: Plan, closing: contextlib.ExitStack, *, loader: Executor | None = None, keep_copies: bool = True
) -> Heads:
    """Open the heads of a bundle and load the whole model; ``loader`` loads the others in the background.

    ``keep_copies``: see `ModelFiles`; false for a command that must not change the state folder.
    """
    config, bundle = plan.config, plan.bundle
    memory_mb = config.device.head_memory_mb
    heads = Heads(
        ModelFiles(bundle, config.device.state if keep_copies else None),
        lambda cut: Release(cut, plan.releases[cut.index], entropy=os.urandom, root=bundle.root),
        backend=config.device.backend,
        threads=config.device.threads,
        memory_bytes=None if memory_mb is None else int(memory_mb * 1e6),
        loader=loader,
    )
    closing.callback(heads.close)
    return heads


def _profile(plan: Plan, heads: Heads, board: Board, program: Program, *, keep: bool) -> Profile | None:
    """Find the stored profile of this board, or measure a new one if none fits."""
    measuring = "measuring this board"

    def progress(text: str) -> None:
        program.doing(f"{measuring}: {text}")
        program.beats.expect(measuring, within_s=_HEAD_WITHIN_S)
        log.debug("%s", text)

    config = plan.config
    try:
        return profiles.find(
            profiles.path_in(config.device.state, plan.bundle.identity),
            plan.bundle,
            heads,
            board,
            release=config.release.name,
            threads=config.device.threads,
            slots=config.release.pace == "fixed",
            stopped=program.stopped,
            progress=progress,
            keep=keep,
        )
    finally:  # a refused reload must not starve the watchdog of the device in force
        program.beats.done(measuring)
