"""The processor's speed on fake sysfs trees: the clock's limit, settled spins, quotas, the firmware's flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.board.board import RealBoard
from edge_runtime.board.cpu_load import Spin
from edge_runtime.board.cpu_quota import allowed_cpus, usable_cpus
from edge_runtime.board.cpu_speed import Clock, read_clock, settled_spin
from edge_runtime.board.load_watch import LoadReader
from edge_runtime.board.throttling import ThrottleFlags

QUICK, SLOW = Spin(0.001, 0.001), Spin(0.0025, 0.0025)
CPU = "devices/system/cpu/cpu{}/cpufreq/{}"


def put(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """A Pi whose governor asks for the limit."""
    for core in range(2):
        put(tmp_path, CPU.format(core, "scaling_max_freq"), "1500000")
        put(tmp_path, CPU.format(core, "scaling_cur_freq"), "1500000")
    put(tmp_path, "devices/platform/soc/soc:firmware/get_throttled", "0")
    return tmp_path


def test_the_slowest_core_counts(sysfs: Path) -> None:
    put(sysfs, CPU.format(1, "scaling_max_freq"), "1000000")
    put(sysfs, CPU.format(1, "scaling_cur_freq"), "600000")
    assert read_clock(sysfs) == Clock(1000.0, 600.0)
    assert read_clock(sysfs / "nothing") is None


def test_a_settled_spin_waits_for_the_governor() -> None:
    clocks = iter([Clock(1500.0, 600.0)] * 5 + [Clock(1500.0, 1500.0)])
    spins = iter([SLOW] * 8 + [QUICK] * 8)
    assert settled_spin(lambda: next(spins), lambda: next(clocks)) == Spin(0.001, 0.001, settled=True)


def test_a_processor_that_never_gets_to_its_limit_is_as_slow_as_it_is() -> None:
    made = settled_spin(lambda: SLOW, lambda: Clock(1500.0, 600.0))
    assert made == Spin(0.0025, 0.0025, settled=True)


@pytest.mark.parametrize(("flags", "within_s"), [("0", 5.0), ("4", 1.6)])
def test_throttling_by_the_firmware_alone_is_noticed(sysfs: Path, flags: str, within_s: float) -> None:
    """The kernel's clock says that nothing has changed; with the flags it is noticed sooner."""
    now_s, makes = [100.0], [QUICK]
    reader = LoadReader(
        RealBoard(),
        clock=lambda: read_clock(sysfs),
        make_spin=lambda: makes[0],
        throttling=ThrottleFlags(sysfs, ask_firmware=lambda: None).read,
        now=lambda: now_s[0],
    )

    def spins_until(at_s: float) -> list[Spin]:
        found = []
        while now_s[0] < at_s:
            now_s[0] += 0.1
            found += [one] if (one := reader.read().spin) else []
        return found

    assert set(spins_until(104.5)) == {Spin(0.001, 0.001, settled=True)}
    makes[0] = SLOW
    put(sysfs, "devices/platform/soc/soc:firmware/get_throttled", flags)
    assert spins_until(104.5 + within_s)[-1] == Spin(0.0025, 0.0025, settled=True)


QUOTAS = {
    "none": ({}, "0::/", None),
    "a unit": ({"system.slice/edge.service/cpu.max": "50000 100000"}, "0::/system.slice/edge.service", 0.5),
    "its slice": ({"a.slice/cpu.max": "25000 100000", "a.slice/b/cpu.max": "max 100000"}, "0::/a.slice/b", 0.25),
    "a container": ({"cpu.max": "75000 100000"}, "0::/", 0.75),
    "beside version 1": ({"unified/x/cpu.max": "10000 100000"}, "4:memory:/y\n0::/x", 0.1),
    "version 1": (
        {"cpu,cpuacct/docker/9/cpu.cfs_quota_us": "30000", "cpu,cpuacct/docker/9/cpu.cfs_period_us": "100000"},
        "9:name=systemd:/\n4:cpu,cpuacct:/docker/9", 0.3,
    ),
    "version 1 from inside": (
        {"cpu/cpu.cfs_quota_us": "30000", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu:/docker/9", 0.3,
    ),
    "version 1 without one": (
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu:/", None,
    ),
    "nonsense": ({"cpu.max": "garbage"}, "0::/../..\nnothing\n:", None),
}  # fmt: skip


@pytest.mark.parametrize(("files", "membership", "cpus"), QUOTAS.values(), ids=QUOTAS.keys())
def test_quotas(tmp_path: Path, files: dict[str, str], membership: str, cpus: float | None) -> None:
    for name, text in files.items():
        put(tmp_path / "cgroup", name, text)
    put(tmp_path, "self", membership)
    found = usable_cpus(cgroups=tmp_path / "cgroup", membership=tmp_path / "self")
    assert found == (allowed_cpus() if cpus is None else cpus)
