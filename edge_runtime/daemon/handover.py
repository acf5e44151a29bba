"""Takes up a changed config while frames flow: what can change, and the thread that builds it beside the old."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable

from edge_runtime.config.config import Config
from edge_runtime.daemon.assembly import make_plans, open_bundle
from edge_runtime.daemon.opening import reopen_account
from edge_runtime.daemon.serving import InForce, Program, Serving
from edge_runtime.loop.records import labels_of
from edge_runtime.privacy.ledger import system_now
from edge_runtime.service.reporter import Reporter
from split_model.bundle import Bundle
from split_model.errors import ConfigError, SplitModelError
from split_model.protocol.keys import read_pair
from split_model.service.config_file import as_plain

log = logging.getLogger(__name__)

#: Tables and keys that belong to the start: another source would begin anew, and there is one ledger.
FIXED = ("source", "sink", "device.state", "device.status")
#: The new link gets so long to come up before it takes over from one that is up.
_LINK_WITHIN_S = 3.0


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


def refuse_other_inputs(old: Bundle, new: Bundle) -> None:
    """The source goes on as it was opened: `ConfigError` where the new model wants something else of it."""
    was, will = old.manifest, new.manifest
    if (was.inputs, was.preprocess, labels_of(old)) != (will.inputs, will.preprocess, labels_of(new)):
        raise ConfigError(
            f"device.bundle: {new.root} takes other inputs, pre-processing or labels than the bundle in force; "
            "restart the service to change to it"
        )


class Reloader(threading.Thread):
    """Reads the config again for each item in ``hangups``, and puts what comes of it in force.

    ``reread`` reads the config. Whatever is wrong with it, the one in force stays in force.
    """

    def __init__(
        self,
        reread: Callable[[], Config],
        hangups: queue.SimpleQueue[bool],
        in_force: InForce,
        program: Program,
        reporter: Reporter,
    ) -> None:
        super().__init__(name="reload", daemon=True)
        self._reread = reread
        self._hangups = hangups
        self._in_force = in_force
        self._program = program
        self._reporter = reporter

    def stop(self) -> None:
        """End the thread, after the reload that it is at."""
        self._hangups.put(False)
        self.join()

    def run(self) -> None:
        """Reload, until `stop`."""
        while self._hangups.get():
            while not self._hangups.empty():  # several signals in a row ask for the same
                if not self._hangups.get():
                    return
            self._reporter.enter("reloading")
            try:
                self._reload()
            except SplitModelError as error:
                self._refused(str(error))
            except Exception as error:
                log.exception("reload")
                self._refused(f"{type(error).__name__}: {error}")
            if not self._program.stopped():
                self._reporter.enter("running")

    def _refused(self, why: str) -> None:
        self._reporter.reload_error = why
        log.error("the changed config is not taken up, the one before stays in force: %s", why)

    def _reload(self) -> None:
        config, old = self._reread(), self._in_force.serving
        if changed := fixed_changes(old.config, config):
            raise ConfigError(f"{', '.join(changed)} cannot change while the program runs; restart the service")
        bundle = open_bundle(config)
        refuse_other_inputs(old.bundle, bundle)
        plans = make_plans(config, bundle)
        keys = read_pair(config.device.key)
        with contextlib.ExitStack() as undo:
            account = reopen_account(old.account, config, plans, now=system_now())
            if old.account.books is None:  # else the ledger is that of the config in force
                undo.callback(account.close)
            started = Serving.start(
                config,
                bundle,
                plans=plans,
                keys=keys,
                account=account,
                program=self._program,
                keep_profile=False,
            )
            if started is None:
                return
            undo.callback(started.abandon)
            started.link.wait_until_open()
            if old.link.view().up:
                self._wait_for_link(started)
            account.limit(config.limits)
            undo.pop_all()
        self._in_force.put(started)
        self._reporter.serve(started)
        self._reporter.reloads += 1
        self._reporter.reload_error = ""
        log.info("the changed config is in force from the next frame on; bundle %s", bundle.manifest.name)

    def _wait_for_link(self, started: Serving) -> None:
        """So that no frame falls back to this board only because of the reload."""
        until_s = time.monotonic() + _LINK_WITHIN_S
        while not started.link.view().up and time.monotonic() < until_s and not self._program.stopped():
            time.sleep(0.02)
