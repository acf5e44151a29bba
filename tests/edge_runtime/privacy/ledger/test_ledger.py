"""The ledger as the device uses it: charges, crashes, clocks, and a second program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edge_runtime.privacy.ledger import Amount, Ledger, Limits, Now, epsilon_units, read
from edge_runtime.privacy.ledger.store import LedgerStore, store_path, take_lock
from split_model.errors import NotAllowedError

ONE = Amount(epsilon_units(1.0), 3, 1, 0)
YEAR_S = 365.25 * 86400
#: Where syncing costs nothing, for the many runs of the property tests.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


class World:
    """A board: what really happens, and what its clocks say."""

    def __init__(self):
        self.boot, self.boot_s, self.wall_s, self.real_s = 0, 5.0, 1e9, 0.0

    def now(self) -> Now:
        return Now(f"boot{self.boot}", self.boot_s)

    def wait(self, seconds):
        self.boot_s += seconds
        self.wall_s += seconds
        self.real_s += seconds

    def reboot(self, *, off_s=0.0, wall_s=None):
        self.boot, self.boot_s = self.boot + 1, 5.0
        self.real_s += off_s
        self.wall_s = self.wall_s + off_s if wall_s is None else wall_s


def crash(ledger, folder):
    """What a killed process leaves: its files as they are now."""
    left = {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
    ledger.close()
    for path, content in left.items():
        path.write_bytes(content)


def open_in(folder, world, *, ahead=None, **limits):
    return Ledger.open_in(Path(folder), Limits(**limits), now=world.now, unix_s=lambda: world.wall_s, ahead=ahead)


class Inline(Executor):
    """Writes ahead at once, in the thread that charges."""

    def submit(self, task, /, *arguments):
        task(*arguments)


def test_every_release_is_on_the_disk_before_it_is_made(tmp_path):
    world = World()
    ledger = open_in(tmp_path, world, block_frames=4)
    for made in range(1, 12):
        assert ledger.charge(ONE, "cam") is None
        assert read(tmp_path).total.covers(ONE * made)
    assert read(tmp_path).total == ONE * 12  # three blocks
    ledger.close()
    assert read(tmp_path).total == ONE * 11


def test_a_block_takes_one_write(tmp_path):
    world = World()
    open_in(tmp_path, world).close()
    writes = []

    def pwrite(file, data, offset):
        writes.append(offset)
        return os.pwrite(file, data, offset)

    ledger = Ledger(LedgerStore(store_path(tmp_path), pwrite=pwrite), take_lock(tmp_path), Limits(), world.now)
    writes.clear()
    for _ in range(128):
        assert ledger.charge(ONE, "cam") is None
    assert sorted(writes) == [0, 0, 16384, 16384]  # two blocks, both slots
    ledger.close()


def counted_writes(tmp_path, world, limits, ahead=None):
    """A ledger on a file that notes which slot was written."""
    writes = []

    def pwrite(file, data, offset):
        writes.append(offset)
        return os.pwrite(file, data, offset)

    open_in(tmp_path, world).close()
    file = LedgerStore(store_path(tmp_path), pwrite=pwrite)
    ledger = Ledger(file, take_lock(tmp_path), limits, world.now, ahead=ahead)
    writes.clear()
    return ledger, writes


def test_two_cameras_that_take_turns_have_a_block_each(tmp_path):
    ledger, writes = counted_writes(tmp_path, World(), Limits(block_frames=64))
    for number in range(128):
        assert ledger.charge(ONE, f"cam{number % 2}") is None
    assert len(writes) == 4  # both slots, for each camera's block
    ledger.close()
    assert {name: amount.releases for name, amount in read(tmp_path).subjects.items()} == {"cam0": 64, "cam1": 64}


def test_many_subjects_share_what_is_left_and_none_is_refused_for_another_s_block(tmp_path):
    ledger, _ = counted_writes(tmp_path, World(), Limits(block_frames=64, budget=30 * ONE.epsilon))
    made = 0
    for number in range(40):
        made += ledger.charge(ONE, f"cam{number % 20}") is None
    assert made == 30
    assert read(tmp_path).total.epsilon <= 30 * ONE.epsilon
    ledger.close()


def test_no_frame_waits_for_the_disk(tmp_path):
    """A disk that does not answer: the frames of the old block go on; the one after the last waits, and goes on."""
    world, stuck, moving = World(), threading.Event(), threading.Event()
    moving.set()
    open_in(tmp_path, world).close()

    def fsync(file):
        if threading.current_thread().name.startswith("ahead"):
            stuck.set()
            assert moving.wait(20)
        os.fsync(file)

    ahead = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    ledger = Ledger(
        LedgerStore(store_path(tmp_path), fsync=fsync),
        take_lock(tmp_path),
        Limits(block_frames=16),
        world.now,
        ahead=ahead,
    )
    moving.clear()
    for made in range(1, 17):  # at the 14th two are left, and the next block is ordered
        assert ledger.charge(ONE, "cam") is None
        assert read(tmp_path).total.covers(ONE * made)
        assert stuck.wait(20 if made >= 14 else 0) == (made >= 14)
    waiting = ThreadPoolExecutor(1)
    seventeenth = waiting.submit(ledger.charge, ONE, "cam")
    assert not wait([seventeenth], timeout=0.2).done
    moving.set()
    assert seventeenth.result(20) is None
    assert read(tmp_path).total.covers(ONE * 17)
    ledger.close()
    waiting.shutdown()
    assert read(tmp_path).total == ONE * 17


def test_a_write_ahead_that_fails_stops_the_releases_after_the_block(tmp_path):
    world = World()
    open_in(tmp_path, world).close()
    trouble = []

    def fsync(file):
        if trouble:
            raise OSError(5, "Input/output error")
        os.fsync(file)

    file = LedgerStore(store_path(tmp_path), fsync=fsync)
    ledger = Ledger(file, take_lock(tmp_path), Limits(block_frames=16), world.now, ahead=Inline())
    for _ in range(13):
        assert ledger.charge(ONE, "cam") is None
    trouble.append(1)
    assert ledger.charge(ONE, "cam") is None  # paid for before; the order for the next block fails
    assert "Input/output error" in ledger.charge(ONE, "cam").text
    ledger.close()
    assert read(tmp_path).total.covers(ONE * 14)


def test_a_write_ahead_that_fails_in_any_other_way_stops_the_releases_too(tmp_path):
    world = World()
    open_in(tmp_path, world).close()
    trouble = []

    def fsync(file):
        if trouble:
            raise MemoryError
        os.fsync(file)

    file = LedgerStore(store_path(tmp_path), fsync=fsync)
    ahead = ThreadPoolExecutor(1)
    ledger = Ledger(file, take_lock(tmp_path), Limits(block_frames=16), world.now, ahead=ahead)
    for _ in range(13):
        assert ledger.charge(ONE, "cam") is None
    trouble.append(1)
    assert ledger.charge(ONE, "cam") is None
    with ThreadPoolExecutor(1) as charging:
        refused = [charging.submit(ledger.charge, ONE, "cam") for _ in range(3)]
        assert "MemoryError" in refused[-1].result(20).text
    ledger.close()
    assert read(tmp_path).total.covers(ONE * 16)


def test_writing_ahead_writes_no_more_often(tmp_path):
    for ahead, most in ((None, 20), (Inline(), 24)):
        folder = tmp_path / str(most)
        folder.mkdir()
        ledger, writes = counted_writes(folder, World(), Limits(block_frames=64), ahead)
        for _ in range(640):
            assert ledger.charge(ONE, "cam") is None
        assert len(writes) <= most
        ledger.close()
        assert read(folder).total == ONE * 640


def test_a_crash_forfeits_the_rest_of_the_block_and_no_more(tmp_path):
    world = World()
    ledger = open_in(tmp_path, world, block_frames=10, budget=25 * ONE.epsilon)
    for _ in range(11):
        assert ledger.charge(ONE, "cam") is None
    crash(ledger, tmp_path)
    ledger = open_in(tmp_path, world, block_frames=10, budget=25 * ONE.epsilon)
    assert ledger.used.total == ONE * 20
    made = 0
    while ledger.charge(ONE, "cam") is None:
        made += 1
    assert made == 5
    assert ledger.refusal(ONE, "cam").why == "budget"
    ledger.close()


def test_a_spent_budget_stays_spent_through_restarts(tmp_path):
    world = World()
    for _ in range(3):
        ledger = open_in(tmp_path, world, budget=2 * ONE.epsilon)
        while ledger.charge(ONE, "cam") is None:
            pass
        ledger.close()
        world.reboot(wall_s=world.wall_s + YEAR_S)
    assert read(tmp_path).total == ONE * 2


WINDOW = {"window_s": 3600.0, "window_budget": 5 * ONE.epsilon, "block_frames": 3}


def spend_window(folder, world):
    ledger = open_in(folder, world, **WINDOW)
    made = 0
    while ledger.charge(ONE, "cam") is None:
        made += 1
    return ledger, made


@pytest.mark.parametrize("jump_s", [YEAR_S, -YEAR_S])
def test_a_jump_of_the_wall_clock_refills_no_window(tmp_path, jump_s):
    world = World()
    ledger, made = spend_window(tmp_path, world)
    assert made == 5
    world.wall_s += jump_s
    assert ledger.charge(ONE, "cam").why == "window"
    ledger.close()
    ledger, made = spend_window(tmp_path, world)  # a restart of the program
    assert made == 0
    ledger.close()
    world.reboot(wall_s=world.wall_s - jump_s)  # and back, while the board restarts
    world.reboot(wall_s=world.wall_s + jump_s)
    ledger, made = spend_window(tmp_path, world)
    assert made == 0
    world.wait(3599)
    assert ledger.charge(ONE, "cam").why == "window"
    world.wait(1)
    assert ledger.charge(ONE, "cam") is None
    ledger.close()


def test_measured_time_refills_a_window_across_restarts_of_the_program(tmp_path):
    world = World()
    ledger, _ = spend_window(tmp_path, world)
    crash(ledger, tmp_path)
    world.wait(3600)
    ledger, made = spend_window(tmp_path, world)
    assert made == 5
    ledger.close()


def test_what_a_spent_window_has_aged_survives_the_power(tmp_path):
    """Refused frames write nothing; the age is noted sixteen times a window all the same."""
    world = World()
    ledger, _ = spend_window(tmp_path, world)
    for _ in range(50):
        world.wait(60)
        assert ledger.charge(ONE, "cam").why == "window"
    crash(ledger, tmp_path)
    world.reboot()
    assert read(tmp_path).window_age_s >= 3000 - 3600 / 16
    assert read(tmp_path).window_epsilon == 5 * ONE.epsilon
    world.wait(0)
    ledger = open_in(tmp_path, world, **WINDOW)
    world.wait(600 + 3600 / 16)
    assert ledger.charge(ONE, "cam") is None
    ledger.close()


def test_a_block_bought_in_one_window_does_not_pay_in_the_next(tmp_path):
    """Else a crash in the new window would lose what was released in it."""
    world = World()
    limits = {"window_s": 10.0, "window_budget": 4 * ONE.epsilon, "block_frames": 4}
    ledger = open_in(tmp_path, world, **limits)
    assert ledger.charge(ONE, "cam") is None
    world.wait(10)
    assert ledger.charge(ONE, "cam") is None
    crash(ledger, tmp_path)
    ledger = open_in(tmp_path, world, **limits)
    made = 0
    while ledger.charge(ONE, "cam") is None:
        made += 1
    assert made + 1 <= 4
    ledger.close()


def test_a_second_program_is_refused(tmp_path):
    world = World()
    ledger = open_in(tmp_path, world)
    code = (
        "import sys; from pathlib import Path; from edge_runtime.privacy.ledger import *; "
        "Ledger.open_in(Path(sys.argv[1]), Limits(), now=system_now())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "NotAllowedError" in done.stderr
    assert "another edge-runtime has the privacy ledger" in done.stderr
    with pytest.raises(NotAllowedError):
        open_in(tmp_path, world)
    assert read(tmp_path) is not None  # reading needs no lock
    ledger.close()
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_after_a_failed_write_nothing_leaves_any_more(tmp_path):
    world = World()
    open_in(tmp_path, world).close()
    trouble = []

    def fsync(file):
        if trouble:
            raise OSError(5, "Input/output error")
        os.fsync(file)

    file = LedgerStore(store_path(tmp_path), fsync=fsync)
    ledger = Ledger(file, take_lock(tmp_path), Limits(block_frames=2), world.now)
    assert ledger.charge(ONE, "cam") is None
    trouble.append(1)
    assert ledger.charge(ONE, "cam") is None  # paid for before
    assert ledger.charge(ONE, "cam").why == "ledger"
    trouble.clear()
    assert "Input/output error" in ledger.charge(ONE, "cam").text  # a later sync that succeeds proves nothing
    ledger.close()
    assert read(tmp_path).total.covers(ONE * 2)


CHILD = """
import sys
from pathlib import Path
from edge_runtime.privacy.ledger import Amount, Ledger, Limits, system_now
ledger = Ledger.open_in(Path(sys.argv[1]), Limits(block_frames=2), now=system_now())
while ledger.charge(Amount(1, 1, 1, 0), "cam") is None:
    sys.stdout.write("x")
    sys.stdout.flush()
