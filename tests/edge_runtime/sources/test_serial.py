"""The real program on a pseudo-terminal: noise, pulled plugs, too fast a line. `make test-serial` takes long."""

from __future__ import annotations

import collections
import errno
import itertools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_runtime.sources import Wanted
from edge_runtime.sources.serial_packets import write_packet
from edge_runtime.sources.serial_port import SerialSource, SerialTable
from split_model.bundle import TensorSpec
from split_model.errors import ConfigError, NotAllowedError
from split_model.interpreter import open_interpreter

#: How many packets go over the line in the long test.
PACKETS = int(os.environ.get("SERIAL_PACKETS", "20000"))
PATIENCE_S = 20.0
ENDS = ("offloaded", "local", "fallback", "failed", "dropped")
#: What happens to a packet, and how often: half of them are left alone.
FATES = ("whole", "garbage before", "no last zero", "flip", "burst", "drop", "add", "cut", "split")
WEIGHTS = (0.5, 0.1, 0.05, 0.1, 0.05, 0.05, 0.05, 0.05, 0.05)
UNTOUCHED = FATES[:3]

pytestmark = pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs pseudo-terminals")


class Top(msgspec.Struct):
    cls: int = msgspec.field(name="class")


class Record(msgspec.Struct):
    kind: str
    name: str = ""
    source: str = ""
    outcome: str = ""
    error: str = ""
    top: list[Top] = []


class Answers(threading.Thread):
    """Reads the program's standard output; how often each packet was answered, and answers that are wrong."""

    def __init__(self, stdout: Any, expected: list[int]) -> None:
        super().__init__(daemon=True)
        self.count: collections.Counter[int] = collections.Counter()
        self.total = 0
        self.wrong: list[Record] = []
        self._stdout = stdout
        self._expected = expected
        self.start()

    def run(self) -> None:
        decoder = msgspec.json.Decoder(Record)
        for text in self._stdout:
            record = decoder.decode(text)
            if record.kind != "frame":
                continue
            sequence = int(record.name)
            self.count[sequence] += 1
            self.total += 1
            if record.outcome != "local" or record.top[0].cls != self._expected[sequence % len(self._expected)]:
                self.wrong.append(record)


def noisy(packet: bytes, fate: str, rng: np.random.Generator) -> bytes:
    """What becomes of a packet on the way; noise is any bytes, zeros too."""
    at = int(rng.integers(2, len(packet) - 2))
    some = rng.bytes(int(rng.integers(1, 40)))
    match fate:
        case "garbage before":
            return some + packet
        case "no last zero":  # the next packet's first one ends it as well
            return packet[:-1]
        case "flip":
            return packet[:at] + bytes([packet[at] ^ int(rng.integers(1, 256))]) + packet[at + 1 :]
        case "burst":
            return packet[:at] + b"\xff" + some + packet[at + len(some) + 1 :]
        case "drop":
            return packet[:at] + packet[at + 1 + int(rng.integers(0, 9)) :]
        case "add":
            return packet[:at] + some + packet[at:]
        case "cut":
            return packet[:at]
        case "split":
            return packet[:at] + b"\0" + packet[at:]
    return packet


def start(config: Path) -> subprocess.Popen[bytes]:
    with config.with_name("log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "edge_runtime", "run", "-c", str(config)],
            stdout=subprocess.PIPE,
            stderr=log,
        )


def until_open(program: subprocess.Popen[bytes], config: Path, times: int = 1) -> None:
    """What is sent before the program has opened the port is lost, as on any serial line."""
    deadline_s = time.monotonic() + PATIENCE_S
    while (log := config.with_name("log").read_text()).count(": reading ") < times:
        assert program.poll() is None, log
        assert time.monotonic() < deadline_s, log
        time.sleep(0.01)


def serial_config(rig: Any, line: Any, **table: Any) -> Path:
    source = {"kind": "serial", "port": str(line.port), "baud": 921600, "name": "mcu"} | table
    return rig.configure(tables={"source": source, "sink": {}, "emulation": {}}, planner_split="local")


