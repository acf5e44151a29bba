"""The head is done: send, or go on here. Whatever is decided, every frame has one right answer and counts once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from edge_runtime.inference.heads import Head
from edge_runtime.planner.cut_backoff import CutBackoff
from edge_runtime.planner.planner import AfterHead
from edge_runtime.planner.prediction import predict
from split_model.errors import BackendError


class Seeing:
    """A device whose planner tells what it saw, and decides after the head what the test says: ``send``."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.send = True
        self.asked: list[tuple[int, bool]] = []
        self._decide = device.planner.decide
        device.planner.decide = self.decide
        device.planner.after_head = self.after_head

    def decide(self, conditions: Any, *, now_s: float, ready: frozenset[int]) -> Any:
        decision = self._decide(conditions, now_s=now_s, ready=ready)
        planner = self.device.planner
        predictions = tuple(predict(planner.profile(split), conditions) for split in (*ready, planner.local))
        return replace(decision, seen=conditions, predictions=predictions)

    def after_head(self, split: int, conditions: Any, *, was_local: bool) -> AfterHead:
        self.asked.append((split, was_local))
        return AfterHead(self.send, predict(self.device.planner.profile(split), conditions))

    def goes_local(self) -> None:
        """The next frames are meant to stay, behind the head that ran last."""
        self.device.planner.wanted = self.device.planner.local


@dataclass
class Purse:
    """Pays for some cuts only."""

    pays: frozenset[int]

    def payable(self, cuts: Iterable[int], subject: str) -> frozenset[int]:
        return self.pays.intersection(cuts)

    def charge(self, cut: int, subject: str) -> bool:
        return cut in self.pays


@pytest.fixture
def seeing(scripted: Any, inside: Any) -> Any:
    def make(**settings: Any) -> Seeing:
        device = inside(scripted.address, scripted.public, goes_on=True, **settings).connect(2)
        device.until(lambda: device.local_tails.behind(2))
        return Seeing(device)

    return make


def answers_as_the_whole_model(device: Any, frame: Any, outputs: Any) -> None:
    np.testing.assert_array_equal(outputs[0], device.heads.whole.run(frame.tensors)[0])


def test_a_frame_that_stays_at_the_seam_leaves_the_link_to_probes(scripted: Any, seeing: Any) -> None:
    """Nothing of it crosses, so nothing else would tell when the link is better again."""
    planned = seeing()
    device = planned.device
    planned.send = False
    frame = device.frame()
    result = device.step(frame).result
    assert (result.outcome, result.split, planned.asked) == ("local", device.planner.local, [(2, False)])
    answers_as_the_whole_model(device, frame, result.outputs)
    assert (scripted.arrived, device.driver.counters.releases) == ([], 0)
    probes = scripted.probed
    device.until(lambda: scripted.probed > probes)


def test_a_frame_that_is_not_paid_for_leaves_the_link_to_probes(scripted: Any, seeing: Any) -> None:
    purse = Purse(frozenset({2}))
    device = seeing(account=purse).device
    purse.charge = lambda cut, subject: False  # type: ignore[method-assign]
    assert device.step().result.outcome == "local"
    probes = scripted.probed
    device.until(lambda: scripted.probed > probes)
    assert device.driver.counters.ledger_refused == 1


def test_a_local_frame_goes_through_the_head_and_is_sent_if_that_is_better_by_then(
    scripted: Any, seeing: Any
) -> None:
    planned = seeing()
    device = planned.device
    device.step()
    planned.goes_local()
    result = device.step().result
    assert (result.outcome, result.split, planned.asked[-1]) == ("offloaded", 2, (2, True))
    planned.send = False
    frame = device.frame()
    result = device.step(frame).result
    assert (result.outcome, planned.asked[-1]) == ("local", (2, True))
    answers_as_the_whole_model(device, frame, result.outputs)
    assert len(scripted.arrived) == device.driver.counters.releases == 2


def test_a_frame_that_is_sent_after_all_did_not_stay_for_the_ledger(scripted: Any, seeing: Any) -> None:
    """It counts as kept here by the ledger only if it was."""
    planned = seeing(account=Purse(frozenset({2})))
    device = planned.device
    device.step()
    planned.goes_local()
    assert device.step().result.outcome == "offloaded"
    assert device.driver.counters.ledger_refused == 0
    planned.send = False
    assert device.step().result.outcome == "local"
    assert device.driver.counters.ledger_refused == 1


def test_a_local_frame_that_the_ledger_refuses_twice_counts_once(seeing: Any) -> None:
    purse = Purse(frozenset({2}))
    planned = seeing(account=purse)
    device = planned.device
    device.step()
    planned.goes_local()
    purse.charge = lambda cut, subject: False  # type: ignore[method-assign]
    assert device.step().result.outcome == "local"
    assert device.driver.counters.ledger_refused == 1


def test_a_head_that_failed_is_not_what_local_frames_go_through(
    seeing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is loaded anew after a while; the one that failed would fail again, and keep its cut from being used."""
    planned = seeing()
    device = planned.device
    device.step()

    def fails(*_: Any) -> Any:
        raise BackendError("no memory")

    monkeypatch.setattr(Head, "features", fails)
    assert device.step().result.outcome == "local"
    monkeypatch.setattr(CutBackoff, "allows", lambda *_, **__: True)  # a while later
    planned.goes_local()
    ran: list[Head] = []
    monkeypatch.setattr(Head, "features", lambda head, _: (ran.append(head), fails())[1])
    assert device.step().result.outcome == "local"
    assert ran == []
