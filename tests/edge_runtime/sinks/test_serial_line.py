"""Answers over a serial line: each a line that can be checked, and a line that is away holds nobody up."""

from __future__ import annotations

import json
import termios
import time
from functools import reduce
from operator import xor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import serial

from edge_runtime.sinks.serial_line import SerialLine, SerialLineTable, compact
from edge_runtime.sources.serial_packets import write_packet
from split_model.errors import ConfigError

PATIENCE_S = 20.0


def record(name: str = "x.png", **fields: Any) -> dict[str, Any]:
    best = {"class": 3, "label": "cat", "score": 0.5}
    return {"kind": "frame", "name": name, "outcome": "local", "top": [best]} | fields


def until(holds: Any) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def checked(text: bytes) -> list[str]:
    """The fields of a line whose check sum is right."""
    body, check = text.removeprefix(b"$").split(b"*")
    assert int(check, 16) == reduce(xor, body, 0)
    return body.decode().split(",")


def test_lines_as_documented() -> None:
    assert checked(compact(record(), ())) == ["A", "x.png", "local", "3", "0.5000"]
    assert checked(compact(record(name="a,b*$\n"), ()))[1] == "a_b___"
    assert checked(compact(record(error="no good"), ())) == ["E", "x.png"]
    raw = record()
    del raw["top"]
    assert checked(compact(raw, [np.array([[0.25, -1e-9, 3]], np.float32)]))[3:] == ["0.25", "-1e-09", "3"]
    assert len(checked(compact(raw, [np.zeros(1000, np.int8)]))) == 3 + 16


def test_every_answer_is_a_line_and_decisions_are_none(line: Any) -> None:
    sink = SerialLineTable(port=str(line.port), format="json", queue_lines=1000).open()
    sink.write({"kind": "decision"})
    for number in range(200):
        sink.write(record(str(number)))
    text = b""
    while text.count(b"\n") < 200:
        text += line.receive()
    sink.close()
    assert [json.loads(one)["name"] for one in text.splitlines()] == [str(number) for number in range(200)]
    assert sink.counters() == {"written": 200, "lost": 0, "reconnects": 0}


def test_an_unplugged_line_is_counted_and_holds_nobody_up(line: Any) -> None:
    sink = SerialLineTable(port=str(line.port), queue_lines=10).open()
    sink.write(record("before"))
    assert b"before" in line.receive()
    line.unplug()
    started_s = time.monotonic()
    for number in range(1000):
        sink.write(record(str(number)))
    assert time.monotonic() - started_s < 2.0
    line.plug()
    text = b""
    while b",999," not in text:
        text += line.receive()
    until(lambda: sum(sink.counters()[key] for key in ("written", "lost")) == 1001)
    sink.close()
    found = [checked(one)[1] for one in text.splitlines() if one.startswith(b"$")]
    assert found == [str(number) for number in range(1000 - len(found), 1000)]
    counters = sink.counters()
    assert counters["written"] == 1 + len(found)
    assert counters["reconnects"] == 1


def test_a_line_that_takes_nothing_does_not_keep_the_program_from_ending(line: Any) -> None:
    sink = SerialLineTable(port=str(line.port), queue_lines=100_000, format="json").open()
    for _ in range(3000):
        sink.write(record(padding="x" * 200))
    started_s = time.monotonic()
    sink.close()
    assert time.monotonic() - started_s < 10.0
    counters = sink.counters()
    assert counters["written"] + counters["lost"] == 3000
    assert counters["lost"] > 0


def test_what_is_no_serial_port_is_waited_for(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "file").touch()
    sink = SerialLineTable(port=str(tmp_path / "file")).open()
    sink.write(record())
    until(lambda: "Inappropriate ioctl" in caplog.text)
    sink.close()
    assert sink.counters() == {"written": 0, "lost": 1, "reconnects": 0}
    assert isinstance(sink, SerialLine)
    with pytest.raises(ConfigError, match="baud = 123"):
        SerialLineTable(port="x", baud=123).open()


def test_a_microcontroller_asks_and_hears_over_one_line(rig: Any, line: Any) -> None:
    """The real program, source and sink on the same port."""
    port = {"kind": "serial", "port": str(line.port), "baud": 115200}
    tables = {"source": port | {"policy": "all"}, "sink": [port, {"path": "answers.jsonl"}], "emulation": {}}
    device = rig.device(tables=tables, planner_split="local")
    device.until(lambda: ": reading " in device.log())
    picture = np.ones((8, 8, 3), np.float32)
    text = b""
    for sequence in range(20):
        line.send(write_packet(picture, sequence))
        while text.count(b"\n") <= sequence:
            text += line.receive()
    line.send(write_packet(picture[:4], 20))
    while text.count(b"\n") <= 20:
        text += line.receive()
    assert device.stop() == 0
    fields = [checked(one) for one in text.splitlines()]
    assert [field[:2] for field in fields] == [["A", str(n)] for n in range(20)] + [["E", "20"]]
    expected = [record["top"][0]["class"] for record in device.records() if "top" in record]
    assert [int(field[3]) for field in fields[:20]] == expected
    assert "sink serial: written=21\n" in device.log()


def test_opening_the_port_leaves_what_a_source_has_yet_to_read_and_its_flow_control(line: Any) -> None:
    source = serial.Serial(str(line.port), 9600, rtscts=True, exclusive=True, timeout=PATIENCE_S)
    line.send(b"asked before")
    sink = SerialLineTable(port=str(line.port), baud=9600).open()
    sink.write(record())
    assert line.receive().startswith(b"$A")
    assert source.read(12) == b"asked before"
    assert termios.tcgetattr(source.fileno())[2] & termios.CRTSCTS
    sink.close()
    source.close()


def test_a_slow_reader_gets_every_line_whole(line: Any) -> None:
    sink = SerialLineTable(port=str(line.port), format="json", queue_lines=3000).open()
    for number in range(1500):
        sink.write(record(str(number), padding="x" * 100))
    text = b""
    while text.count(b"\n") < 1500:
        text += line.receive()
        time.sleep(0.001)
    sink.close()
    assert [json.loads(one)["name"] for one in text.splitlines()] == [str(number) for number in range(1500)]
    assert sink.counters() == {"written": 1500, "lost": 0, "reconnects": 0}


def test_ports_need_no_modem_lines(line: Any) -> None:
    """A pseudo-terminal has none, and says ENOTTY."""
    sink = SerialLineTable(port=str(line.port), baud=9600).open()
    sink.write(record())
    assert line.receive().startswith(b"$A,x.png,local,3")
    sink.close()