def numbers(config: Path, what: str) -> collections.Counter[str]:
    """The counters of one line of the log."""
    found = [text for text in config.with_name("log").read_text().splitlines() if f"{what}: " in text][-1]
    pairs = found.split(f"{what}: ")[1].split()
    return collections.Counter({key: int(float(value)) for key, value in (pair.split("=") for pair in pairs)})


@pytest.mark.timeout(120 + PACKETS // 200)
def test_every_intact_packet_is_answered_once_and_nothing_else(rig: Any, parts: Any, line: Any) -> None:
    whole = open_interpreter(parts.model)
    pictures = [np.random.default_rng(seed).random((1, 8, 8, 3), np.float32) for seed in range(61)]
    expected = [int(whole.run([picture])[0].argmax()) for picture in pictures]
    assert len(set(expected)) > 3
    config = serial_config(rig, line, policy="all")
    program = start(config)
    answers = Answers(program.stdout, expected)
    until_open(program, config)
    rng = np.random.default_rng(7)
    intact: set[int] = set()
    told: collections.Counter[str] = collections.Counter()
    pulls = 0
    last = "whole"

    def until_answered() -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while answers.total < len(intact):
            assert program.poll() is None, config.with_name("log").read_text()
            assert time.monotonic() < deadline_s, (answers.total, len(intact))
            time.sleep(0.002)

    started_s = time.monotonic()
    try:
        for first in range(0, PACKETS, 500):
            fates = rng.choice(FATES, size=min(500, PACKETS - first), p=WEIGHTS).tolist()
            for number, (before, fate) in enumerate(itertools.pairwise([last, *fates])):
                if (before, fate) == ("no last zero", "garbage before"):
                    fates[number] = "whole"  # that noise would touch the packet before it
            last = fates[-1]
            told.update(fates)
            batch = b""
            for sequence, fate in enumerate(fates, first):
                batch += noisy(write_packet(pictures[sequence % len(pictures)], sequence), fate, rng)
                if fate in UNTOUCHED:
                    intact.add(sequence)
            line.send(batch)
            if first // 500 % 5 == 4:
                # The plug is pulled within a packet, which is lost; what came before it is not.
                line.send(write_packet(pictures[0], first)[: int(rng.integers(1, 700))])
                until_answered()
                line.unplug()
                time.sleep(0.01)
                line.plug()
                pulls += 1
                until_open(program, config, 1 + pulls)
        line.send(b"\0")
        until_answered()
        took_s = time.monotonic() - started_s
        program.terminate()
        assert program.wait(PATIENCE_S) == 0
        answers.join(PATIENCE_S)
    finally:
        program.kill()
        program.wait()
        program.stdout.close()
    log = config.with_name("log").read_text()
    assert "Traceback" not in log
    assert answers.wrong == []
    assert answers.count.keys() == intact
    assert set(answers.count.values()) == {1}
    counters, source = numbers(config, "done"), numbers(config, "source mcu")
    assert counters["frames_in"] == counters["local"] == len(intact) == sum(counters[end] for end in ENDS)
    assert source["frames"] == source["packets"] == len(intact)
    assert source["reconnects"] == pulls
    assert source["damaged"] > 0
    print(f"\n{PACKETS} packets in {took_s:.0f} s, {pulls} plugs pulled: {dict(told)}; {source}")


def test_the_latest_packet_wins_and_the_others_are_counted(rig: Any, line: Any) -> None:
    config = serial_config(rig, line)
    program = start(config)
    sent = 400
    try:
        until_open(program, config)
        tensor = np.ones((8, 8, 3), np.float32)
        line.send(b"".join(write_packet(tensor, sequence) for sequence in range(sent)))
        line.until_read()
        line.send(write_packet(tensor, sent))
        names = []
        while str(sent) not in names:
            names.append(msgspec.json.decode(program.stdout.readline(), type=Record).name)
        program.terminate()
        assert program.wait(PATIENCE_S) == 0
    finally:
        program.kill()
        program.wait()
        program.stdout.close()
    counters, source = numbers(config, "done"), numbers(config, "source mcu")
    assert source["packets"] == sent + 1 == counters["frames_in"] == sum(counters[end] for end in ENDS)
    assert counters["dropped"] == source["dropped"] == sent + 1 - len(names) > 0
    assert [int(name) for name in names] == sorted({int(name) for name in names})


def test_what_does_not_fit_the_model_is_an_answer_that_says_why(rig: Any, line: Any) -> None:
    config = serial_config(rig, line, policy="all")
    program = start(config)
    try:
        until_open(program, config)
        line.send(write_packet(np.zeros((8, 8, 3), np.int16), 1))
        line.send(write_packet(np.full((8, 8, 3), np.nan, np.float32), 2))
        line.send(write_packet(np.zeros((30, 20, 3), np.uint8), 3))  # a picture, which the bundle can prepare
        records = [msgspec.json.decode(program.stdout.readline(), type=Record) for _ in range(3)]
    finally:
        program.kill()
        program.wait()
        program.stdout.close()
    assert [(record.name, record.outcome) for record in records] == [
        ("1", "failed"),
        ("2", "failed"),
        ("3", "local"),
    ]
    assert "int16[8, 8, 3]" in records[0].error
    assert "not finite" in records[1].error


SPEC = TensorSpec(name="in", shape=(1, 4), dtype="float32")


def test_overruns_are_the_drivers_counts_since_we_opened_the_port(line: Any) -> None:
    counts = [[0] * 20]
    counts[0][7] = 5  # from before

    source = SerialSource(SerialTable(port=str(line.port)), Wanted((SPEC,)), counts=lambda _: tuple(counts[0]))
    stopping = threading.Event()
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.extend(f.name for f in source.frames(stopping.is_set)))
    thread.start()
    deadline_s = time.monotonic() + PATIENCE_S
    try:
        while not source.opened:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        line.send(write_packet(np.zeros(4, np.float32), 1))
        while source.counters()["packets"] == 0:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        assert source.counters()["overruns"] == 0
        counts[0][7] += 2
        counts[0][10] += 1
        while source.counters()["overruns"] != 3:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
    finally:
        stopping.set()
        thread.join()
        source.close()


