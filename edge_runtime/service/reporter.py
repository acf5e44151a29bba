"""The thread that publishes the program's state: status file, systemd's status line, watchdog."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.board import sensors
from edge_runtime.daemon.plan import fixed_values
from edge_runtime.loop.results import Step
from edge_runtime.loop.stream import FrameStream
from edge_runtime.privacy.ledger import system_now
from edge_runtime.privacy.ledger.status import LedgerStatus, ledger_status
from edge_runtime.service import status as states
from edge_runtime.service.fleet_reports import FleetReports
from edge_runtime.service.status import State, Status
from edge_runtime.service.why_local import why_local
from edge_runtime.sinks import Sinks
from edge_runtime.sources.multiplexer import Multiplexer
from split_model import __version__
from split_model.service.heartbeats import Heartbeats
from split_model.service.notify import Notifier
from split_model.service.status_file import WRITE_EVERY_S, Publisher, boot_s, process_ticks
from split_model.service.stoppable_thread import STOP_S, StoppableThread

if TYPE_CHECKING:  # for types only: the device's parts are opened elsewhere
    from edge_runtime.daemon.device import Device

log = logging.getLogger(__name__)

_RECENT_FRAMES = 128
#: Seconds between two readings of the sensors: on some boards a reading starts a program.
_SENSORS_EVERY_S = 5.0
#: Seconds by which systemd's start timeout is extended, repeatedly, while the start goes on.
_START_EXTENSION_S = 60.0


class Reporter(StoppableThread):
    """Publishes the state; start it first, stop it last. ``path``: the status file, or None.

    Set ``stream``, ``multiplexer`` and ``sinks`` once they exist.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        config: Path,
        notifier: Notifier,
        beats: Heartbeats,
        stopped: Callable[[], bool],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("reporter")
        self.stream: FrameStream | None = None
        self.multiplexer: Multiplexer | None = None
        self.sinks: Sinks | None = None
        self.reloads = 0
        self.reload_error = ""
        self._publisher = None if path is None else Publisher(path, key=states.KEY)
        self._config = config
        self._notifier = notifier
        self._beats = beats
        self._stopped = stopped
        self._now = now
        self._started_s = now()
        self._device: Device | None = None
        self._state: State = "starting"
        self._doing = "starting"
        self._ticks = process_ticks(os.getpid()) or 0
        self._lock = threading.Lock()
        self._step: Step | None = None
        self._moved: tuple[float, int, int, str] | None = None
        self._latencies_s: deque[float] = deque(maxlen=_RECENT_FRAMES)
        self._offloads_s: deque[float] = deque(maxlen=_RECENT_FRAMES)
        self._reports = FleetReports(now)
        self._ledger_now = system_now()
        self._sensors = sensors.Watch(sensors.Sensors(), every_s=_SENSORS_EVERY_S)
        self._told_stuck: list[str] = []
        watchdog_s = notifier.watchdog_s
        self._every_s = WRITE_EVERY_S if watchdog_s is None else min(WRITE_EVERY_S, watchdog_s / 4)

    def doing(self, what: str) -> None:
        """Note the present step of the start."""
        self._doing = what

    def serve(self, device: Device) -> None:
        """Note that another device is in force."""
        with self._lock:
            self._device, self._step, self._moved = device, None, None
            self._latencies_s.clear()
            self._offloads_s.clear()

    def note(self, step: Step) -> None:
        """Note an answered frame. Called in the frame loop's thread, so it is quick."""
        with self._lock:
            if step.decision.moved_from is not None:
                self._moved = (self._now(), step.decision.moved_from, step.decision.split, step.decision.why)
            self._step = step
            self._latencies_s.append(step.result.latency_s)
            if (offload_s := step.result.parts.get("offload_s")) is not None:
                self._offloads_s.append(offload_s)

    @property
    def last_step(self) -> Step | None:
        """The step of the last frame of the device in force, None before the first."""
        with self._lock:
            return self._step

    def enter(self, state: State) -> None:
        """Set the state of the program."""
        before, self._state = self._state, state
        if state == "running":
            self._notifier.ready(states.headline(self._status()))
            if before == "starting":
                log.info("ready: frames can be answered")
        elif state == "reloading":
            self._notifier.reloading("reading the config again")
        elif state in ("draining", "stopped"):
            self._notifier.stopping("finishing the frames under way")
        self._publish()

    def run(self) -> None:
        """Publish the state until `stop`."""
        self._sensors.start()
        while not self.stopping.is_set():
            if self._stopped() and self._state != "draining":
                self.enter("draining")
            self._watch()
            self._publish()
            self.stopping.wait(self._every_s)
        self._sensors.stop()

    def stop(self, timeout_s: float = STOP_S) -> bool:
        """Publish the state 'stopped', and end."""
        ended = super().stop(timeout_s)
        self.enter("stopped")
        return ended

    def _watch(self) -> None:
        stuck = self._beats.overdue()
        if stuck and stuck != self._told_stuck:
            log.error("stuck: %s; the watchdog is not fed", ", ".join(stuck))
        self._told_stuck = stuck
        if stuck:
            return
        self._notifier.alive()
        if self._state == "starting":
            self._notifier.starting(self._doing, within_s=_START_EXTENSION_S)

    def _publish(self) -> None:
        status = self._status()
        if self._state == "running":
            self._notifier.status(states.headline(status))
        if self._publisher is not None:
            self._publisher.publish(status)
        device = self._device
        if device is not None and self._state in ("running", "reloading"):
            config = device.config
            self._reports.tell(
                status,
                config.report,
                paced=config.release.pace == "fixed",
                backend=config.device.backend,
                send=device.report,
            )

    def _status(self) -> Status:
        status = Status(
            state=self._state,
            pid=os.getpid(),
            process_ticks=self._ticks,
            written_boot_s=boot_s(),
            written_unix_s=time.time(),
            uptime_s=self._now() - self._started_s,
            software=f"edge-runtime {__version__}",
            config=str(self._config),
            doing=self._doing if self._state == "starting" else "",
            overdue=self._beats.overdue(),
            reloads=self.reloads,
            reload_error=self.reload_error,
        )
        device, stream = self._device, self.stream
        if device is not None:
            self._add_device(status, device)
        if stream is not None:
            status.under_way = stream.under_way
        if self.multiplexer is not None:
            status.sources = self.multiplexer.counters_by_source()
            status.source_trouble = self.multiplexer.trouble_by_source()
        if self.sinks is not None:
            status.sinks = self.sinks.counters_by_sink()
            status.sink_trouble = self.sinks.trouble_by_sink()
        return status

    def _add_device(self, status: Status, device: Device) -> None:
        bundle = device.plan.bundle
        with self._lock:
            step, moved = self._step, self._moved
            latencies_s, offloads_s = sorted(self._latencies_s), sorted(self._offloads_s)
        status.bundle = states.BundleStatus(
            name=bundle.manifest.name, identity=bundle.identity, folder=str(bundle.root)
        )
        status.local = bundle.local
        status.cuts = [
            states.CutStatus(
                cut=one.cut,
                used=one.cut in device.plan.allowed,
                agreement=one.agreement,
                agreement_bound=one.bound,
                pictures=one.pictures,
                text=one.text,
                reveals=device.plan.exposure[one.cut].reveals,
                exposure=device.plan.exposure[one.cut].text,
            )
            for one in device.plan.accuracy.cuts
        ]
        status.privacy, in_use = device.plan.privacy, device.plan.in_use
        status.accuracy, status.audit = device.plan.accuracy.summary(in_use), device.plan.exposure.told(in_use)
        status.accuracy_trouble = device.plan.accuracy_trouble
        status.exposure_trouble = device.plan.exposure_trouble
        status.fixed = fixed_values(device.plan)
        status.counters = dict(device.loop.counters.as_dict())
        status.split = None if step is None else step.result.split
        if moved is not None:
            at_s, before, after, why = moved
            status.decision = states.DecisionStatus(
                ago_s=self._now() - at_s, split_from=before, split_to=after, why=why
            )
        status.latency, status.offload = _latency(latencies_s), _latency(offloads_s)
        status.expected_s = None if step is None else _expected_s(step)
        status.links = [_link(device, number) for number in range(len(device.links))]
        status.link = next(link for link in status.links if link.in_use)
        readings = self._sensors.latest
        status.board = states.BoardStatus(
            load=1.0 if step is None else step.load,
            cpu_load=readings.cpu_load or 0.0,
            temperature_c=readings.temperature_c,
            throttled=None if readings.throttling is None else readings.throttling.now,
            memory_available_bytes=readings.memory_available_bytes,
            rss_bytes=readings.rss_bytes,
        )
        status.ledger = self._ledger_status(device)
        status.ledger_trouble = device.account.trouble
        broke = bool(status.ledger_trouble or (status.ledger is not None and status.ledger.shortfalls))
        status.why_local, status.why_local_text = why_local(step, device.plan, broke=broke)

    def _ledger_status(self, device: Device) -> LedgerStatus | None:
        ledger_state = device.account.ledger_state
        if ledger_state is None:
            return None
        return ledger_status(ledger_state, device.config.limits, self._ledger_now(), device.plan.prices)


