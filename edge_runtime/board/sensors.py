"""What the board's own sensors say: CPU load and clock, memory, temperature, throttling.

Every board has others. A sensor that is absent, unreadable or talks nonsense gives None, never an error:
nothing here is worth losing a frame for. Sources: psutil, sysfs (`thermal_zone*`, `cpufreq`), and `throttling`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from edge_runtime.board.throttling import ThrottleFlags, Throttling, glob, number, text, vcgencmd_throttled
from split_model.service.stoppable_thread import StoppableThread

SYSFS = Path("/sys")
#: Zones named like this are not the processor's temperature: Jetson's PMIC zone always shows 100 degrees.
_NOT_THE_PROCESSOR = ("pmic", "wifi", "battery", "iwlwifi", "pch")
_PLAUSIBLE_C = (-40.0, 150.0)


@dataclass(frozen=True)
class Readings:
    """One look at all sensors; None where the board has none.

    ``cpu_load``: share of all CPUs in use since the look before, 0 to 1. ``cpu_mhz``: the slowest core's clock,
    ``cpu_max_mhz`` what it may reach. ``temperature_c``: the hottest zone of the processor.
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
        """Whether the board holds back right now; None where it cannot tell."""
        return None if self.throttling is None else bool(self.throttling.now)


class Sensors:
    """Reads them all. ``sysfs`` is where it is mounted; ``ask_firmware`` runs vcgencmd, which is dear."""

    def __init__(self, sysfs: Path = SYSFS, *, ask_firmware: Callable[[], str | None] = vcgencmd_throttled) -> None:
        self._sysfs = sysfs
        self._flags = ThrottleFlags(sysfs, ask_firmware=ask_firmware)
        self._process = psutil.Process()
        self._busy_before, self._total_before = _cpu_times()

    def read(self) -> Readings:
        """Look at every sensor now. Takes well below a millisecond, some ten where vcgencmd has to be asked."""
        clocks = self._cpu_clocks("scaling_cur_freq")
        limits = self._cpu_clocks("cpuinfo_max_freq")
        memory = psutil.virtual_memory()
        return Readings(
            cpu_load=self._cpu_load(),
            cpu_mhz=min(clocks, default=None),
            cpu_max_mhz=min(limits, default=None),
            memory_available_bytes=int(memory.available),
            memory_total_bytes=int(memory.total),
            rss_bytes=int(self._process.memory_info().rss),
            temperature_c=self._temperature_c(),
            throttling=self._flags.read(),
        )

    def _cpu_load(self) -> float | None:
        """From the times themselves: `psutil.cpu_percent` has one memory for all its callers."""
        busy, total = _cpu_times()
        span = total - self._total_before
        load = (busy - self._busy_before) / span if span > 0 else None
        self._busy_before, self._total_before = busy, total
        return None if load is None else min(1.0, max(0.0, load))

    def _cpu_clocks(self, name: str) -> list[float]:
        """MHz of every core that tells."""
        found = (number(path) for path in glob(self._sysfs, f"devices/system/cpu/cpu[0-9]*/cpufreq/{name}"))
        return [khz / 1e3 for khz in found if khz is not None and khz > 0]

    def _temperature_c(self) -> float | None:
        """The hottest of the processor's zones; of all zones where none has a name."""
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
    """Reads the sensors every ``every_s`` seconds beside the frame loop, so that no frame waits for one."""

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


def _cpu_times() -> tuple[float, float]:
    """Busy seconds and all seconds of all CPUs since boot; guest time is part of user time already."""
    times = psutil.cpu_times()
    total = sum(value for name, value in times._asdict().items() if not name.startswith("guest"))
    return total - times.idle - getattr(times, "iowait", 0.0), total
