"""Everything at once that may go wrong between board and server: each frame has one answer, and it is its own."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from edge_runtime.inference.heads import Head
from edge_runtime.loop.pipeline import Pipeline
from edge_runtime.loop.runtime import Runtime
from edge_runtime.sources import Frame
from split_model.errors import BackendError

FRAMES = 100


@dataclass
class Purse:
    """Now and then it does not pay, and tells so beforehand or not."""

    chance: random.Random
    paid: int = 0

    def payable(self, cuts: Iterable[int], subject: str) -> frozenset[int]:
        return frozenset(cut for cut in cuts if self.chance.random() < 0.9)

    def charge(self, cut: int, subject: str) -> bool:
        pays = self.chance.random() < 0.9
        self.paid += pays
        return pays


def fickle(scripted: Any, chance: random.Random) -> None:
    """A server that answers, refuses, says nothing, answers late, and breaks the connection."""

    def later(action: Callable[[], None]) -> None:
        threading.Timer(chance.random() * 0.2, lambda: scripted.do(action)).start()

    def answer(arrived: Any) -> bool:
        if chance.random() < 0.02:
            later(scripted.restart)
        dice = chance.random()
        if 0.6 < dice < 0.8:
            later(lambda: scripted.send_answer(arrived.request.request_id))
        return dice < 0.6

    scripted.answer = answer
    scripted.admit = lambda _: chance.choice([None] * 8 + [("busy", "later"), ("expired", "too late")])


@pytest.mark.parametrize("loop", [Runtime, Pipeline])
@pytest.mark.parametrize("memory_bytes", [1, 1 << 26])  # for one head, for all
def test_each_frame_has_one_answer_and_it_is_its_own(
    scripted: Any, inside: Any, monkeypatch: pytest.MonkeyPatch, loop: type, memory_bytes: int
) -> None:
    chance = random.Random(memory_bytes)
    purse, goes_on = Purse(chance), loop is Runtime
    device = inside(
        scripted.address,
        scripted.public,
        loop=loop,
        goes_on=goes_on,
        answer_within_s=0.1,
        account=purse,
        memory_bytes=memory_bytes,
    ).connect(2)
    runtime, planner = device.runtime, device.planner
    features, submit = Head.features, runtime._submit
    sent: dict[int, tuple[Frame, Head]] = {}

    def unsteady(head: Head, inputs: Any) -> Any:
        if chance.random() < 0.02:
            raise BackendError("out of memory")
        time.sleep(chance.choice([0.0, 0.0, 0.02]))
        return features(head, inputs)

    def noted(frame: Frame, head: Head, payload: memoryview, reservation: Any) -> Any:
        request_id = submit(frame, head, payload, reservation)
        sent[request_id] = frame, head
        return request_id

    def frames() -> Iterator[Frame]:
        for _ in range(FRAMES):
            planner.wanted = chance.choice([1, 2, 2, 3, planner.local])
            planner.hedge = chance.random() < 0.3
            runtime._shunned._until_s.clear()  # what was refused is tried again at once
            yield device.frame()

    monkeypatch.setattr(Head, "features", unsteady)
    monkeypatch.setattr(runtime, "_submit", noted)
    fickle(scripted, chance)
    results = [step.result for step in runtime.run(frames())]

    assert sorted(result.frame.index for result in results) == list(range(FRAMES))
    assert {result.how for result in results} == {"offloaded", "local", "fallback"}
    assert runtime.counters.adds_up
    assert len(sent) == runtime.counters.releases == purse.paid
    for result in results:
        expected = device.heads.whole.run(result.frame.tensors)[0]
        if result.how == "offloaded":
            expected = scripted.outputs.reshape(expected.shape)
        np.testing.assert_array_equal(result.outputs[0], expected)
    for arrived in scripted.arrived:
        frame, head = sent[arrived.request.request_id]
        assert bytes(arrived.payload) == b"".join(part.tobytes() for part in features(head, frame.tensors))
