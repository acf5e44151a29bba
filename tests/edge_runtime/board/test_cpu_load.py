"""The load factor: from what threads wait for, from the clock and a spin; never from how long a frame takes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.board.cpu_load import CpuReadings, LoadEstimator, Speed, Spin, ThreadTimes

EVERY_S = 0.1


@dataclass
class Board:
    """Plays a board: each turn is a tenth of a second, in which a thread runs and waits."""

    estimator: LoadEstimator
    turn: int = 0
    times: dict[int, ThreadTimes] = field(default_factory=lambda: {1: ThreadTimes(0.0, 0.0, 0)})

    def turns(
        self, number: int, *, run_s: float, wait_s: float = 0.0, slices: int = 1, thread: int = 1, **told: Any
    ) -> float:
        """So many turns; ``told``: what else the readings say."""
        for _ in range(number):
            self.turn += 1
            before = self.times.get(thread, ThreadTimes(0.0, 0.0, 0))
            self.times[thread] = ThreadTimes(before.run_s + run_s, before.wait_s + wait_s, before.slices + slices)
            self.estimator.read(CpuReadings(self.turn * EVERY_S, dict(self.times), **told))
        return self.estimator.factor


@pytest.fixture
def board() -> Board:
    return Board(LoadEstimator(cpus=4))


def test_a_thread_that_waits_as_long_as_it_runs_is_a_load_of_two(board: Board) -> None:
    assert board.turns(10, run_s=0.05, wait_s=0.05) == pytest.approx(2.0, rel=0.01)


def test_a_hog_that_came_or_went_is_believed_within_half_a_second(board: Board) -> None:
    board.turns(20, run_s=0.1)
    assert board.turns(5, run_s=0.05, wait_s=0.05) == pytest.approx(2.0, rel=0.01)
    assert board.turns(5, run_s=0.1) == 1.0


@given(st.lists(st.tuples(st.floats(0.0, 0.1), st.integers(1, 50), st.booleans()), min_size=1, max_size=60))
def test_on_a_free_board_the_factor_is_one_whatever_the_frames_take(heads: list[tuple[float, int, bool]]) -> None:
    """Heads of any length, in any number of slices, each with the usual delay before it has a CPU."""
    board = Board(LoadEstimator(cpus=4))
    for (run_s, slices, local), spin in zip(heads, itertools.cycle((None, Spin(0.001, 0.001)))):
        wait_s = 8e-5 * slices
        assert board.turns(1, run_s=run_s, wait_s=wait_s, slices=slices, thread=1 + local, spin=spin) == 1.0


@given(st.lists(st.floats(0.01, 0.1), min_size=20, max_size=40), st.sampled_from((0.5, 1.0, 3.0)))
def test_under_an_equal_load_the_factor_is_the_same_whatever_the_frames_take(
    runs_s: list[float], share: float
) -> None:
    board = Board(LoadEstimator(cpus=4))
    for run_s in runs_s:
        board.turns(1, run_s=run_s, wait_s=share * run_s, slices=0)
    assert board.estimator.factor == pytest.approx(1.0 + share)


def test_small_differences_are_noise(board: Board) -> None:
    factors = {board.turns(1, run_s=0.05, wait_s=0.005 * (turn % 2)) for turn in range(20)}
    assert factors == {1.0}


def test_without_work_a_free_cpu_is_no_load_and_a_busy_board_is(board: Board) -> None:
    assert board.turns(30, run_s=0.0, others=2.0) == 1.0
    assert board.turns(30, run_s=0.0, others=4.0) == pytest.approx(2.0)


def test_our_own_threads_that_wait_for_each_other_are_no_load() -> None:
    """One CPU, and a local run beside a head: how often they meet goes with what they work on."""
    board = Board(LoadEstimator(cpus=1))
    board.turns(5, run_s=0.1)
    for _ in range(20):
        for thread in (1, 2):
            before = board.times.get(thread, ThreadTimes(0.0, 0.0, 0))
            board.times[thread] = ThreadTimes(before.run_s + 0.05, before.wait_s + 0.05, before.slices + 1)
        board.turns(1, run_s=0.0, slices=0)
    assert board.estimator.factor == 1.0


def test_a_clock_at_half_the_profiled_one_is_a_load_of_two() -> None:
    board = Board(LoadEstimator(Speed(clock_mhz=1500.0), cpus=4))
    assert board.turns(5, run_s=0.05, clock_mhz=1500.0) == 1.0
    assert board.turns(1, run_s=0.05, clock_mhz=750.0) == pytest.approx(2.0)
    assert board.turns(1, run_s=0.05, wait_s=0.05, clock_mhz=750.0) == pytest.approx(3.0, rel=0.4)


@pytest.mark.parametrize("profiled", [Speed(spin_s=0.001), Speed()], ids=["known", "not known"])
def test_without_a_clock_the_spin_tells(profiled: Speed) -> None:
    """Where the profile does not have it, the fastest one seen stands for it."""
    board = Board(LoadEstimator(profiled, cpus=4))
    assert board.turns(5, run_s=0.05, spin=Spin(0.002, 0.001)) == 1.0  # it waited, but it was no slower
    assert board.turns(3, run_s=0.05, spin=Spin(0.003, 0.003)) == 1.0  # may have been chance
    assert board.turns(2, run_s=0.05, spin=Spin(0.003, 0.003)) == pytest.approx(3.0)


def test_a_clock_that_the_firmware_holds_back_untold_is_noticed_by_a_settled_spin() -> None:
    board = Board(LoadEstimator(Speed(spin_s=0.001, clock_mhz=1500.0), cpus=4))
    assert board.turns(5, run_s=0.05, clock_mhz=1500.0, spin=Spin(0.001, 0.001, settled=True)) == 1.0
    slow = Spin(0.0025, 0.0025, settled=True)
    assert board.turns(1, run_s=0.05, clock_mhz=1500.0, spin=slow) == pytest.approx(2.5)
    assert board.turns(1, run_s=0.05, clock_mhz=600.0) == pytest.approx(2.5)  # the same, now told: not twice


def test_a_governor_that_lowers_the_clock_between_frames_is_no_load() -> None:
    """How low it goes would tell how much work a frame was."""
    board = Board(LoadEstimator(Speed(spin_s=0.001, clock_mhz=1500.0), cpus=4))
    assert board.turns(20, run_s=0.01, clock_mhz=1500.0, spin=Spin(0.003, 0.003)) == 1.0


@pytest.mark.parametrize(
    ("then", "now", "factor"), [(4.0, 4.0, 1.0), (4.0, 0.5, 2.0), (0.5, 4.0, 0.5), (None, 0.5, 1.0)]
)
def test_a_quota_counts_by_what_it_was_when_profiled(then: float | None, now: float, factor: float) -> None:
    board = Board(LoadEstimator(Speed(cpus=then), cpus=4))
    assert board.turns(5, run_s=0.05, usable_cpus=now, others=0.0) == pytest.approx(factor)


@given(st.lists(st.floats(0.001, 0.05), min_size=3, max_size=30))
def test_under_a_quota_what_it_takes_away_is_no_load_whatever_the_frames_take(runs_s: list[float]) -> None:
    """Kernels before 6.18 count it as waiting: nothing for short work, more than half the time for long work."""
    board = Board(LoadEstimator(Speed(cpus=0.5), cpus=4))
    for run_s in runs_s:
        held_s = max(0.0, run_s - 0.02)
        assert board.turns(1, run_s=run_s, wait_s=held_s, usable_cpus=0.5, others=0.0) == 1.0


@given(st.lists(st.floats(0.0001, 0.004), min_size=5, max_size=30))
def test_a_hog_beside_work_of_less_than_a_time_slice_counts_by_its_profiled_time(runs_s: list[float]) -> None:
    """Each of ten pieces in a turn waits for a millisecond; how long it then runs for changes nothing."""
    load = LoadEstimator(cpus=4, piece_s=0.001)
    run_s = wait_s = 0.0
    for turn, piece_s in enumerate(runs_s, 1):
        run_s, wait_s = run_s + 10 * piece_s, wait_s + 10 * 0.001
        times = {1: ThreadTimes(run_s, wait_s, 20 * turn, pieces=10 * turn)}
        load.read(CpuReadings(turn * EVERY_S, times))
    assert load.factor == pytest.approx(2.0)


def test_without_the_threads_times_the_spin_tells_contention_too() -> None:
    load = LoadEstimator(Speed(spin_s=0.001), cpus=4)
    for turn in range(5):
        load.read(CpuReadings(turn * 0.5, None, 0.5, spin=Spin(0.002, 0.001)))
    assert load.factor == pytest.approx(2.0)
