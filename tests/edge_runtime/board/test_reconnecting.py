"""A device that comes and goes: what is opened and closed, how long is waited, and what the log says."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.board.reconnecting import Reconnecting

AWAY = OSError(errno.ENOENT, "No such file or directory")


class Bench:
    """A device whose next attempts to open it are told: an exception, or None where it opens."""

    def __init__(self, **options: Any) -> None:
        self.attempts: list[Exception | None] = []
        self.open: list[int] = []
        self.made = 0
        self.pauses_s: list[float] = []
        self.device: Reconnecting[int] = Reconnecting(
            "sink x: /dev/y", ready="sink x: writing /dev/y", make=self.make, release=self.open.remove,
            retry_s=(0.5, 2.0), **options,
        )  # fmt: skip

    def make(self) -> int:
        outcome = self.attempts.pop(0) if self.attempts else None
        if outcome is not None:
            raise outcome
        self.made += 1
        self.open.append(self.made)
        return self.made

    def get(self) -> int | None:
        return self.device.get(self.pauses_s.append)


@pytest.fixture
def bench(caplog: pytest.LogCaptureFixture) -> Bench:
    caplog.set_level("INFO")
    return Bench()


def test_one_that_is_away_is_tried_again_after_growing_pauses_and_told_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.attempts = [AWAY] * 5
    assert [bench.get() for _ in range(6)] == [None] * 5 + [1]
    assert bench.pauses_s == [0.5, 1.0, 2.0, 2.0, 2.0]
    assert [record.message for record in caplog.records] == [
        "sink x: /dev/y cannot be opened (No such file or directory); waiting for it",
        "sink x: writing /dev/y",
    ]
    assert bench.get() == 1  # it stays open
    assert (bench.device.opened, bench.device.reconnects) == (1, 0)


def test_each_trouble_of_a_device_that_worked_is_a_new_one(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        assert bench.get() is not None
        bench.device.worked()
        bench.device.lose("is gone (Input/output error)")
    assert bench.pauses_s == []
    assert caplog.text.count("is gone") == caplog.text.count("writing") == 3
    assert (bench.device.reconnects, bench.open) == (2, [])


def test_one_that_opens_and_is_of_no_use_fills_neither_log_nor_processor(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(40):
        if bench.get() is not None:
            bench.device.lose("is gone (takes nothing for 2 s)")
    assert len(bench.pauses_s) == 20
    assert bench.pauses_s[:3] == [0.5, 1.0, 2.0]
    assert caplog.text.count("is gone") == 1
    assert caplog.text.count("writing") == 2


@given(st.lists(st.sampled_from(["get", "fail", "worked", "lose", "close"])))
def test_at_most_one_is_ever_open(steps: list[str]) -> None:
    bench = Bench()
    for step in steps:
        match step:
            case "get":
                device = bench.get()
                assert bench.open == ([] if device is None else [device])
            case "fail":
                bench.attempts.append(RuntimeError("camera frontend has timed out"))
            case "worked":
                if bench.device.device is not None:
                    bench.device.worked()
            case "lose":
                bench.device.lose("is gone")
                assert bench.open == []
            case "close":
                bench.device.close()
                assert bench.open == []
    assert bench.device.opened == bench.made
    assert all(0.5 <= pause_s <= 2.0 for pause_s in bench.pauses_s)


def test_what_is_no_trouble_of_the_device_is_raised(bench: Bench) -> None:
    bench.attempts = [TypeError("a fault of ours")]
    with pytest.raises(TypeError):
        bench.get()


def test_closing_is_quiet(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.get()
    caplog.clear()
    bench.device.close()
    bench.device.close()
    assert (bench.open, caplog.text) == ([], "")


def test_one_that_hangs_again_and_again_is_tried_after_growing_pauses_though_it_works_between(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = [0.0]
    bench = Bench(good_after_s=60.0, now=lambda: clock[0])

    def hang_once() -> None:
        while bench.get() is None:
            pass
        clock[0] += 1.0
        bench.device.worked()
        bench.device.lose("gives no picture")

    for _ in range(5):
        hang_once()
    assert bench.pauses_s == [0.5, 1.0, 2.0]  # at once the first two times
    assert caplog.text.count("gives no picture") == 1
    assert bench.device.trouble == "gives no picture"
    while bench.get() is None:
        pass
    bench.device.worked()
    assert bench.device.trouble == "gives no picture; it has come back"
    clock[0] += 61.0
    bench.device.worked()
    assert bench.device.trouble == ""
