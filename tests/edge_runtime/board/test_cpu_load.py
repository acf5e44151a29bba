"""The load factor: from others' threads, the clock, a spin and the quota; never from how long a frame takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.board.board import RealBoard
from edge_runtime.board.cpu_load import CpuReadings, LoadEstimator, Speed, Spin
from edge_runtime.board.load_watch import LoadReader


def turns(load: LoadEstimator, number: int, **told: Any) -> float:
    """So many readings, each a tenth of a second after the last."""
    for _ in range(number):
        load.read(CpuReadings(**told))
    return load.factor


@pytest.mark.parametrize(
    ("cpus", "threads", "rivals", "factor"),
    [(1, 1, 1.0, 2.0), (1, 1, 3.0, 4.0), (4, 1, 3.0, 1.0), (4, 1, 7.0, 2.0), (4, 4, 4.0, 2.0), (4, 1, 0.0, 1.0)],
)
def test_each_thread_that_wants_a_cpu_gets_its_share(cpus: int, threads: int, rivals: float, factor: float) -> None:
    assert turns(LoadEstimator(cpus=cpus, threads=threads), 10, rivals=rivals) == pytest.approx(factor)


def test_a_program_that_may_use_one_cpu_of_four_meets_its_share_of_the_others() -> None:
    assert turns(LoadEstimator(cpus=4, allowed=1), 10, rivals=4.0) == pytest.approx(2.0)


def test_a_hog_that_came_or_went_is_believed_within_half_a_second() -> None:
    load = LoadEstimator(cpus=1)
    assert turns(load, 20, rivals=0.0) == 1.0
    assert turns(load, 5, rivals=1.0) == pytest.approx(2.0)
    assert turns(load, 5, rivals=0.0) == 1.0


@given(st.lists(st.floats(0.0, 0.19), min_size=1, max_size=60))
def test_a_moment_of_somebody_elses_is_no_load(rivals: list[float]) -> None:
    load = LoadEstimator(cpus=1)
    assert {load.read(CpuReadings(rivals=one)) for one in rivals} == {1.0}


def put(proc: Path, running: int, states: str) -> Path:
    """A kernel that tells of so many running threads, and of the states of ours."""
    (proc / "self" / "task").mkdir(parents=True, exist_ok=True)
    (proc / "stat").write_text(f"cpu  1 2 3\nintr 5 0\nprocs_running {running}\nprocs_blocked 1\n")
    for number, state in enumerate(states):
        (proc / "self" / "task" / str(number)).mkdir(exist_ok=True)
        (proc / "self" / "task" / str(number) / "stat").write_bytes(f"{number} (a R) b) {state} 1 1".encode())
    return proc


@pytest.mark.parametrize(
    ("running", "states", "rivals"), [(1, "RSS", 0.0), (3, "RSS", 2.0), (3, "RRS", 1.0), (1, "RRR", 0.0)]
)
def test_our_own_threads_are_no_load(tmp_path: Path, running: int, states: str, rivals: float) -> None:
    """However many of them are at work: how often they are goes with what they work on."""
    reader = LoadReader(RealBoard(), proc=put(tmp_path, running, states))
    assert reader.read().rivals == rivals


def test_a_process_that_we_started_is_no_load(tmp_path: Path) -> None:
    """One that decodes a camera's pictures takes longer for some than for others."""
    put(tmp_path, 5, "RS")
    for process, parent in (("77", os.getpid()), ("78", 1)):
        (tmp_path / process / "task" / "0").mkdir(parents=True)
        (tmp_path / process / "stat").write_bytes(f"{process} (a b) 1) S {parent} 1".encode())
        (tmp_path / process / "task" / "0" / "stat").write_bytes(f"{process} (a) R 1 1".encode())
    for thread, state in enumerate("RRS", start=1):
        (tmp_path / "77" / "task" / str(thread)).mkdir(parents=True)
        (tmp_path / "77" / "task" / str(thread) / "stat").write_bytes(f"{thread} (decoder) {state} 1 1".encode())
    reader = LoadReader(RealBoard(), proc=tmp_path)
    assert reader.read().rivals == 1.0  # of five that run, one is ours and three the decoder's


def test_a_kernel_that_does_not_tell_is_no_load(tmp_path: Path) -> None:
    reader = LoadReader(RealBoard(), proc=tmp_path / "nothing")
    assert LoadEstimator(cpus=2).read(CpuReadings(rivals=reader.read().rivals)) == 1.0


def test_a_clock_at_half_the_profiled_one_is_a_load_of_two() -> None:
    load = LoadEstimator(Speed(clock_mhz=1500.0), cpus=4)
    assert turns(load, 5, clock_mhz=1500.0) == 1.0
    assert turns(load, 1, clock_mhz=750.0) == pytest.approx(2.0)
    assert turns(load, 5, clock_mhz=750.0, rivals=5.0) == pytest.approx(3.0)


@pytest.mark.parametrize("profiled", [Speed(spin_s=0.001), Speed()], ids=["known", "not known"])
def test_without_a_clock_the_spin_tells(profiled: Speed) -> None:
    """Where the profile does not have it, the fastest one seen stands for it."""
    load = LoadEstimator(profiled, cpus=4)
    assert turns(load, 5, spin=Spin(0.002, 0.001)) == 1.0  # it waited, but it was no slower
    assert turns(load, 3, spin=Spin(0.003, 0.003)) == 1.0  # may have been chance
    assert turns(load, 2, spin=Spin(0.003, 0.003)) == pytest.approx(3.0)


def test_a_clock_that_the_firmware_holds_back_untold_is_noticed_by_a_settled_spin() -> None:
    load = LoadEstimator(Speed(spin_s=0.001, clock_mhz=1500.0), cpus=4)
    assert turns(load, 5, clock_mhz=1500.0, spin=Spin(0.001, 0.001, settled=True)) == 1.0
    slow = Spin(0.0025, 0.0025, settled=True)
    assert turns(load, 1, clock_mhz=1500.0, spin=slow) == pytest.approx(2.5)
    assert turns(load, 1, clock_mhz=600.0) == pytest.approx(2.5)  # the same, now told: not twice


def test_a_governor_that_lowers_the_clock_between_frames_is_no_load() -> None:
    """How low it goes would tell how much work a frame was."""
    load = LoadEstimator(Speed(spin_s=0.001, clock_mhz=1500.0), cpus=4)
    assert turns(load, 20, clock_mhz=1500.0, spin=Spin(0.003, 0.003)) == 1.0


@pytest.mark.parametrize(
    ("then", "now", "factor"), [(4.0, 4.0, 1.0), (4.0, 0.5, 2.0), (0.5, 4.0, 0.5), (None, 0.5, 1.0)]
)
def test_a_quota_counts_by_what_it_was_when_profiled(then: float | None, now: float, factor: float) -> None:
    load = LoadEstimator(Speed(cpus=then), cpus=4)
    assert turns(load, 5, usable_cpus=now) == pytest.approx(factor)
