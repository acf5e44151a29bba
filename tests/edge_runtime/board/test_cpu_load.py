"""The load factor: what heads really take, and between frames what the CPUs have left."""

from __future__ import annotations

import pytest

from edge_runtime.board.cpu_load import LoadEstimator


class Cpu:
    load = 0.0
    looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return self.load


def test_a_head_that_takes_twice_its_time_is_a_load_of_two() -> None:
    load = LoadEstimator(Cpu(), cpus=4, threads=1)
    for step in range(10):
        load.observed(0.2, 0.1, now_s=step / 10)
    assert load.estimate(1.0) == pytest.approx(2.0, rel=0.01)


def test_heads_too_short_to_time_say_nothing() -> None:
    load = LoadEstimator(Cpu(), cpus=4, threads=1)
    load.observed(0.1, 0.0001, now_s=0.0)
    assert load.estimate(0.1) == 1.0


def test_without_frames_a_free_cpu_is_no_load_and_a_busy_board_is() -> None:
    cpu = Cpu()
    load = LoadEstimator(cpu, cpus=4, threads=1)
    cpu.load = 0.5
    assert load.estimate(10.0) == 1.0
    cpu.load = 1.0
    assert load.estimate(20.0) == pytest.approx(2.0)


def test_the_cpus_are_not_looked_at_for_every_frame() -> None:
    cpu = Cpu()
    load = LoadEstimator(cpu, cpus=4, threads=1)
    for step in range(1000):
        load.estimate(step / 1000)
    assert cpu.looks == 2


def test_a_hog_that_came_is_believed_with_the_first_head() -> None:
    load = LoadEstimator(Cpu(), cpus=4, threads=1)
    for step in range(5):
        load.observed(0.1, 0.1, now_s=step / 10)
    load.observed(0.2, 0.1, now_s=0.5)
    assert load.factor == pytest.approx(2.0)
    load.observed(0.1, 0.1, now_s=0.6)
    assert load.factor == pytest.approx(1.0)


def test_small_differences_are_noise() -> None:
    load = LoadEstimator(Cpu(), cpus=4, threads=1)
    for step in range(20):
        load.observed(0.1 + 0.01 * (-1) ** step, 0.1, now_s=step / 10)
    assert load.factor == pytest.approx(1.0, abs=0.06)


def test_what_a_head_takes_longer_beside_a_local_run_is_no_load() -> None:
    load = LoadEstimator(Cpu(), cpus=4, threads=1)
    load.observed(0.1, 0.1, now_s=0.0)
    for step in range(30):
        load.observed(0.13, 0.1, now_s=0.1 * step, beside=True)
        load.observed(0.1, 0.1, now_s=0.1 * step + 0.05)
    assert load.factor == pytest.approx(1.0, abs=0.02)
