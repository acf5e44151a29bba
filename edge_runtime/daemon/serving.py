"""One config in force: bundle, heads, link and frame loop, from their start until another takes their place."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edge_runtime.board.board import Board
from edge_runtime.board.cpu_load import LoadEstimator
from edge_runtime.config.config import Config
from edge_runtime.daemon.assembly import (
    Plans,
    allowed_cuts,
    find_profile,
    make_board,
    make_heads,
    make_link,
    make_planner,
    make_rests,
    say_privacy,
)
from edge_runtime.inference.heads import Heads
from edge_runtime.inference.local_tails import Rests
from edge_runtime.inference.memory import give_back
from edge_runtime.inference.profile import Profile
from edge_runtime.link.link_thread import Link
from edge_runtime.link.view import LinkView
from edge_runtime.loop.counters import Counters
from edge_runtime.loop.frame_loop import FrameLoop
from edge_runtime.loop.pipeline import Pipeline
from edge_runtime.loop.records import Records
from edge_runtime.loop.runtime import Runtime
from edge_runtime.planner.planner import Planner
from edge_runtime.privacy.ledger import Account
from split_model.bundle import Bundle
from split_model.protocol.keys import KeyPair
from split_model.service.heartbeats import Heartbeats, WatchedPool

log = logging.getLogger(__name__)

#: A head is loaded within so long, whatever the card it lies on.
_HEAD_WITHIN_S = 300.0
#: Work that takes so many times longer than it should is stuck.
_STUCK_AFTER = 20.0


@dataclass(frozen=True)
class Program:
    """What outlives a config: the counters, and the watch over what should be over by some time.

    ``patience_s``: how late anything may be, at least, before it counts as stuck. ``board`` and ``planner`` take
    the place of the configured ones, for tests that force them.
    """

    counters: Counters
    beats: Heartbeats
    patience_s: float
    stopped: Callable[[], bool]
    doing: Callable[[str], None]
    board: Board | None = None
    planner: Planner | None = None


class Serving:
    """Make one with `start`; iterate over ``runtime.run``; `close` it."""

    def __init__(self, config: Config, bundle: Bundle, profile: Profile, account: Account) -> None:
        self.config = config
        self.bundle = bundle
        self.account = account
        self.records = Records(bundle)
        self.link: Link
        self.runtime: FrameLoop
        self._profile = profile
        self._closing = contextlib.ExitStack()
        self._link_alive = contextlib.ExitStack()

    @classmethod
    def start(
        cls,
        config: Config,
        bundle: Bundle,
        *,
        plans: Plans,
        keys: KeyPair,
        account: Account,
        program: Program,
        keep_profile: bool = True,
    ) -> Serving | None:
        """Load everything, run the whole model once, and start the link; None if ``program.stopped`` came first.

        ``keep_profile``: whether a profile that has to be measured is one of an idle board, and worth keeping.
        """
        say_privacy(config, bundle, plans)
        allowed = allowed_cuts(config, bundle)
        board = program.board or make_board(config)
        with contextlib.ExitStack() as closing:
            program.doing("loading the model")
            loader = WatchedPool("heads", program.beats, within_s=lambda: _HEAD_WITHIN_S)
            heads = make_heads(config, bundle, plans, loader=loader)
            closing.callback(heads.close)

            def progress(text: str) -> None:
                program.doing(f"measuring this board: {text}")
                program.beats.expect("measuring this board", within_s=_HEAD_WITHIN_S)
                log.info("%s", text)

            try:
                profile = find_profile(
                    config, bundle, heads, board, program.stopped, progress=progress, keep=keep_profile
                )
            finally:  # what was refused must not starve the watchdog of the config that stays in force
                program.beats.done("measuring this board")
            if profile is None:
                return None
            # A stored profile says nothing of whether the model runs today.
            heads.whole.run([np.zeros(spec.shape, spec.dtype) for spec in bundle.manifest.inputs])
            serving = cls(config, bundle, profile, account)
            planner = program.planner or make_planner(config, bundle, profile, allowed)
            rests = make_rests(config, bundle, heads, profile, loader)
            serving._start_loop(heads, board, rests, keys=keys, program=program, planner=planner, closing=closing)
            serving._closing = closing.pop_all()
            gc.collect()
            give_back(heads.whole)
            return serving

    @property
    def frame_within_s(self) -> float:
        """How long one frame may take before something must be stuck: its deadline, and local runs behind it."""
        return self.config.planner.answer_within_s + _STUCK_AFTER * self._profile.local.head_p95_s

    def close(self) -> LinkView:
        """End the link and everything else; the last view of the link, for its counts."""
        try:
            return self.link.stop()
        finally:
            self._link_alive.close()  # it beats no more, and what is closed next may take its time
            self._closing.close()

    def abandon(self) -> None:
        """Close one that never answered a frame, whatever became of its link."""
        self._closing.close()

    def _start_loop(
        self,
        heads: Heads,
        board: Board,
        rests: Rests | None,
        *,
        keys: KeyPair,
        program: Program,
        planner: Planner,
        closing: contextlib.ExitStack,
    ) -> None:
        config, bundle, beats = self.config, self.bundle, program.beats
        boot_id = os.urandom(16).hex()

        # During a reload two links live side by side, to the same address.
        closing.callback(self._link_alive.close)
        beat = self._link_alive.enter_context(
            beats.alive(f"the link to {config.server.address}", within_s=program.patience_s)
        )
        self.link = make_link(config, bundle, keys, boot_id, closing, beat=beat)
        cpus = os.cpu_count() or 1
        run_s = max(program.patience_s, _STUCK_AFTER * self._profile.local.head_p95_s)
        loop: type[FrameLoop] = Pipeline if config.planner.objective == "throughput" else Runtime
        self.runtime = loop(
            bundle=bundle,
            heads=heads,
            board=board,
            planner=planner,
            link=self.link,
            profile=self._profile,
            boot_id=boot_id,
            answer_within_s=config.planner.answer_within_s,
            load=LoadEstimator(board.cpu_load, cpus=cpus, threads=config.device.threads),
            account=self.account,
            counters=program.counters,
            finisher=WatchedPool("local", beats, within_s=lambda: run_s),
            watch=lambda: beats.work("the board", within_s=run_s),
            rests=rests,
            may_hedge=config.planner.hedge,
        )
        self.link.start()
        closing.callback(self.link.end)
        closing.callback(self.runtime.close)


class InForce:
    """Which `Serving` answers: the frame loop takes turns with it, and another one can be put in its place."""

    def __init__(self, account: Account) -> None:
        self.serving: Serving
        self._account = account
        self._lock = threading.Lock()  # whoever takes one out of its place, and only they, retires it
        self._turn: Serving | None = None
        self._retiring: list[threading.Thread] = []

    def close(self) -> None:
        """Give the rest of the ledger's block back, whatever else hangs; then close what is or was in force."""
        serving = getattr(self, "serving", None)
        (self._account if serving is None else serving.account).close()
        for thread in self._retiring:
            thread.join()
        if serving is not None:
            if self._turn is not None and self._turn is not serving:
                self._turn.close()
            serving.close()

    @property
    def changed(self) -> bool:
        """Whether the frame loop's turn is with one that is no longer in force."""
        return self._turn is not self.serving

    def put(self, serving: Serving) -> None:
        """Another one, from the next frame on; one that never got a turn is closed."""
        with self._lock:
            left, self.serving = self.serving, serving
            if left is not self._turn:
                self._retire(left)

    def take_turn(self, counters: Counters) -> Serving:
        """The one in force. The one before is closed meanwhile: no frame has to wait for that."""
        with self._lock:
            left, self._turn = self._turn, self.serving
            taken = self._turn
            if left is not None and left is not taken:
                view = left.link.view()
                counters.link(late=view.late, reconnects=view.reconnects)
                counters.next_link()
                self._retire(left)
        return taken

    def _retire(self, left: Serving) -> None:
        self._retiring = [thread for thread in self._retiring if thread.is_alive()]
        thread = threading.Thread(target=left.close, name="retiring")
        thread.start()
        self._retiring.append(thread)
