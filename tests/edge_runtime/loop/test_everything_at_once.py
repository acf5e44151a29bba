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
from edge_runtime.link.frame_link import Reservation
from edge_runtime.planner.cut_backoff import CutBackoff
from edge_runtime.sources import Frame
from split_model.errors import BackendError
from split_model.protocol.server import Denial
from tests.edge_runtime.counting import adds_up

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
    scripted.admit = lambda _: chance.choice([None] * 8 + [Denial("busy", "later"), Denial("expired", "too late")])


@pytest.mark.parametrize("objective", ["latency", "throughput"])
@pytest.mark.parametrize("memory_bytes", [1, 1 << 26])  # for one head, for all
def test_each_frame_has_one_answer_and_it_is_its_own(
    scripted: Any, inside: Any, monkeypatch: pytest.MonkeyPatch, objective: str, memory_bytes: int
) -> None:
    chance = random.Random(memory_bytes)
    purse = Purse(chance)
    device = inside(
        scripted.address,
        scripted.public,
        objective=objective,
        goes_on=objective == "latency",
        answer_within_s=0.1,
        account=purse,
        memory_bytes=memory_bytes,
    ).connect(2)
    planner, features, send = device.planner, Head.features, Reservation.send
    sent: list[int] = []

    def unsteady(head: Head, inputs: Any) -> Any:
        if chance.random() < 0.02:
            raise BackendError("out of memory")
        time.sleep(chance.choice([0.0, 0.0, 0.02]))
        return features(head, inputs)

    def noted(link: Reservation, request: Any, payload: memoryview, *, due_at_s: float) -> None:
        assert purse.paid == len(sent) + 1
        sent.append(request.request_id)
        send(link, request, payload, due_at_s=due_at_s)

    def frames() -> Iterator[Frame]:
        for _ in range(FRAMES):
            planner.wanted = chance.choice([1, 2, 2, 3, planner.local])
            planner.hedge = chance.random() < 0.3
            if chance.random() < 0.7:  # else most frames would meet a link that is down
                device.until(lambda: device.link.view().up)
            yield device.frame()

    monkeypatch.setattr(CutBackoff, "allows", lambda *_, **__: True)  # what was refused is tried again at once
    monkeypatch.setattr(CutBackoff, "asks_first", lambda *_, **__: False)  # and nobody is asked before
    monkeypatch.setattr(Head, "features", unsteady)
    monkeypatch.setattr(Reservation, "send", noted)
    fickle(scripted, chance)
    results = [step.result for step in device.driver.run(frames())]

    assert sorted(result.frame.index for result in results) == list(range(FRAMES))
    assert {result.outcome for result in results} == {"offloaded", "local", "fallback"}
    assert adds_up(device.driver.counters)
    assert len(sent) == len(set(sent)) == device.driver.counters.releases == purse.paid
    for result in results:
        expected = device.heads.whole.run(result.frame.tensors)[0]
        if result.outcome == "offloaded":
            expected = scripted.outputs.reshape(expected.shape)
        np.testing.assert_array_equal(result.outputs[0], expected)
    monkeypatch.setattr(Head, "features", features)
    of_frame = {
        (cut, b"".join(part.tobytes() for part in head.features(result.frame.tensors))): result.frame.index
        for cut, head in ((cut, device.heads.load(cut)) for cut in (1, 2, 3))
        for result in results
    }
    arrived = {one.request.request_id: (one.request.cut, bytes(one.payload)) for one in scripted.arrived}
    whose = {request_id: of_frame[payload] for request_id, payload in arrived.items()}
    assert len(set(whose.values())) == len(whose)  # no frame's features left twice
    for one in scripted.arrived:  # nor were other bytes sent again
        assert arrived[one.request.request_id] == (one.request.cut, bytes(one.payload))
    assert {r.frame.index for r in results if r.outcome == "offloaded"} <= set(whose.values())
    assert {r.frame.index for r in results if r.outcome == "local"}.isdisjoint(whose.values())
