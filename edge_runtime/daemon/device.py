"""The composition root: makes each part of a device once, in order, and closes them in reverse.

    plan      bundle, cuts, release plans: `daemon.plan`
    account   the ledger, and what a frame costs
    models    board, heads, measured profile, local tails
    links     the connection to each server
    planner
    loop      the frame loop

`run` and a reload open all of it with `Device.open`. `bench`, `doctor`, `config check` and `keys switch` need a
part of it, and open that part with the same functions: `Plan.of`, `models.open_heads`, `open_link`.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

from edge_runtime.board.board import RealBoard
from edge_runtime.board.cpu_load import LoadEstimator
from edge_runtime.board.cpu_quota import allowed_cpus
from edge_runtime.board.load_watch import LoadReader, LoadWatch
from edge_runtime.config.config import Config, ServerTable
from edge_runtime.daemon.models import LoadedModels
from edge_runtime.daemon.plan import Plan, fixed_values, refuse_what_cannot_change
from edge_runtime.daemon.program import Program
from edge_runtime.daemon.sources import refuse_if_none_works
from edge_runtime.inference.memory import give_back
from edge_runtime.inference.profile import Profile
from edge_runtime.link.link_thread import Link
from edge_runtime.link.link_view import LinkView
from edge_runtime.link.transport import Transport
from edge_runtime.loop import board_work
from edge_runtime.loop.driver import Driver, Outside, Settings
from edge_runtime.loop.records import Records
from edge_runtime.planner.planner import Planner
from edge_runtime.planner.prediction import SplitProfile
from edge_runtime.privacy.claims import claims
from edge_runtime.privacy.ledger import Account, system_now
from edge_runtime.privacy.ledger.opening import open_account
from split_model import __version__
from split_model.protocol import messages as wire
from split_model.protocol.device import DeviceSession
from split_model.protocol.keys import KeyPair
from split_model.service.terminal_text import counted

log = logging.getLogger(__name__)

#: Work counts as stuck after this many times its expected duration.
_STUCK_AFTER = 20.0


@dataclass(frozen=True)
class Device:
    """A running device with one config. Make it with `open`, iterate over ``loop.run``, then `close` it."""

    plan: Plan
    account: Account
    models: LoadedModels
    links: tuple[Link, ...]
    loop: Driver
    records: Records
    closing: contextlib.ExitStack

    @classmethod
    def open(cls, config: Config, program: Program, *, replaces: Device | None = None) -> Device | None:
        """Open every part in order, ready for the first frame; if one fails, the parts before it are closed.

        Args:
            config: What to open.
            program: The parts that all devices of this process share, one after the other.
            replaces: The device in force, for a reload: the new one is opened beside it, on the same ledger.

        Returns:
            The device, its link threads running, or None if the program was told to stop before it was ready.

        Raises:
            SplitModelError: A part cannot be opened, or this config needs a restart of the program.

        """
        plan = Plan.of(config)
        if replaces is None:
            plan.check_board()
            refuse_if_none_works(plan, persistent=program.persistent)
        else:
            refuse_what_cannot_change(fixed_values(replaces.plan), plan)
            plan.check_changes(replaces.plan)
        keys = plan.read_keys()
        bundle = plan.bundle
        log.info(
            "%s (%s): %s", bundle.manifest.name, bundle.identity[:12], counted(len(bundle.manifest.cuts), "cut")
        )
        log.log(logging.WARNING if None in plan.releases.values() else logging.INFO, "privacy: %s", plan.privacy)
        for line in claims(plan.bundle.manifest.cuts, plan.releases, config.release):
            log.log(line.level, "%s", line.text)
        for told in plan.cut_lines():
            log.log(told.level, "%s", told.text)
        with contextlib.ExitStack() as closing:
            account = _account(plan, replaces)
            closing.callback(account.close)
            models = LoadedModels.open(plan, program, closing, keep_profile=replaces is None)
            if models is None:
                return None
            boot_id = os.urandom(16).hex()
            links = _open_links(plan, keys, closing, program=program, boot_id=boot_id)
            planner = make_planner(plan, models.profile)
            loop = make_loop(
                plan, account, models, links, planner, program=program, closing=closing, boot_id=boot_id
            )
            for link in links:
                link.wait_until_open()
            records = Records(plan.bundle, servers=[link.address for link in links])
            device = cls(plan, account, models, links, loop, records, closing.pop_all())
        models.heads.files.prune()
        gc.collect()
        give_back(models.heads.whole)
        return device

    @property
    def config(self) -> Config:
        """The config of this device."""
        return self.plan.config

    @property
    def frame_within_s(self) -> float:
        """Seconds after which a frame counts as stuck: its deadline, plus the local runs after it."""
        return self.config.planner.answer_within_s + _STUCK_AFTER * self.models.profile.local.head_p95_s

    def views(self) -> list[LinkView]:
        """The links now, in the order of the config; raises the error that ended a link thread, if one did."""
        return [link.view() for link in self.links]

    def report(self, report: wire.Report) -> bool:
        """Send a status report to every server; returns whether one of them accepts reports."""
        taken = [link.report(report) for link in self.links]  # call each of them: no short-circuit
        return any(taken)

    def stop_links(self) -> list[LinkView]:
        """End the links; returns their last views, for the counts. Raises the error that ended a link thread."""
        for link in self.links:
            link.stop()
        return self.views()

    def close(self) -> None:
        """Close every part in reverse order; the ledger is closed with the last device that uses it."""
        self.closing.close()


def _open_links(
    plan: Plan, keys: KeyPair, closing: contextlib.ExitStack, *, program: Program, boot_id: str
) -> tuple[Link, ...]:
    """Open the links to all servers; a wait at one of them wakes for news of any."""
    news, links = threading.Condition(), []
    for server in plan.config.servers:
        # Under a name of its own: during a reload two links to one address are up.
        alive = program.beats.alive(f"the link to {server.address}", within_s=program.patience_s)
        beat = closing.enter_context(alive)
        links.append(open_link(plan, server, keys, closing, boot_id=boot_id, beat=beat, news=news))
    return tuple(links)


def open_link(
    plan: Plan,
    server: ServerTable,
    keys: KeyPair,
    closing: contextlib.ExitStack,
    *,
    boot_id: str,
    beat: Callable[[], None] = lambda: None,
    news: threading.Condition | None = None,
) -> Link:
    """Open the link to one server and start its thread.

    Args:
        plan: The bundle, which bounds an answer.
        server: Which server.
        keys: This device's.
        closing: Ends it.
        boot_id: Of this start of the program.
        beat: Called at every turn of the thread.
        news: Shared by the links to several servers.

    """
    transport = Transport(
        server.address,
        keys=keys,
        server_keys=server.keys,
        max_answer_bytes=sum(spec.nbytes for spec in plan.bundle.manifest.outputs),
    )
    session = DeviceSession(boot_id=boot_id, software=f"edge-runtime {__version__}")
    link = Link(transport, session, beat=beat, news=news)

    def close() -> None:
        if link.stop():  # if it hangs, its thread still uses the sockets
            transport.terminate()

    closing.callback(close)
    link.start()
    return link


def make_planner(plan: Plan, profile: Profile) -> Planner:
    """Make the planner over the cuts that the config allows."""
    local, table = plan.bundle.local, plan.config.planner
    splits = [
        SplitProfile(timing.split, timing.head_s, timing.release_s, timing.payload_bytes)
        for timing in profile.splits
        if timing.split in plan.allowed or timing.split == local
    ]
    fixed = {"auto": None, "local": local}.get(table.split) if isinstance(table.split, str) else table.split
    if fixed is not None and fixed not in plan.allowed:
        fixed = local  # a cut below the accuracy floor, which the log names
    return Planner(splits, local=local, hysteresis=table.hysteresis, fixed=fixed, objective=table.objective)


def make_loop(
    plan: Plan,
    account: Account,
    models: LoadedModels,
    links: tuple[Link, ...],
    planner: Planner,
    *,
    program: Program,
    closing: contextlib.ExitStack,
    boot_id: str,
) -> Driver:
    """Make the frame loop over all the other parts."""
    table, beats = plan.config.planner, program.beats
    run_s = max(program.patience_s, _STUCK_AFTER * models.profile.local.head_p95_s)
    load = _watched_load(plan, models, closing)
    loop = Driver(
        board_work.Models(plan.bundle, models.heads, models.tails),
        Outside(
            board=models.board,
            account=account,
            links=links,
            boot_id=boot_id,
            watch=lambda: beats.work("the board", within_s=run_s),
        ),
        planner=planner,
        profile=models.profile,
        load=load,
        settings=Settings(table.answer_within_s, may_hedge=table.hedge, paced=plan.config.release.pace == "fixed"),
        counters=program.counters,
    )
    closing.callback(loop.close)
    return loop


def _watched_load(plan: Plan, models: LoadedModels, closing: contextlib.ExitStack) -> LoadEstimator:
    """Start to watch the board's load; always 1 on an emulated board."""
    threads = plan.config.device.threads
    cpus = os.cpu_count() or 1
    load = LoadEstimator(models.profile.speed, cpus=cpus, allowed=allowed_cpus(), threads=threads)
    if isinstance(models.board, RealBoard):
        watch = LoadWatch(LoadReader(models.board), load)
        watch.start()
        closing.callback(watch.stop)
    return load


def _account(plan: Plan, replaces: Device | None) -> Account:
    """Open the account: the ledger of the device in force, or a new one, which is retried if it does not open."""
    if replaces is not None and replaces.account.ledger_state is not None:
        return replaces.account.sharing(plan.costs)
    config = plan.config
    subjects = [source.subject for source in config.sources]
    return open_account(config.device.state, config.limits, costs=plan.costs, subjects=subjects, now=system_now())