"""


def test_a_killed_program_has_never_released_more_than_the_ledger_says(tmp_path):
    released = 0
    for read_bytes in (1, 2, 3, 50, 51, 200):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE)
        released += len(child.stdout.read(read_bytes))
        child.send_signal(signal.SIGKILL)
        released += len(child.stdout.read())
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
        ledger_state = read(tmp_path)
        assert ledger_state.total.releases >= released
        # A charge that was made but not reported, and a block of two, for every kill.
        assert ledger_state.total.releases <= released + 3 * 6


class Machine(RuleBasedStateMachine):
    """Charges, crashes, restarts, reboots and clocks that jump, in any order."""

    @initialize(
        block=st.integers(1, 20),
        budget=st.none() | st.integers(0, 60),
        window=st.none() | st.tuples(st.floats(10, 1000), st.integers(1, 20)),
        ahead=st.booleans(),
    )
    def begin(self, block, budget, window, ahead):
        self.folder = tempfile.TemporaryDirectory(dir=MEMORY)
        self.world = World()
        self.limits = {
            "block_frames": block,
            "budget": budget,
            "window_s": window and window[0],
            "window_budget": window and window[1],
            "ahead": Inline() if ahead else None,
        }
        self.released: list[tuple[float, int, str]] = []
        self.ledger = open_in(self.folder.name, self.world, **self.limits)

    @rule(cost=st.integers(1, 9), subject=st.sampled_from(["door", "yard"]), times=st.integers(1, 5))
    def charge(self, cost, subject, times):
        for _ in range(times):
            if self.ledger.charge(Amount(cost, 1, 1, 0), subject) is None:
                self.released.append((self.world.real_s, cost, subject))

    @rule(seconds=st.floats(0, 700))
    def wait(self, seconds):
        self.world.wait(seconds)

    @rule(jump_s=st.sampled_from([-YEAR_S, -3.0, 3.0, YEAR_S]))
    def wall_clock_jumps(self, jump_s):
        self.world.wall_s += jump_s

    @rule(gentle=st.booleans(), boots=st.booleans(), off_s=st.floats(0, 1e6), wall_s=st.none() | st.floats(0, 4e9))
    def restart(self, gentle, boots, off_s, wall_s):
        if gentle:
            self.ledger.close()
        else:
            crash(self.ledger, self.folder.name)
        if boots:
            self.world.reboot(off_s=off_s, wall_s=wall_s)
        self.ledger = open_in(self.folder.name, self.world, **self.limits)

    @invariant()
    def the_disk_knows_all(self):
        if not hasattr(self, "ledger"):
            return
        ledger_state = read(Path(self.folder.name))
        assert ledger_state.total.epsilon >= sum(cost for _, cost, _ in self.released)
        assert ledger_state.total.releases >= len(self.released)
        for subject in ("door", "yard"):
            spent = sum(cost for _, cost, name in self.released if name == subject)
            assert ledger_state.subjects.get(subject, Amount()).epsilon >= spent

    @invariant()
    def no_budget_is_exceeded(self):
        if not hasattr(self, "ledger"):
            return
        if self.limits["budget"] is not None:
            assert sum(cost for _, cost, _ in self.released) <= self.limits["budget"]
        if self.limits["window_s"] is not None:
            # Two windows may touch any stretch of real time that is as long as one, and never three.
            ends_s = self.world.real_s
            recent = sum(cost for at, cost, _ in self.released if at > ends_s - self.limits["window_s"] + 1e-6)
            assert recent <= 2 * self.limits["window_budget"]

    def teardown(self):
        if hasattr(self, "ledger"):
            self.ledger.close()
            ledger_state = read(Path(self.folder.name))
            assert ledger_state.reserved == {}
            self.folder.cleanup()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


@given(st.lists(st.integers(1, 1 << 50), min_size=1, max_size=30))
@settings(max_examples=20, deadline=None)
def test_sums_are_exact_after_a_gentle_end(costs):
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        ledger = open_in(folder, World(), block_frames=2)
        for cost in costs:
            assert ledger.charge(Amount(cost, cost // 2, 1, 0), "cam") is None
        ledger.close()
        assert read(Path(folder)).total == Amount(sum(costs), sum(c // 2 for c in costs), len(costs), 0)
