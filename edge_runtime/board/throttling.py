"""Reads whether the firmware throttles the board (Raspberry Pi, Jetson); None if it does not report that.

Sources: Raspberry Pi's flags, in sysfs (`get_throttled`) or else from `vcgencmd`; the alarm of its voltage sensor,
which the kernel asks every two seconds; Jetson's cooling devices and over-current events.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

#: In the vendor's kernels; on newer boards the names of the folders end with an address.
_PI_THROTTLED = "devices/platform/soc*/soc*:firmware/get_throttled"
#: The chip of the kernel's voltage sensor; its alarm is under-voltage.
_PI_VOLTAGE = "rpi_volt"
_UNDER_VOLTAGE, _OVER_CURRENT = "under-voltage", "over-current"
#: Bits of Raspberry Pi's get_throttled for the present; shifted by 16 they are for the time since boot.
THROTTLE_BITS = {0: _UNDER_VOLTAGE, 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
_SINCE_BOOT = 16
_VCGENCMD_TIMEOUT_S = 1.0


@dataclass(frozen=True)
class Throttling:
    """Reasons for throttling: ``now``, and at any time ``since_boot``; empty if there is none."""

    now: tuple[str, ...]
    since_boot: tuple[str, ...]

    @property
    def by_power(self) -> bool:
        """Whether the power supply is a reason, at any time since the boot."""
        return not {_UNDER_VOLTAGE, _OVER_CURRENT}.isdisjoint((*self.now, *self.since_boot))


def parse_throttled(text: str) -> Throttling | None:
    """Parse ``throttled=0x50005`` of `vcgencmd get_throttled`, or the bare hexadecimal number of sysfs."""
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


def vcgencmd_throttled(*, within_s: float = _VCGENCMD_TIMEOUT_S) -> str | None:
    """Output of `vcgencmd get_throttled`; None if the command is missing, fails, or takes too long."""
    command = shutil.which("vcgencmd")
    if command is None:
        return None
    import subprocess  # half a megabyte with its imports, and few boards have this command

    try:
        done = subprocess.run(  # noqa: S603  fixed arguments; the path is looked up
            [command, "get_throttled"],
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    return done.stdout if done.returncode == 0 else None


class ThrottleFlags:
    """Reads the throttling flags. ``sysfs``: its mount point; ``ask_firmware``: run vcgencmd, which is slow."""

    def __init__(self, sysfs: Path, *, ask_firmware: Callable[[], str | None] = vcgencmd_throttled) -> None:
        self._sysfs = sysfs
        self._ask_firmware = ask_firmware
        self._firmware_silent = False
        self._over_currents: float | None = None

    def read(self) -> Throttling | None:
        """Read the flags now; None if the board has none. Takes some ten milliseconds if vcgencmd is run."""
        for path in glob(self._sysfs, _PI_THROTTLED):
            if (told := text(path)) is not None:
                return parse_throttled(told)
        if (jetson := self._jetson()) is not None:
            return jetson
        if not self._firmware_silent:
            told = self._ask_firmware()
            # A board without it now will not have it later; asking again costs a process each time.
            self._firmware_silent = told is None
            if told is not None:
                return parse_throttled(told)
        return self._voltage_alarm()

    def _voltage_alarm(self) -> Throttling | None:
        for name in glob(self._sysfs, "class/hwmon/hwmon*/name"):
            if text(name) == _PI_VOLTAGE and (alarm := number(name.parent / "in0_lcrit_alarm")) is not None:
                return Throttling(now=(_UNDER_VOLTAGE,) if alarm else (), since_boot=())
        return None

    def _jetson(self) -> Throttling | None:
        """Cooling devices that hold clocks back at this moment, and over-current events since boot."""
        alerts = list(glob(self._sysfs, "class/hwmon/hwmon*/oc[0-9]*_event_cnt"))
        coolers = [
            cooler
            for cooler in glob(self._sysfs, "class/thermal/cooling_device*")
            if (text(cooler / "type") or "").endswith(("-throttle-alert", "-cpufreq", "cpufreq-cpu0"))
        ]
        alert_coolers = [cooler for cooler in coolers if (text(cooler / "type") or "").endswith("-throttle-alert")]
        if not alerts and not alert_coolers:
            return None
        now = tuple(
            (text(cooler / "type") or "").removesuffix("-throttle-alert")
            for cooler in coolers
            if (number(cooler / "cur_state") or 0) > 0
        )
        before, self._over_currents = self._over_currents, sum(number(path) or 0 for path in alerts)
        if before is not None and self._over_currents > before:  # each one throttles for a moment
            now = (*now, _OVER_CURRENT)
        return Throttling(now=now, since_boot=(_OVER_CURRENT,) if self._over_currents > 0 else ())


def glob(sysfs: Path, pattern: str) -> Iterator[Path]:
    """Paths in sysfs that match a pattern, sorted by name."""
    with contextlib.suppress(OSError):
        yield from sorted(sysfs.glob(pattern))


def text(path: Path) -> str | None:
    """Read a file of sysfs; None if it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def number(path: Path) -> float | None:
    """Read the number in a file of sysfs; None if there is none."""
    try:
        return float(text(path) or "")
    except ValueError:
        return None
