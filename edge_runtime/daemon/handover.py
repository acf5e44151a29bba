"""Applies a changed config while frames flow: opens a new `Device` and puts it in the place of the old."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable

from edge_runtime.config.config import Config
from edge_runtime.daemon.device import Device
from edge_runtime.daemon.plan import Plan
from edge_runtime.daemon.program import Program
from edge_runtime.loop.counters import Counters
from edge_runtime.service.reporter import Reporter
from split_model.errors import SplitModelError
from split_model.service.stoppable_thread import StoppableThread

log = logging.getLogger(__name__)

#: Seconds that the first of the new links has to come up before they replace a link that is up.
_LINK_WITHIN_S = 3.0
#: Seconds that replaced devices have to close at the end of the program.
_END_WITHIN_S = 5.0


class InForce:
    """Holds the `Device` that answers frames; another one can be put in its place at any time.

    Every device is closed once: when it is replaced, or with `close`.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._lock = threading.Lock()  # the thread that takes a device out of its place retires it, no other
        self._turn: Device | None = None
        self._retiring: list[StoppableThread] = []
        self._closed = False

    @property
    def device(self) -> Device:
        """The one in force."""
        return self._device

    @property
    def changed(self) -> bool:
        """Whether the frame loop still runs a device that was replaced."""
        return self._turn is not self._device

    def put(self, device: Device) -> None:
        """Use another device from the next frame on. One that was never used, or comes after `close`, is closed."""
        with self._lock:
            if self._closed:
                self._retire(device)
                return
            left, self._device = self._device, device
            if left is not self._turn:
                self._retire(left)

    def take_turn(self, counters: Counters) -> Device:
        """Return the device in force. The previous one is closed in the background: no frame waits for that."""
        with self._lock:
            left, self._turn = self._turn, self._device
            taken = self._turn
            if left is not None and left is not taken:
                counters.links(left.views())
                counters.next_links()
                self._retire(left)
        return taken

    def close(self) -> None:
        """Close every device and the ledger, even if a reload or an older device still uses it."""
        with self._lock:
            self._closed = True
        until_s = time.monotonic() + _END_WITHIN_S
        for thread in self._retiring:
            thread.stop(until_s - time.monotonic())
        with contextlib.ExitStack() as closing:
            closing.callback(self.close_ledger)
            closing.callback(self._device.close)
            if self._turn is not None and self._turn is not self._device:
                closing.callback(self._turn.close)

    def close_ledger(self) -> None:
        """Close the ledger and return its prepaid frames: nothing leaves any more."""
        self._device.account.close_ledger()

    def _retire(self, left: Device) -> None:
        self._retiring = [thread for thread in self._retiring if thread.is_alive()]
        thread = StoppableThread("close-replaced-device", left.close)
        thread.start()
        self._retiring.append(thread)


class Reloader(StoppableThread):
    """A thread that reloads the config for each item in ``hangups`` and puts a new device in force.

    ``reread`` reads the config; ``take_up`` replaces the sources and sinks that differ between two plans. If the
    new config has any fault, the current one stays in force.
    """

    def __init__(
        self,
        reread: Callable[[], Config],
        hangups: queue.SimpleQueue[bool],
        in_force: InForce,
        program: Program,
        reporter: Reporter,
        *,
        take_up: Callable[[Plan, Plan], None],
    ) -> None:
        super().__init__("reload", wake=lambda: hangups.put(False))
        self._reread = reread
        self._hangups = hangups
        self._in_force = in_force
        self._program = program
        self._reporter = reporter
        self._take_up = take_up

    def run(self) -> None:
        """Reload, until `stop`; a reload under way is finished first."""
        while self._hangups.get():
            while not self._hangups.empty():  # one reload answers several signals in a row
                if not self._hangups.get():
                    return
            self._reporter.enter("reloading")
            try:
                self._reload()
            except SplitModelError as error:
                self._refused(str(error))
            except MemoryError:
                self._refused("not enough memory to open it beside the current one")
            except Exception as error:
                log.exception("reload")
                self._refused(f"{type(error).__name__}: {error}")
            if not self._program.stopped():
                self._reporter.enter("running")

    def _refused(self, why: str) -> None:
        self._reporter.reload_error = why
        log.error("reload refused, the previous config stays in force: %s", why)

    def _reload(self) -> None:
        old = self._in_force.device
        device = Device.open(self._reread(), self._program, replaces=old)
        if device is None:
            return
        try:
            if any(view.up for view in old.views()):
                self._wait_for_link(device)
            device.account.limit(device.config.limits)
        except BaseException:
            device.close()
            raise
        self._in_force.put(device)
        self._take_up(old.plan, device.plan)
        self._reporter.serve(device)
        self._reporter.reloads += 1
        self._reporter.reload_error = ""
        log.info(
            "the changed config is in force from the next frame on; bundle %s", device.plan.bundle.manifest.name
        )

    def _wait_for_link(self, device: Device) -> None:
        """Wait for a link, so that no frame falls back to this board only because of the reload."""
        until_s = time.monotonic() + _LINK_WITHIN_S
        while time.monotonic() < until_s and not self._program.stopped():
            if any(view.up for view in device.views()):
                return
            time.sleep(0.02)
