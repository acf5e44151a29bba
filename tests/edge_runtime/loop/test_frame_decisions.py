"""A frame's decisions: made from what is offered and paid for, and from when the next frame comes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from edge_runtime.loop.records import Records
from edge_runtime.sources import Frame
from split_model.protocol import messages as wire


@dataclass
class Purse:
    """Pays for some cuts only."""

    pays: frozenset[int]

    def payable(self, cuts: Iterable[int], subject: str) -> frozenset[int]:
        return self.pays.intersection(cuts)

    def charge(self, cut: int, subject: str) -> bool:
        return cut in self.pays


@pytest.mark.parametrize("objective", ["latency", "throughput"])
def test_a_server_that_offers_what_is_no_cut_ends_nothing(scripted: Any, inside: Any, objective: str) -> None:
    """``local`` has a number, and a server may name any."""
    local = inside(scripted.address, scripted.public).planner.local
    (offer,) = scripted.offers
    scripted.offers = (wire.Offer(identity=offer.identity, name=offer.name, cuts=(*offer.cuts, local, 99)),)
    device = inside(scripted.address, scripted.public, objective=objective).connect(2)
    assert [device.step().result.outcome for _ in range(2)] == ["offloaded"] * 2
    device.planner.wanted = device.planner.local
    assert device.step().result.outcome == "local"


@pytest.mark.parametrize("why", ["not paid for", "not offered"])
def test_while_a_head_loads_the_one_in_use_goes_on_only_where_it_may(
    scripted: Any, inside: Any, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    purse = Purse(frozenset({2, 3}))
    device = inside(scripted.address, scripted.public, account=purse).connect(2)
    assert device.step().result.split == 2
    prepared = device.heads.prepared
    monkeypatch.setattr(device.heads, "prepared", lambda cut: None if cut == 3 else prepared(cut))  # it still loads
    device.planner.wanted = 3
    result = device.step().result
    assert (result.outcome, result.split) == ("offloaded", 2)
    if why == "not paid for":
        purse.pays = frozenset({3})
    else:
        (offer,) = scripted.offers
        scripted.offers = (wire.Offer(identity=offer.identity, name=offer.name, cuts=(3,)),)
        scripted.do(scripted.restart)
        device.until(lambda: not device.link.view().up)
        device.until(lambda: device.link.view().up)
    before = len(scripted.arrived)
    assert device.step().result.outcome == "local"
    assert len(scripted.arrived) == before


def test_the_first_frame_says_nothing_of_when_the_next_one_comes(scripted: Any, inside: Any) -> None:
    device = inside(scripted.address, scripted.public).connect(2)
    decide, seen = device.planner.decide, []

    def noted(conditions: Any, **options: Any) -> Any:
        seen.append(conditions.next_frame_s)
        return decide(conditions, **options)

    device.planner.decide = noted
    first, second = device.frame(), device.frame()
    device.step(first)
    device.step(Frame(second.index, "", second.tensors, None, first.captured_s + 1000.0))
    assert seen[0] == math.inf
    assert 900.0 < seen[1] < 2100.0


@pytest.mark.parametrize("objective", ["latency", "throughput"])
def test_a_decision_names_the_split_that_it_moved_from(scripted: Any, inside: Any, objective: str) -> None:
    """Under ``throughput`` answers come in any order; the first decision moves away from ``local``."""
    device = inside(scripted.address, scripted.public, objective=objective).connect(3).connect(2)
    local = device.planner.local
    splits = [2, 2, 3, local, 3, 3, 2] * 3

    def source() -> Iterator[Frame]:
        for split in splits:
            device.planner.wanted = split
            yield device.frame()

    slow = iter(range(1000))
    scripted.answer = lambda _: next(slow) % 4 != 0  # some are finished here, later than the frames behind them
    records = Records(device.parts.bundle)
    moved = {}
    for step in device.driver.run(source()):
        for record in records.of(step)[:-1]:
            moved[step.result.frame.index] = (record["from"], record["to"])
    before = [local, *splits]
    expected = {i: (before[i], split) for i, split in enumerate(splits) if before[i] != split}
    assert moved == expected
    assert device.driver.counters.moves == len(expected)
