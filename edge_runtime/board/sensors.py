"""Reads the board's sensors: CPU load and clock, memory, temperature, throttling.

Boards have different sensors. One that is missing, unreadable or gives impossible values yields None, never an
error: no frame may be lost because of a sensor. Sources: /proc, sysfs (`thermal_zone*`, `cpufreq`), and
`throttling`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.board.kernel_counts import busy_share, cpu_seconds, memory_bytes, resident_bytes
from edge_runtime.board.throttling import ThrottleFlags, Throttling, glob, number, text, vcgencmd_throttled
from split_model.service.stoppable_thread import StoppableThread

SYSFS = Path("/sys")
#: Zones named like this are not the processor's temperature: Jetson's PMIC zone always shows 100 degrees.
_NOT_THE_PROCESSOR = ("pmic", "wifi", "battery", "iwlwifi", "pch")
_PLAUSIBLE_C = (-40.0, 150.0)


@dataclass(frozen=True)
class Readings:
    """One reading of all sensors; None if the board has no such sensor.

    ``cpu_load``: share of all CPUs in use since the previous reading, 0 to 1. ``cpu_mhz``: the slowest core's
    clock,
    ``cpu_max_mhz`` its limit. ``temperature_c``: the hottest zone of the processor.
    """

    cpu_load: float | None = None
    cpu_mhz: float | None = None
    cpu_max_mhz: float | None = None
    memory_available_bytes: int | None = None
    memory_total_bytes: int | None = None
    rss_bytes: int | None = None
    temperature_c: float | None = None
    throttling: Throttling | None = None

    @property
    def throttled(self) -> bool | None:
        """Whether the board is throttled right now; None if it does not report that."""
        return None if self.throttling is None else bool(self.throttling.now)


class Sensors:
    """Reads all sensors. ``sysfs``: its mount point; ``ask_firmware``: run vcgencmd, which is slow."""

    def __init__(self, sysfs: Path = SYSFS, *, ask_firmware: Callable[[], str | None] = vcgencmd_throttled) -> None:
        self._sysfs = sysfs
        self._flags = ThrottleFlags(sysfs, ask_firmware=ask_firmware)
        self._seconds = cpu_seconds()

    def read(self) -> Readings:
        """Read every sensor now. Takes well below a millisecond, or some ten if vcgencmd has to be run."""
        clocks = self._cpu_clocks("scaling_cur_freq")
        limits = self._cpu_clocks("cpuinfo_max_freq")
        available_bytes, total_bytes = memory_bytes()
        return Readings(
            cpu_load=self._cpu_load(),
            cpu_mhz=min(clocks, default=None),
            cpu_max_mhz=min(limits, default=None),
            memory_available_bytes=available_bytes,
            memory_total_bytes=total_bytes,
            rss_bytes=resident_bytes(),
            temperature_c=self._temperature_c(),
            throttling=self._flags.read(),
        )

    def _cpu_load(self) -> float | None:
        before, self._seconds = self._seconds, cpu_seconds()
        return busy_share(before, self._seconds)

    def _cpu_clocks(self, name: str) -> list[float]:
        """Clocks in MHz of all cores that report one."""
        found = (number(path) for path in glob(self._sysfs, f"devices/system/cpu/cpu[0-9]*/cpufreq/{name}"))
        return [khz / 1e3 for khz in found if khz is not None and khz > 0]

    def _temperature_c(self) -> float | None:
        """Temperature of the processor's hottest zone; of all zones if none has a name."""
        low, high = _PLAUSIBLE_C
        found = []
        for zone in glob(self._sysfs, "class/thermal/thermal_zone*"):
            name = (text(zone / "type") or "").lower()
            if any(other in name for other in _NOT_THE_PROCESSOR):
                continue
            millidegrees = number(zone / "temp")
            if millidegrees is not None and low <= millidegrees / 1e3 <= high:
                found.append(millidegrees / 1e3)
        return max(found, default=None)


class Watch(StoppableThread):
    """A thread that reads the sensors every ``every_s`` seconds, so that no frame waits for one."""

    def __init__(self, sensors: Sensors, *, every_s: float = 2.0) -> None:
        super().__init__("sensors")
        self.latest = Readings()
        self._sensors = sensors
        self._every_s = every_s

    def run(self) -> None:
        """Read until `stop`."""
        while not self.stopping.is_set():
            self.latest = self._sensors.read()
            self.stopping.wait(self._every_s)
