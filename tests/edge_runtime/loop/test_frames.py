"""The frame loop against a real server and against one that does as the test says: one answer for every frame."""

from __future__ import annotations

import itertools
import logging
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from edge_runtime.inference.heads import Head
from edge_runtime.link.trouble import Trouble
from edge_runtime.sources import Frame
from split_model.errors import BackendError, BadModelError, ConfigError
from split_model.interpreter import open_interpreter
from split_model.privacy import NoiseSpec
from split_model.protocol.server import Denial


def test_two_hundred_forced_moves_under_load(rig: Any, inside: Any, parts: Any) -> None:
    """Heads come and go in the background, and every frame gets its own answer, once."""
    server = rig.server()
    folder = rig.configure(server).parent
    keys = rig.pair(folder)
    server.allow("device", keys.public)
    device = inside(server.address, server.key, keys=keys, memory_bytes=1)
    whole = open_interpreter(parts.model)
    device.until(lambda: device.link.view().up)
    hog = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        outcomes: dict[str, int] = {}
        wanted = itertools.cycle([1, 2, 3, device.planner.local, 0, 3, 1])
        device.planner.wanted = next(wanted)
        while device.driver.counters.moves < 200:
            frame = device.frame()
            result = device.step(frame).result
            assert result.frame is frame
            assert np.array_equal(result.outputs[0], whole.run(list(frame.tensors))[0]), result.outcome
            outcomes[result.outcome] = outcomes.get(result.outcome, 0) + 1
            if result.split == device.planner.wanted:
                device.planner.wanted = next(wanted)
            assert device.index < 100_000  # frames are quick, and a plan to stay holds for 50 ms
    finally:
        hog.kill()
        hog.wait()
    counters = device.driver.counters.as_dict()
    assert counters["frames_in"] == device.index == sum(outcomes.values())
    assert {outcome: counters[outcome] for outcome in outcomes} == outcomes
    assert outcomes["offloaded"] > 80


def test_same_bytes_again_after_a_reconnection(scripted: Any, inside: Any) -> None:
    device = inside(scripted.address, scripted.public, spec=NoiseSpec(epsilon=8.0)).connect(2)
    device.planner.pinned = True  # only the server answers

    def break_once(_: Any) -> bool:
        if len(scripted.arrived) == 1:
            scripted.restart()
            return False
        return True

    scripted.answer = break_once
    assert device.step().result.outcome == "offloaded"
    first, second = scripted.arrived
    assert first.payload == second.payload
    assert first.request.request_id == second.request.request_id
    assert device.driver.counters.releases == 1
    # A frame of its own is noised by itself.
    assert (
        device.step(Frame(1, "the same", (np.ones((1, 8, 8, 3), np.float32),), None, 0.0)).result.outcome
        == "offloaded"
    )
    assert (
        device.step(Frame(2, "the same", (np.ones((1, 8, 8, 3), np.float32),), None, 0.0)).result.outcome
        == "offloaded"
    )
    assert scripted.arrived[2].payload != scripted.arrived[3].payload


def test_late_answer_is_counted_and_dropped(scripted: Any, inside: Any) -> None:
    device = inside(scripted.address, scripted.public, answer_within_s=0.3).connect(2)
    scripted.answer = lambda _: False
    step = device.step()
    assert step.result.outcome == "fallback"
    assert step.result.outputs[0].tobytes() != scripted.outputs.tobytes()
    scripted.do(lambda: scripted.send_answer(1))
    device.until(lambda: device.link.view().late == 1)
    scripted.answer = lambda _: True
    device.step()
    assert device.driver.counters.as_dict()["frames_in"] == 2
    assert device.driver.counters.late == 1


def test_answer_that_comes_twice_answers_once(scripted: Any, inside: Any) -> None:
    device = inside(scripted.address, scripted.public).connect(2)
    device.planner.pinned = True  # only the server answers

    def twice(arrived: Any) -> bool:
        scripted.send_answer(arrived.request.request_id)
        return True

    scripted.answer = twice
    assert [device.step().result.outcome for _ in range(3)] == ["offloaded"] * 3
    device.until(lambda: device.link.view().late == 3)


@pytest.mark.parametrize("code", ["unknown_bundle", "unknown_cut", "unknown_release", "size", "failed", "protocol"])
def test_refusal_is_shown_and_survived(scripted: Any, inside: Any, caplog: Any, code: Any) -> None:
    device = inside(scripted.address, scripted.public).connect(2)
    device.planner.pinned = True  # on a busy machine the board would be done before the refusal is there
    scripted.admit = lambda _: Denial(code, "the reason it gives")
    outcomes = [device.step().result.outcome for _ in range(5)]
    # Once is enough: no more features go to a server that does not take them.
    assert outcomes == ["fallback", "local", "local", "local", "local"]
    assert device.driver.counters.releases == 1
    shown = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(shown) == 1
    assert code in shown[0]
    assert "the reason it gives" in shown[0]


@pytest.mark.parametrize("code", ["busy", "expired"])
def test_passing_refusal_is_tried_again(scripted: Any, inside: Any, code: Any) -> None:
    device = inside(scripted.address, scripted.public).connect(2)
    device.planner.pinned = True  # this model is so small that nobody would ask a busy server for it
    scripted.admit = lambda _: Denial(code, "not now")
    assert device.step().result.outcome == "fallback"
    scripted.admit = lambda _: None
    device.until(lambda: device.step().result.outcome == "offloaded")


