"""Holds a process to a share of one core: a cgroup (v1) where there may be one, else it is stopped in turn."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup/cpu")
_PERIOD_US = 100_000


class Share:
    """What the processes that `hold` was given may use together. ``means``: how it is enforced."""

    def __init__(self, cores: float) -> None:
        self._cores = cores
        self._group = _CGROUPS / f"attacker-{os.getpid()}"
        try:
            self._group.mkdir()
            (self._group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (self._group / "cpu.cfs_quota_us").write_text(str(int(_PERIOD_US * cores)))
            self.means = "cgroup"
        except OSError:
            with suppress(OSError):
                self._group.rmdir()
            self.means = "duty cycle"

    @contextmanager
    def hold(self, pid: int) -> Iterator[None]:
        """Hold this process and its threads for the time of the block."""
        if self.means == "cgroup":
            (self._group / "cgroup.procs").write_text(str(pid))
            yield
            return
        over = threading.Event()
        thread = threading.Thread(target=self._stop_and_go, args=(pid, over), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _stop_and_go(self, pid: int, over: threading.Event) -> None:
        period_s = _PERIOD_US / 1e6
        with suppress(ProcessLookupError):
            while not over.is_set():
                os.kill(pid, signal.SIGCONT)
                over.wait(period_s * self._cores)
                os.kill(pid, signal.SIGSTOP)
                over.wait(period_s * (1 - self._cores))

    def close(self) -> None:
        """Remove the cgroup; its processes must have ended."""
        if self.means == "cgroup":
            with suppress(OSError):
                self._group.rmdir()
