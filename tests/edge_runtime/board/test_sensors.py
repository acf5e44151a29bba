"""Sensors on fake sysfs trees of boards that differ, and on this machine."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.board.sensors import Sensors, Watch
from edge_runtime.board.throttling import ThrottleFlags, Throttling, parse_throttled, vcgencmd_throttled


def put(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def tree(root: Path, files: dict[str, str]) -> Path:
    put(root, **files)
    return root


PI = {
    "class/thermal/thermal_zone0/type": "cpu-thermal",
    "class/thermal/thermal_zone0/temp": "61850",
    "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1200000",
    "devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "600000",
    "devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "1500000",
}
JETSON = {
    "class/thermal/thermal_zone0/type": "CPU-therm",
    "class/thermal/thermal_zone0/temp": "48000",
    "class/thermal/thermal_zone1/type": "PMIC-Die",
    "class/thermal/thermal_zone1/temp": "100000",
    "class/thermal/thermal_zone2/type": "GPU-therm",
    "class/thermal/thermal_zone2/temp": "52500",
    "class/thermal/cooling_device0/type": "cpu-throttle-alert",
    "class/thermal/cooling_device0/cur_state": "1",
    "class/thermal/cooling_device1/type": "gpu-throttle-alert",
    "class/thermal/cooling_device1/cur_state": "0",
    "class/hwmon/hwmon3/oc1_event_cnt": "2",
}


def nobody() -> None:
    return None


def test_a_board_without_sensors_gives_none(tmp_path: Path) -> None:
    readings = Sensors(tmp_path / "nothing", ask_firmware=nobody).read()
    assert readings.temperature_c is None
    assert readings.cpu_mhz is None
    assert readings.throttling is None
    assert readings.throttled is None
    assert readings.memory_available_bytes
    assert readings.rss_bytes


def test_raspberry_pi(tmp_path: Path) -> None:
    sensors = Sensors(tree(tmp_path, PI), ask_firmware=lambda: "throttled=0x50005\n")
    readings = sensors.read()
    assert readings.temperature_c == 61.85
    assert readings.cpu_mhz == 600.0
    assert readings.cpu_max_mhz == 1500.0
    both = ("under-voltage", "throttled")
    assert readings.throttling == Throttling(now=both, since_boot=both)
    assert readings.throttling.by_power
    assert readings.throttled is True


def test_sysfs_is_asked_before_the_dear_command(tmp_path: Path) -> None:
    def never() -> str:
        raise AssertionError("vcgencmd was run")

    put(tmp_path, **{"devices/platform/soc/soc:firmware/get_throttled": "80000"})
    readings = Sensors(tmp_path, ask_firmware=never).read()
    assert readings.throttling == Throttling(now=(), since_boot=("soft temperature limit",))
    assert not readings.throttling.by_power
    assert readings.throttled is False


def test_newer_boards_name_the_firmware_by_its_address(tmp_path: Path) -> None:
    folder = "devices/platform/soc@107c000000/soc@107c000000:firmware"
    put(tmp_path, **{f"{folder}/get_throttled": "4"})
    assert Sensors(tmp_path, ask_firmware=nobody).read().throttling == Throttling(("throttled",), ())


@pytest.mark.parametrize(("alarm", "now"), [("0", ()), ("1", ("under-voltage",))])
def test_a_kernel_that_tells_the_voltage_alone(tmp_path: Path, alarm: str, now: tuple[str, ...]) -> None:
    put(tmp_path, **{"class/hwmon/hwmon0/name": "cpu_thermal", "class/hwmon/hwmon1/name": "rpi_volt"})
    put(tmp_path, **{"class/hwmon/hwmon1/in0_lcrit_alarm": alarm})
    assert ThrottleFlags(tmp_path, ask_firmware=nobody).read() == Throttling(now, ())


def test_an_over_current_event_of_a_moment_ago_is_throttling_now(tmp_path: Path) -> None:
    flags = ThrottleFlags(tree(tmp_path, JETSON), ask_firmware=nobody)
    assert flags.read() == Throttling(("cpu",), ("over-current",))
    put(tmp_path, **{"class/hwmon/hwmon3/oc1_event_cnt": "3"})
    assert flags.read() == Throttling(("cpu", "over-current"), ("over-current",))
    assert flags.read() == Throttling(("cpu",), ("over-current",))


def test_jetson(tmp_path: Path) -> None:
    readings = Sensors(tree(tmp_path, JETSON), ask_firmware=nobody).read()
    assert readings.temperature_c == 52.5
    assert readings.throttling == Throttling(now=("cpu",), since_boot=("over-current",))
    assert readings.throttling.by_power


@pytest.mark.parametrize("text", ["", "garbage", "999999999", "-300000"])
def test_a_sensor_that_talks_nonsense_is_absent(tmp_path: Path, text: str) -> None:
    sensors = Sensors(
        tree(tmp_path, {"class/thermal/thermal_zone0/temp": text, "class/thermal/thermal_zone0/type": "cpu"}),
        ask_firmware=lambda: text,
    )
    assert sensors.read().temperature_c is None


def test_an_unreadable_sensor_is_absent_and_the_others_are_read(tmp_path: Path) -> None:
    put(tmp_path, **PI)
    broken = tmp_path / "class/thermal/thermal_zone9"
    (broken / "temp").mkdir(parents=True)  # reading it fails, as a sensor that is suspended does
    assert Sensors(tmp_path, ask_firmware=nobody).read().temperature_c == 61.85


@pytest.mark.parametrize(
    ("text", "now", "since_boot"),
    [
        ("throttled=0x0", (), ()),
        ("throttled=0x8", ("soft temperature limit",), ()),
        ("throttled=0x20000", (), ("frequency capped",)),
        ("throttled=0xf", ("under-voltage", "frequency capped", "throttled", "soft temperature limit"), ()),
    ],
)
def test_bits_of_the_firmware(text: str, now: tuple[str, ...], since_boot: tuple[str, ...]) -> None:
    assert parse_throttled(text) == Throttling(now, since_boot)


@pytest.mark.parametrize("text", ["throttled=", 'error=2 error_msg="Command not registered"', "-1"])
def test_what_the_firmware_says_otherwise_is_no_reading(text: str) -> None:
    assert parse_throttled(text) is None


def command(folder: Path, script: str) -> None:
    path = folder / "vcgencmd"
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_vcgencmd_is_run_and_its_failures_are_tolerated(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert vcgencmd_throttled() is None
    command(tmp_path, 'test "$1" = get_throttled && echo throttled=0x4\n')
    assert parse_throttled(vcgencmd_throttled() or "") == Throttling(("throttled",), ())
    command(tmp_path, "exit 3\n")
    assert vcgencmd_throttled() is None


def test_vcgencmd_that_hangs_is_given_up(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    command(tmp_path, "exec sleep 30\n")
    assert vcgencmd_throttled(within_s=0.05) is None


def test_firmware_that_is_not_there_is_asked_once(tmp_path: Path) -> None:
    asked: list[None] = []

    def ask() -> None:
        asked.append(None)

    sensors = Sensors(tmp_path, ask_firmware=ask)
    for _ in range(3):
        sensors.read()
    assert len(asked) == 1


def test_this_machine() -> None:
    sensors = Sensors()
    sum(range(2_000_000))
    readings = sensors.read()
    assert readings.cpu_load is None or 0.0 <= readings.cpu_load <= 1.0
    assert readings.memory_total_bytes
    assert readings.memory_available_bytes
    assert readings.memory_total_bytes > readings.memory_available_bytes


def test_watch_reads_beside_the_frame_loop(tmp_path: Path) -> None:
    put(tmp_path, **PI)
    watch = Watch(Sensors(tmp_path, ask_firmware=nobody), every_s=0.005)
    watch.start()
    try:
        while watch.latest.temperature_c != 61.85:
            assert watch.is_alive()
        (tmp_path / "class/thermal/thermal_zone0/temp").write_text("70000")
        while watch.latest.temperature_c != 70.0:
            assert watch.is_alive()
    finally:
        watch.stop()
    assert not watch.is_alive()
