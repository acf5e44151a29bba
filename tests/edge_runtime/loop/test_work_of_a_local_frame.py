"""How much of the program a frame passes that nothing is beside, and that is finished on the board."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

import zmq

from edge_runtime.board.board import RealBoard
from edge_runtime.board.cpu_load import LoadEstimator
from edge_runtime.inference.profile import Profile, SplitTiming
from edge_runtime.loop.board_work import Models
from edge_runtime.loop.driver import Driver, Outside, Settings
from edge_runtime.loop.records import Records
from edge_runtime.planner.planner import Hysteresis, Planner
from edge_runtime.planner.prediction import SplitProfile
from edge_runtime.sources import Frame

#: Functions of `edge_runtime` from when a frame is taken to its record. After an inference none of them is in the
#: processor's caches, and each costs microseconds.
_MOST_FUNCTIONS = 36
_FRAMES = 30


class _Nothing:
    """An account that is never asked to pay."""

    def payable(self, cuts: Iterable[int], subject: str) -> frozenset[int]:
        del subject
        return frozenset(cuts)

    def charge(self, cut: int, subject: str) -> bool:
        raise AssertionError((cut, subject))


def test_a_frame_in_quick_succession_passes_few_functions(inside: Any, parts: Any) -> None:
    """It is compared with the bare interpreter by `benchmarks.device`; this tells of a frame that grows."""
    device = inside("tcp://127.0.0.1:9", zmq.curve_keypair()[0])  # nobody is there
    driver, records = _driver(device, parts), Records(parts.bundle)
    passed: list[list[str]] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and "edge_runtime" in code.co_filename and "tests" not in code.co_filename:
            passed[-1].append(code.co_name)

    def frames() -> Iterator[Frame]:
        for _ in range(_FRAMES):
            yield device.frame()

    steps = driver.run(frames())
    outcomes = set()
    for _ in range(_FRAMES):
        passed.append([])
        sys.setprofile(note)
        step = next(steps)
        records.of(step)
        sys.setprofile(None)
        outcomes.add(step.result.outcome)
    assert next(steps, None) is None
    driver.close()
    assert outcomes == {"local"}
    fewest = min(passed, key=len)
    assert len(fewest) <= _MOST_FUNCTIONS, " ".join(fewest)


def _driver(device: Any, parts: Any) -> Driver:
    """A frame loop over a device's parts, with the planner of the program."""
    local = parts.bundle.local
    timing = SplitTiming(split=local, head_s=1e-4, head_p95_s=1e-4, release_s=0.0, payload_bytes=0)
    return Driver(
        Models(parts.bundle, device.heads),
        Outside(board=RealBoard(), account=_Nothing(), links=(device.link,), boot_id="0" * 32),
        planner=Planner([SplitProfile(local, timing.head_s)], local=local, hysteresis=Hysteresis()),
        profile=Profile(
            bundle=parts.bundle.identity, backend="", threads=1, slowdown=1.0, release="none", splits=(timing,)
        ),
        load=LoadEstimator(),
        settings=Settings(answer_within_s=1.0),
    )
