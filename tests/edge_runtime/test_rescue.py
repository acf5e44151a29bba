"""When the board runs a frame that was sent, too: at once where that is planned, never early at a fixed split."""

from __future__ import annotations

from typing import Any

import pytest

from edge_runtime.heads import Head


def test_a_hedged_frame_is_run_here_beside_its_head(scripted: Any, inside: Any, monkeypatch: Any) -> None:
    device = inside(scripted.address, scripted.public).connect(2)
    device.planner.hedge = True
    features, seen = Head.features, []

    def watched(head: Head, inputs: Any) -> Any:
        seen.append(device.runtime._local_runs.has_started(device.index - 1))
        return features(head, inputs)

    monkeypatch.setattr(Head, "features", watched)
    scripted.answer = lambda _: False
    assert device.step().result.how == "fallback"
    assert seen == [True]
    assert device.runtime.counters.releases == 1


def test_the_server_may_still_win_a_hedged_frame(scripted: Any, inside: Any, monkeypatch: Any) -> None:
    device = inside(scripted.address, scripted.public).connect(2)
    device.planner.hedge = True
    run = device.heads.whole.run

    def slow(tensors: Any) -> Any:
        device.until(lambda: device.runtime.counters.releases)
        device.until(lambda: not device.offload._session.open_requests)
        return run(tensors)

    monkeypatch.setattr(device.heads.whole, "run", slow)
    assert device.step().result.how == "offloaded"


@pytest.mark.parametrize("pinned", [False, True])
def test_a_fixed_split_is_finished_here_only_when_the_answer_is_overdue(
    scripted: Any, inside: Any, pinned: bool
) -> None:
    device = inside(scripted.address, scripted.public, answer_within_s=0.8).connect(2)
    device.planner.pinned = pinned
    scripted.answer = lambda _: False
    result = device.step().result
    assert result.how == "fallback"
    # Nothing comes back at all: the planner's own choice is given up soon, the user's when time is up.
    assert (result.latency_s > 0.7) == pinned
