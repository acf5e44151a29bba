"""One interpreter does one run at a time, whatever became of the frames it ran for."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from edge_runtime.board.board import RealBoard
from edge_runtime.inference.local_runs import LocalRuns


class Counting:
    """Counts how many runs are inside it at once."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.may_end = threading.Event()
        self.has_begun = threading.Event()
        self._lock = threading.Lock()

    def run(self, tensors):
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.has_begun.set()
        self.may_end.wait(10)
        with self._lock:
            self.inside -= 1
        return [np.array(tensor) for tensor in tensors]


def test_a_forgotten_run_is_never_joined_by_another():
    model = Counting()
    runs = LocalRuns(model, RealBoard(), p95_s=0.1, took=lambda _: None)
    runs.start(1, [np.zeros(1)], expected_s=0.1)  # hedged; the server answers, the run goes on
    model.has_begun.wait(10)
    runs.start(2, [np.zeros(1)], expected_s=0.1)  # hedged; the server answers before it begins
    threading.Thread(target=lambda: (time.sleep(0.2), model.may_end.set())).start()
    outputs, _ = runs.now([np.full(1, 3.0)])
    runs.close()
    assert model.most == 1
    assert outputs[0].tolist() == [3.0]


def test_a_run_in_the_background_is_the_frames_run():
    model = Counting()
    model.may_end.set()
    runs = LocalRuns(model, RealBoard(), p95_s=0.1, took=lambda _: None)
    runs.start(7, [np.full(1, 5.0)], expected_s=0.1)
    outputs, _ = runs.finish(7, [np.full(1, 5.0)], expected_s=0.1)
    runs.close()
    assert outputs[0].tolist() == [5.0]
    assert not runs.has_started(7)


def test_a_run_that_goes_on_is_waited_for_and_said_to_be() -> None:
    clock = [100.0]
    model = Counting()
    runs = LocalRuns(model, RealBoard(), p95_s=0.1, took=lambda _: None, now=lambda: clock[0])
    assert runs.wait_s() == 0.0
    left = runs.start(1, [np.zeros(1)], expected_s=0.4)
    clock[0] += 0.1
    assert runs.wait_s() == pytest.approx(0.3)
    runs.start(2, [np.zeros(1)], expected_s=0.4)  # the next frame's comes behind it
    assert runs.wait_s() == pytest.approx(0.7)
    model.may_end.set()
    left.result(10)
    runs.finish(2, [np.zeros(1)], expected_s=0.4)
    assert runs.wait_s() == 0.0
    runs.close()
