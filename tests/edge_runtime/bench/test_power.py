"""The serial power meter: the lines of different meters, energy from readings, a real pseudo-terminal."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.bench.power import Samples, SerialMeter, parse_watts
from split_model.errors import BadInputError, MissingInputError


@pytest.mark.parametrize(
    ("line", "watts"),
    [
        ("3.21", 3.21),
        (" 3.21 \r", 3.21),
        ("P=3.21", 3.21),
        ("power: 3", 3.0),
        ("5.02 V  0.64 A  3.21 W", 3.21),
        ("5.02V,0.64A,3210mW", 3.21),
        ("1.2e1 W", 12.0),
        ("3.21 Wh", None),
        ("5.02 V 0.64 A", None),
        ("", None),
        ("hello", None),
        ("-1.5 W", None),
        ("nan", None),
    ],
)
def test_lines_of_meters(line: str, watts: float | None) -> None:
    assert parse_watts(line) == (None if watts is None else pytest.approx(watts))


@given(st.text(max_size=60))
def test_any_line_is_watts_or_nothing(line: str) -> None:
    watts = parse_watts(line)
    assert watts is None or watts >= 0


def samples(*readings: tuple[float, float]) -> Samples:
    made = Samples()
    for at_s, watts in readings:
        made.add(at_s, watts)
    return made


def test_each_reading_holds_until_the_next() -> None:
    made = samples((0.0, 2.0), (1.0, 4.0), (2.0, 1.0))
    assert made.joules(0.0, 3.0) == pytest.approx(2 + 4 + 1)
    assert made.joules(0.5, 1.5) == pytest.approx(1 + 2)


def test_energy_is_unknown_where_nothing_was_told() -> None:
    assert samples().joules(0.0, 1.0) is None
    assert samples((0.0, 2.0)).joules(0.0, 60.0) is None
    assert samples((50.0, 2.0)).joules(0.0, 51.0) is None
    assert samples((0.0, 2.0), (30.0, 2.0)).joules(0.0, 31.0) is None


@given(st.lists(st.floats(0.0, 100.0), min_size=2, max_size=20), st.floats(0.0, 1.0))
def test_energy_adds_up(watts: list[float], share: float) -> None:
    made = samples(*((float(second), value) for second, value in enumerate(watts)))
    end_s = float(len(watts))
    middle_s = end_s * (0.1 + 0.8 * share)
    parts = (made.joules(0.0, middle_s), made.joules(middle_s, end_s))
    assert None not in parts
    assert sum(parts) == pytest.approx(made.joules(0.0, end_s), abs=1e-6)  # type: ignore[arg-type]


@pytest.fixture
def terminal() -> Iterator[tuple[int, str]]:
    near, far = os.openpty()
    yield near, os.ttyname(far)
    os.close(far)
    os.close(near)


def test_a_meter_on_a_line(terminal: tuple[int, str]) -> None:
    near, name = terminal
    meter = SerialMeter(name, baud=115_200)
    meter.start()
    try:
        started_s = time.monotonic()
        os.write(near, b"garbage\r\n5.0 V 0.5 A 2.5")  # a line comes in pieces
        os.write(near, b" W\r\n")
        meter.wait_for_reading(10.0)
        heard_s = time.monotonic()
        assert meter.joules(heard_s, heard_s + 0.5) == pytest.approx(2.5 * 0.5)
        assert started_s < heard_s
    finally:
        meter.stop()


def test_a_meter_that_says_nothing_is_named(terminal: tuple[int, str]) -> None:
    meter = SerialMeter(terminal[1], baud=115_200)
    meter.start()
    try:
        os.write(terminal[0], b"\xff\xfe\x00\n" * 5)  # the wrong speed
        with pytest.raises(BadInputError, match="--power-baud"):
            meter.wait_for_reading(0.3)
    finally:
        meter.stop()


def test_a_meter_that_is_unplugged_ends_the_readings_not_the_program() -> None:
    near, far = os.openpty()
    meter = SerialMeter(os.ttyname(far), baud=115_200)
    meter.start()
    os.write(near, b"2 W\n")
    meter.wait_for_reading(10.0)
    os.close(near)
    meter.join(10.0)
    assert not meter.is_alive()
    os.close(far)
    meter.stop()


def test_a_meter_that_is_not_there_is_named() -> None:
    with pytest.raises(MissingInputError, match="/dev/no-such-meter"):
        SerialMeter("/dev/no-such-meter", baud=9600)


def test_pyserial_is_not_loaded_without_a_meter() -> None:
    code = "import sys, edge_runtime.daemon.daemon, edge_runtime.bench.power; sys.exit('serial' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
