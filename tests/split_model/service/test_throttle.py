"""Messages that every frame may cause: the first ones, then how many more there were."""

from __future__ import annotations

import logging

import pytest

from split_model.service.throttle import PER_FRAME, Throttle


def test_a_burst_goes_through_and_the_rest_is_counted() -> None:
    clock_s = 0.0
    told: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    handler = Handler()
    handler.addFilter(Throttle(burst=3, every_s=60.0, now=lambda: clock_s))
    log = logging.getLogger("throttled")
    log.propagate = False
    log.addHandler(handler)
    for number in range(100):
        log.error("frame %d: broken", number, extra=PER_FRAME)
        log.error("other %d", number)
    assert [line for line in told if line.startswith("frame")] == [f"frame {n}: broken" for n in range(3)]
    assert sum(line.startswith("other") for line in told) == 100
    told.clear()
    clock_s = 60.0
    for number in range(5):
        log.error("frame %d: broken", number, extra=PER_FRAME)
    assert told == ["frame 0: broken (before this, 97 more like it)", "frame 1: broken", "frame 2: broken"]


@pytest.mark.parametrize("gap_s", [61.0, 600.0])
def test_rare_messages_all_go_through(gap_s: float) -> None:
    clock_s = 0.0
    throttle = Throttle(burst=1, every_s=60.0, now=lambda: clock_s)
    for _ in range(5):
        record = logging.makeLogRecord({"msg": "x", "per_frame": True})
        assert throttle.filter(record)
        assert record.msg == "x"
        clock_s += gap_s