def test_server_of_another_version_is_named(scripted: Any, inside: Any, caplog: Any) -> None:
    scripted.versions_refused = True
    device = inside(scripted.address, scripted.public)
    device.until(lambda: device.link.view().trouble is Trouble.OTHER_VERSION)
    assert device.step().result.outcome == "local"
    scripted.versions_refused = False
    device.until(lambda: device.link.view().up)
    assert sum("upgrade the older side" in record.getMessage() for record in caplog.records) == 1


def test_server_without_our_bundle_is_named_once(scripted: Any, inside: Any, caplog: Any) -> None:
    scripted.offers = ()
    device = inside(scripted.address, scripted.public)
    device.until(lambda: device.link.view().up)
    device.planner.wanted = 2
    assert [device.step().result.outcome for _ in range(3)] == ["local"] * 3
    assert sum("does not host bundle" in record.getMessage() for record in caplog.records) == 1


def test_answer_of_another_shape_is_not_taken(scripted: Any, inside: Any, caplog: Any) -> None:
    device = inside(scripted.address, scripted.public).connect(2)

    def crooked(arrived: Any) -> bool:
        scripted.send_answer(arrived.request.request_id, shape=(2, 5))
        return False

    scripted.answer = crooked
    assert device.step().result.outcome == "fallback"
    assert "does not have the model's outputs" in caplog.text


def test_head_that_fails_is_left_for_local_runs(scripted: Any, inside: Any, monkeypatch: Any, caplog: Any) -> None:
    device = inside(scripted.address, scripted.public).connect(2)

    def fail(*_: Any) -> None:
        raise BackendError("no such op")

    monkeypatch.setattr(Head, "features", fail)
    assert [device.step().result.outcome for _ in range(2)] == ["local", "local"]
    assert caplog.text.count("its head fails: no such op") == 1
    assert device.driver.counters.releases == 0


def test_head_that_does_not_load_leaves_others_alone(
    scripted: Any, inside: Any, monkeypatch: Any, caplog: Any
) -> None:
    device = inside(scripted.address, scripted.public).connect(2)
    device.until(lambda: device.step().result.outcome == "offloaded")
    load = device.heads.load

    def fail(split: int) -> Any:
        if split == 3:
            raise BadModelError("cut-003/head.tflite: not a model")
        return load(split)

    monkeypatch.setattr(device.heads, "load", fail)
    device.planner.wanted = 3
    # Until it turns out, the head in use goes on; then the planner is told that cut 3 is not to be had.
    device.until(lambda: device.step().result.outcome == "local")
    assert caplog.text.count("cut 3 is not used") == 1
    device.planner.wanted = 2
    device.until(lambda: device.step().result.outcome == "offloaded")


def test_whole_model_that_fails_is_a_failed_frame(scripted: Any, inside: Any, monkeypatch: Any) -> None:
    device = inside(scripted.address, scripted.public).connect(2)

    def fail(*_: Any) -> None:
        raise BackendError("out of memory")

    monkeypatch.setattr(device.heads.whole, "run", fail)
    device.planner.wanted = device.planner.local
    step = device.step()
    assert (step.result.outcome, step.result.error) == ("failed", "out of memory")
    device.planner.wanted = 2
    scripted.answer = lambda _: False
    assert device.step().result.outcome == "failed"
    device.until(lambda: scripted.cancelled)  # the request is not left open
    scripted.answer = lambda _: True
    device.until(lambda: device.step().result.outcome == "offloaded")


def test_unreadable_sample_is_a_failed_frame(scripted: Any, inside: Any) -> None:
    device = inside(scripted.address, scripted.public)
    result = device.step(Frame(0, "broken.png", (), None, 0.0, error="broken.png: not a picture")).result
    assert (result.outcome, result.error) == ("failed", "broken.png: not a picture")


def test_link_thread_that_dies_is_not_missed(inside: Any) -> None:
    device = inside("tcp://*:5555", b"a" * 40)
    device.link.join()
    with pytest.raises(ConfigError, match=r"server\.address"):
        device.step()


def test_memory_of_requests_is_given_back(scripted: Any, inside: Any) -> None:
    device = inside(scripted.address, scripted.public, answer_within_s=0.05).connect(2)
    scripted.answer = lambda arrived: arrived.request.request_id % 3 == 0
    for _ in range(60):
        device.step()
    assert device.link.pending == 0


@pytest.mark.parametrize(
    ("allocation", "said"), [("auto", "(auto: best of 3 measured at epsilon 16)"), ("rank", "rank")]
)
def test_the_verbose_log_says_how_the_budget_is_shared(rig: Any, parts: Any, allocation: str, said: str) -> None:
    device = rig.device(verbose=True, planner_split="local", source_repeat=1, release_allocation=allocation)
    assert device.ended() == 0
    lines = [line for line in device.log().splitlines() if "per-value epsilon at most" in line]
    assert len(lines) == len(parts.bundle.manifest.cuts)
    for cut, line in zip(parts.bundle.manifest.cuts, lines, strict=True):
        assert f"allocation {cut.allocation.best if allocation == 'auto' else 'rank'}" in line
        assert line.endswith(said)
