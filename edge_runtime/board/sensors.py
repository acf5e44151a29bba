"""What the board's own sensors say: CPU load and clock, memory, temperature, throttling.

Every board has others. A sensor that is absent, unreadable or talks nonsense gives None, never an error:
nothing here is worth losing a frame for. Sources: psutil, sysfs (`thermal_zone*`, `cpufreq`, Raspberry Pi's
`get_throttled`, Jetson's thermal and over-current events) and, where sysfs does not tell, `vcgencmd`.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from split_model.service.stoppable_thread import StoppableThread

log = logging.getLogger(__name__)

SYSFS = Path("/sys")
_PI_THROTTLED = "devices/platform/soc/soc:firmware/get_throttled"
_UNDER_VOLTAGE, _OVER_CURRENT = "under-voltage", "over-current"
#: Bits of Raspberry Pi's get_throttled, now; the same shifted by 16 tell of the time since boot.
THROTTLE_BITS = {0: _UNDER_VOLTAGE, 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
_SINCE_BOOT = 16
_VCGENCMD_TIMEOUT_S = 1.0
#: Zones named like this are not the processor's temperature: Jetson's PMIC zone always shows 100 degrees.
_NOT_THE_PROCESSOR = ("pmic", "wifi", "battery", "iwlwifi", "pch")
_PLAUSIBLE_C = (-40.0, 150.0)


@dataclass(frozen=True)
class Throttling:
    """Why the board holds back: ``now``, and at any time ``since_boot``; empty where it does not."""

    now: tuple[str, ...]
    since_boot: tuple[str, ...]

    @property
    def by_power(self) -> bool:
        """Whether the power supply is a reason, at any time since the boot."""
        return not {_UNDER_VOLTAGE, _OVER_CURRENT}.isdisjoint((*self.now, *self.since_boot))


@dataclass(frozen=True)
class Readings:
    """One look at all sensors; None where the board has none.

    ``cpu_load``: share of all CPUs in use since the look before, 0 to 1. ``cpu_mhz``: the slowest core's clock,
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
        """Whether the board holds back right now; None where it cannot tell."""
        return None if self.throttling is None else bool(self.throttling.now)


def parse_throttled(text: str) -> Throttling | None:
    """``throttled=0x50005`` of `vcgencmd get_throttled`, or the bare number of sysfs, which is hexadecimal."""
    try:
        bits = int(text.strip().rpartition("=")[2], 16)
    except ValueError:
        return None
    if bits < 0:
        return None
    names = THROTTLE_BITS.items()
    return Throttling(
        now=tuple(name for bit, name in names if bits >> bit & 1),
        since_boot=tuple(name for bit, name in names if bits >> (bit + _SINCE_BOOT) & 1),
    )


def vcgencmd_throttled() -> str | None:
    """What `vcgencmd get_throttled` prints, or None where there is none, it fails, or it hangs."""
    command = shutil.which("vcgencmd")
    if command is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603  fixed arguments; the path is looked up
            [command, "get_throttled"],
            capture_output=True,
            text=True,
            timeout=_VCGENCMD_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout if done.returncode == 0 else None


class Sensors:
    """Reads them all. ``sysfs`` is where it is mounted; ``ask_firmware`` runs vcgencmd, which is dear."""

    def __init__(self, sysfs: Path = SYSFS, *, ask_firmware: Callable[[], str | None] = vcgencmd_throttled) -> None:
        self._sysfs = sysfs
        self._ask_firmware = ask_firmware
        self._firmware_silent = False
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
            throttling=self._throttling(),
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
        found = (_number(path) for path in self._glob(f"devices/system/cpu/cpu[0-9]*/cpufreq/{name}"))
        return [khz / 1e3 for khz in found if khz is not None and khz > 0]

    def _temperature_c(self) -> float | None:
        """The hottest of the processor's zones; of all zones where none has a name."""
        low, high = _PLAUSIBLE_C
        found = []
        for zone in self._glob("class/thermal/thermal_zone*"):
            name = (_text(zone / "type") or "").lower()
            if any(other in name for other in _NOT_THE_PROCESSOR):
                continue
            millidegrees = _number(zone / "temp")
            if millidegrees is not None and low <= millidegrees / 1e3 <= high:
                found.append(millidegrees / 1e3)
        return max(found, default=None)

    def _throttling(self) -> Throttling | None:
        told = _text(self._sysfs / _PI_THROTTLED)
        if told is not None:
            return parse_throttled(told)
        if (jetson := self._jetson()) is not None:
            return jetson
        if self._firmware_silent:
            return None
        told = self._ask_firmware()
        # A board without it now will not have it later; asking again costs a process each time.
        self._firmware_silent = told is None
        return None if told is None else parse_throttled(told)

    def _jetson(self) -> Throttling | None:
        """Jetson: cooling devices that hold clocks back at this moment, and over-current events since boot."""
        alerts = list(self._glob("class/hwmon/hwmon*/oc[0-9]*_event_cnt"))
        coolers = [
            cooler
            for cooler in self._glob("class/thermal/cooling_device*")
            if (_text(cooler / "type") or "").endswith(("-throttle-alert", "-cpufreq", "cpufreq-cpu0"))
        ]
        alert_coolers = [cooler for cooler in coolers if (_text(cooler / "type") or "").endswith("-throttle-alert")]
        if not alerts and not alert_coolers:
            return None
        now = tuple(
            (_text(cooler / "type") or "").removesuffix("-throttle-alert")
            for cooler in coolers
            if (_number(cooler / "cur_state") or 0) > 0
        )
        over_current = any((_number(path) or 0) > 0 for path in alerts)
        return Throttling(now=now, since_boot=(_OVER_CURRENT,) if over_current else ())

    def _glob(self, pattern: str) -> Iterator[Path]:
        with contextlib.suppress(OSError):
            yield from sorted(self._sysfs.glob(pattern))


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


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def _number(path: Path) -> float | None:
    try:
        return float(_text(path) or "")
    except ValueError:
        return None
