"""When the board runs a frame that was sent, too: at once where that is planned, never early at a fixed split."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from edge_runtime.inference.heads import Head
from split_model.errors import BackendError
from split_model.privacy import NoiseSpec


def goes_on(inside: Any, scripted: Any, **settings: Any) -> Any:
    """A device with what is behind the head of cut 2 at hand."""
    device = inside(scripted.address, scripted.public, goes_on=True, **settings).connect(2)
    device.until(lambda: device.local_tails.behind(2))
    return device


def test_what_is_finished_behind_the_head_is_what_the_whole_model_answers(scripted: Any, inside: Any) -> None:
    device = goes_on(inside, scripted, answer_within_s=0.5, spec=NoiseSpec(epsilon=0.5))
    ran: list[str] = []
    watch(device.heads.whole, "whole", ran)
    watch(device.local_tails.behind(2), "tail", ran)
    scripted.answer = lambda _: False
    frame = device.frame()
    result = device.step(frame).result
    assert (result.outcome, ran) == ("fallback", ["tail"])
    (expected,) = device.heads.whole.run(frame.tensors)
    np.testing.assert_array_equal(result.outputs[0], expected)  # not of the features that left under noise


def test_a_hedged_frame_goes_on_here_behind_its_head(scripted: Any, inside: Any, monkeypatch: Any) -> None:
    device = goes_on(inside, scripted)
    device.planner.hedge = True
    features, ran = Head.features, []
    watch(device.local_tails.behind(2), "tail", ran)
    monkeypatch.setattr(Head, "features", lambda head, inputs: (ran.append("head"), features(head, inputs))[1])
    scripted.answer = lambda _: False
    result = device.step().result
    assert (result.outcome, result.hedged, ran) == ("fallback", True, ["head", "tail"])
    assert device.driver.counters.releases == 1


def test_the_server_may_still_win_a_hedged_frame(scripted: Any, inside: Any, monkeypatch: Any) -> None:
    device = goes_on(inside, scripted)
    device.planner.hedge = True
    tail, answered = device.local_tails.behind(2), threading.Event()
    run = tail.run

    def slow(tensors: Any) -> Any:
        answered.wait(10)
        return run(tensors)

    monkeypatch.setattr(tail, "run", slow)
    result = device.step().result
    answered.set()
    assert (result.outcome, result.hedged) == ("offloaded", True)


def test_where_what_is_behind_the_head_does_not_run_the_whole_model_does(
    scripted: Any, inside: Any, monkeypatch: Any
) -> None:
    device = goes_on(inside, scripted, answer_within_s=0.5)

    def fails(_: Any) -> Any:
        raise BackendError("out of memory")

    monkeypatch.setattr(device.local_tails.behind(2), "run", fails)
    scripted.answer = lambda _: False
    frame = device.frame()
    result = device.step(frame).result
    assert result.outcome == "fallback"
    np.testing.assert_array_equal(result.outputs[0], device.heads.whole.run(frame.tensors)[0])
    assert device.local_tails.behind(2) is None  # nor is it tried again
    assert device.step().result.outcome == "fallback"


def watch(model: Any, name: str, ran: list[str]) -> None:
    run = model.run
    model.run = lambda tensors: (ran.append(name), run(tensors))[1]


@pytest.mark.parametrize("pinned", [False, True])
def test_a_fixed_split_is_finished_here_only_when_the_answer_is_overdue(
    scripted: Any, inside: Any, pinned: bool
) -> None:
    device = inside(scripted.address, scripted.public, answer_within_s=0.8).connect(2)
    device.planner.pinned = pinned
    scripted.answer = lambda _: False
    result = device.step().result
    assert result.outcome == "fallback"
    # Nothing comes back at all: the planner's own choice is given up soon, the user's when time is up.
    assert (result.latency_s > 0.7) == pinned
