"""Finds how many CPUs this program may use: by affinity, and by its control group's quota.

The quota is a number that the machine's owner set (`CPUQuota=` of a unit, `--cpus` of a container). The kernel's
counts of throttling (`nr_throttled`, `throttled_usec` in cpu.stat) are not read: they depend on the amount of work
that our frames were.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from edge_runtime.board.throttling import text

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def allowed_cpus() -> int:
    """Number of CPUs in the affinity mask of this program."""
    return len(os.sched_getaffinity(0))


def usable_cpus(*, cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> float:
    """CPUs that this program may use in the long run: those of its affinity, or its quota if that is less.

    Args:
        cgroups: where the control groups are mounted.
        membership: the file that tells which ones this program is in.

    """
    return min([float(allowed_cpus()), *_quotas(cgroups, text(membership) or "")])


def _quotas(cgroups: Path, membership: str) -> Iterator[float]:
    """Of all groups on the way from the root, version 2 and 1: each of them bounds those inside."""
    for line in membership.splitlines():
        _, controllers, group = [*line.split(":", 2), "", ""][:3]
        if not controllers:  # version 2, also where only some controllers are there
            for root in (cgroups, cgroups / "unified"):
                yield from (_ratio(*(text(path / "cpu.max") or "").split()) for path in _way(root, group))
        elif "cpu" in controllers.split(","):
            for root in (cgroups / controllers, cgroups / "cpu"):
                for path in _way(root, group):
                    yield _ratio(text(path / "cpu.cfs_quota_us") or "", text(path / "cpu.cfs_period_us") or "")


def _way(root: Path, group: str) -> Iterator[Path]:
    """The folders from a group up to the root. In a container the group may be named as seen from outside."""
    names = PurePosixPath(group.lstrip("/"))
    yield from (root / one for one in (names, *names.parents) if ".." not in one.parts)


def _ratio(quota_us: str = "", period_us: str = "") -> float:
    """The quota in CPUs; infinite if there is none (`max`, or -1)."""
    try:
        quota, period = float(quota_us), float(period_us)
    except ValueError:
        return float("inf")
    return quota / period if quota > 0.0 and period > 0.0 else float("inf")