def _latency(sorted_s: list[float]) -> states.LatencyStatus | None:
    if not sorted_s:
        return None
    count = len(sorted_s)
    return states.LatencyStatus(
        frames=count, median_s=float(np.median(sorted_s)), p95_s=sorted_s[min(count - 1, int(0.95 * count))]
    )


def _expected_s(step: Step) -> float | None:
    expected = step.decision.expected_at(step.result.split)
    return None if expected is None or not math.isfinite(expected.total_s) else expected.total_s


def _link(device: Device, number: int) -> states.LinkStatus:
    """The status of one link, by the number of its server."""
    link, in_use = device.links[number], number == device.loop.server
    try:
        view = link.view()
    except Exception as error:  # noqa: BLE001  what ended the link thread is raised in the frame loop's thread
        return states.LinkStatus(
            address=link.address, up=False, hosted=False, trouble=str(error), trouble_kind="thread_ended",
            uplink_mbit_s=None, rtt_s=None, queue_s=0.0, reconnects=0, in_use=in_use,
        )  # fmt: skip
    rate = view.estimate.uplink_bytes_s
    return states.LinkStatus(
        address=link.address,
        up=view.up,
        hosted=any(offer.identity == device.plan.bundle.identity for offer in view.offers),
        trouble=view.trouble_line,
        trouble_kind=view.trouble.name.lower(),
        uplink_mbit_s=None if rate is None else rate * 8e-6,
        rtt_s=view.estimate.rtt_s,
        queue_s=view.queue_s,
        reconnects=view.reconnects,
        in_use=in_use,
    )