def test_a_port_that_is_not_there_is_waited_for(rig: Any, line: Any) -> None:
    line.unplug()
    config = serial_config(rig, line)
    program = start(config)
    try:
        deadline_s = time.monotonic() + PATIENCE_S
        while "cannot be opened" not in config.with_name("log").read_text():
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        line.plug()
        until_open(program, config)
        line.send(write_packet(np.zeros((8, 8, 3), np.float32), 77))
        assert msgspec.json.decode(program.stdout.readline(), type=Record).name == "77"
    finally:
        program.kill()
        program.wait()
        program.stdout.close()
    assert config.with_name("log").read_text().count("waiting for it") == 1


def test_a_second_program_does_not_take_every_other_byte(line: Any, caplog: Any) -> None:
    sources = [SerialSource(SerialTable(port=str(line.port)), Wanted((SPEC,))) for _ in range(2)]
    stopping = threading.Event()
    threads = [threading.Thread(target=lambda s=source: list(s.frames(stopping.is_set))) for source in sources]
    for thread in threads:
        thread.start()
    deadline_s = time.monotonic() + PATIENCE_S
    try:
        while os.strerror(errno.EAGAIN) not in caplog.text:
            assert time.monotonic() < deadline_s, caplog.text
            time.sleep(0.01)
        assert sorted(source.opened for source in sources) == [0, 1]
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
        for source in sources:
            source.close()


def test_what_cannot_work_is_said_before_the_start(tmp_path: Path) -> None:
    two = Wanted((SPEC, SPEC))
    with pytest.raises(ConfigError, match="takes 2; use kind 'socket'"):
        SerialTable(port="/dev/null").check(two)
    with pytest.raises(ConfigError, match="max_packet_bytes = 64"):
        SerialTable(port="x", max_packet_bytes=64).check(
            Wanted((TensorSpec(name="in", shape=(1, 40), dtype="float32"),))
        )
    if os.getuid() != 0:
        closed = tmp_path / "ttyS0"
        closed.touch(mode=0)
        with pytest.raises(NotAllowedError, match="dialout"):
            SerialTable(port=str(closed)).check(Wanted((SPEC,)))
