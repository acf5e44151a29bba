"""Interpreters to borrow: shared among threads, bounded by what the process takes, fair among devices."""

from __future__ import annotations

import pytest

from cloud_server.tail_pool import TailPool
from cloud_server.tails import Tail, TailSet

EACH = 1000


class Memory:
    """A process that takes `EACH` for an interpreter; the pool asks what it takes."""

    def __init__(self) -> None:
        self.pool: TailPool | None = None
        self.other_bytes = 0

    def __call__(self) -> int:
        return self.other_bytes + (EACH * self.pool.interpreters if self.pool else 0)


@pytest.fixture
def memory():
    return Memory()


@pytest.fixture
def tails(make_bundle, tmp_path) -> list[Tail]:
    bundles = [make_bundle(tmp_path / f"bundle-{seed}", seed) for seed in range(3)]
    return TailSet(bundles).every()


def make_pool(memory: Memory, interpreters: int, **options: object) -> TailPool:
    now_s = iter(range(1_000_000))
    memory.pool = TailPool(
        interpreters * EACH, tail_threads=1, clock=lambda: float(next(now_s)), resident_bytes=memory, **options
    )
    return memory.pool


def run(pool: TailPool, tail: Tail, device: str = "some device") -> bool:
    """Borrow and give back; whether it had to be loaded."""
    borrowed = pool.borrow(tail, device=device)
    pool.give_back(borrowed)
    return borrowed.fresh


def test_an_idle_interpreter_is_borrowed_again_and_a_busy_one_is_not(memory, tails):
    pool = make_pool(memory, 10)
    first = pool.borrow(tails[0], device="a")
    second = pool.borrow(tails[0], device="b")
    assert first.interpreter is not second.interpreter
    pool.give_back(first)
    pool.give_back(second)
    assert {run(pool, tails[0]) for _ in range(5)} == {False}
    assert pool.interpreters == 2


def test_all_workers_together_keep_to_the_bound(memory, tails):
    pool = make_pool(memory, 3)
    for tail in tails:
        borrowed = [pool.borrow(tail, device="a") for _ in range(2)]
        for one in borrowed:
            pool.give_back(one)
        assert pool.interpreters <= 3


def test_a_second_interpreter_of_a_tail_goes_before_the_only_one_of_another(memory, tails):
    pool = make_pool(memory, 3)
    borrowed = [pool.borrow(tails[0], device="a") for _ in range(3)]
    for one in borrowed:
        pool.give_back(one)
    assert run(pool, tails[1])
    assert not run(pool, tails[0])
    assert not run(pool, tails[1])


def test_a_device_that_cycles_cuts_reloads_its_own_and_nobody_elses(memory, tails):
    pool = make_pool(memory, 3)
    assert run(pool, tails[0], "steady")
    for number in range(20):
        run(pool, tails[1 + number % 5], "cycler")
        assert not run(pool, tails[0], "steady")


def test_what_is_borrowed_and_what_ran_last_stays_however_tight_the_bound(memory, tails):
    pool = make_pool(memory, 0)
    held = pool.borrow(tails[0], device="a")
    assert run(pool, tails[1])
    assert not run(pool, tails[1])
    pool.give_back(held)
    assert pool.interpreters >= 1
    assert run(pool, tails[2])
    assert run(pool, tails[1])  # it had to go


def test_memory_that_is_not_the_tails_does_not_push_them_out(memory, tails):
    pool = make_pool(memory, 2, held_bytes=lambda: memory.other_bytes)
    assert run(pool, tails[0])
    memory.other_bytes = 100 * EACH  # payloads
    assert run(pool, tails[1])
    assert not run(pool, tails[0])


def test_where_the_kernel_does_not_tell_the_files_sizes_count(tails):
    size = max(tail.file.size_bytes for tail in tails)
    pool = TailPool(5 * size, tail_threads=1, clock=lambda: 0.0, resident_bytes=lambda: None)
    for tail in tails:
        assert run(pool, tail)
    assert pool.interpreters < len(tails)


def test_this_process_tells_what_it_takes():
    from cloud_server.resident_memory import pss_bytes

    before = pss_bytes()
    assert before is not None
    ballast = bytearray(b"x" * (64 << 20))
    after = pss_bytes()
    assert after is not None
    assert after - before > len(ballast) * 0.9
