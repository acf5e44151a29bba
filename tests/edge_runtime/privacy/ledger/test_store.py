"""Cut at every byte of every write, or rotten at rest: what is read is never less than what was released."""

from __future__ import annotations

import errno
import os
from concurrent.futures import Executor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.privacy.ledger import Amount, Ledger, LedgerError, Limits, Now, epsilon_units, read
from edge_runtime.privacy.ledger.store import (
    FILE_BYTES,
    SLOT_BYTES,
    LedgerStore,
    decode,
    encode,
    marker_path,
    store_path,
    take_lock,
)
from split_model.errors import OutputError

ONE = Amount(epsilon_units(1.0), 3, 1, 0)


class Disk:
    """Notes every write with what had been released before it began."""

    def __init__(self):
        self.released = Amount()
        self.writes: list[tuple[bytes, int, Amount]] = []

    def pwrite(self, file: int, data: bytes, offset: int) -> int:
        self.writes.append((data, offset, self.released))
        return os.pwrite(file, data, offset)


def now():
    return Now("boot", 1.0)


def open_on(state, disk):
    limits = Limits(block_frames=3)
    if not store_path(state).exists():
        Ledger.open_in(state, limits, now=now).close()
    return Ledger(LedgerStore(store_path(state), pwrite=disk.pwrite), take_lock(state), limits, now)


def history(state):
    """Two runs with charges for two subjects; the first ends with its block unused, the second gives it back."""
    disk = Disk()
    Ledger.open_in(state, Limits(), now=now).close()
    before = store_path(state).read_bytes()
    for costs, gentle in (([ONE, ONE, ONE * 5, ONE, ONE], False), ([ONE] * 4, True)):
        ledger = open_on(state, disk)
        for number, cost in enumerate(costs):
            assert ledger.charge(cost, f"subject{number % 2}") is None
            disk.released += cost
        left, written = store_path(state).read_bytes(), len(disk.writes)
        ledger.close()
        if not gentle:  # as a killed process leaves it: without the last writes
            store_path(state).write_bytes(left)
            del disk.writes[written:]
    return before, disk


def test_charges_in_the_middle_of_a_write_ahead_are_on_the_disk_at_every_byte(tmp_path):
    """The old block pays for what is released while the next one is being written, cut anywhere."""
    Ledger.open_in(tmp_path, Limits(), now=now).close()
    image = bytearray(store_path(tmp_path).read_bytes())
    released, writes, depth = [Amount()], [], [0]

    def charge():
        assert ledger.charge(ONE, "cam") is None
        released[0] += ONE

    def pwrite(file, data, offset):
        depth[0] += 1
        if depth[0] == 1 and ahead.busy:
            charge()
        writes.append((data, offset, released[0]))
        depth[0] -= 1
        return os.pwrite(file, data, offset)

    class Inline(Executor):
        busy = False

        def submit(self, task, /, *arguments):
            self.busy = True
            task(*arguments)
            self.busy = False

    ahead = Inline()
    file = LedgerStore(store_path(tmp_path), pwrite=pwrite)
    ledger = Ledger(file, take_lock(tmp_path), Limits(block_frames=24), now, ahead=ahead)
    for _ in range(70):
        charge()
    ledger.close()
    at_the_end = [*(later for _, _, later in writes[1:]), released[0]]  # what had left before the next write
    cuts = 0
    for (data, offset, _), later in zip(writes, at_the_end, strict=True):
        for length in (*range(0, len(data), 7), len(data)):
            _, ledger_state = decode(bytes(image[:offset]) + data[:length] + bytes(image[offset + length :]))
            assert ledger_state.total.covers(later if length == len(data) else written_before(writes, data)), length
            cuts += 1
        image[offset : offset + len(data)] = data
    assert cuts > 500
    assert read(tmp_path).total == released[0]


def written_before(writes, data):
    """What had been released when the write of ``data`` began, and in the middle of it."""
    return next(later for one, _, later in writes if one is data)


def test_a_write_cut_at_any_byte_loses_nothing(tmp_path):
    image, disk = history(tmp_path)
    image = bytearray(image)
    cuts = 0
    for data, offset, released in disk.writes:
        for length in range(len(data) + 1):
            torn = bytes(image[:offset]) + data[:length] + bytes(image[offset + length :])
            _, ledger_state = decode(torn)
            assert ledger_state.total.covers(released), (offset, length)
            cuts += 1
        image[offset : offset + len(data)] = data
    assert len(disk.writes) > 12
    assert cuts > 3000
    _, ledger_state = decode(bytes(image))
    # What the first run had left of its two blocks, of 5 x 3 and of 3, was lost; the second's was given back.
    assert ledger_state.total == disk.released + ONE * (9 + 1)


def test_a_short_write_is_continued(tmp_path):
    Ledger.open_in(tmp_path, Limits(), now=now).close()
    file = LedgerStore(store_path(tmp_path), pwrite=lambda fd, data, at: os.pwrite(fd, data[:7], at))
    ledger = Ledger(file, take_lock(tmp_path), Limits(), now)
    assert ledger.charge(ONE, "cam") is None
    ledger.close()
    assert read(tmp_path).total == ONE


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_sectors_of_a_torn_write_may_arrive_in_any_order(tmp_path_factory, data):
    """And those that did not arrive may hold anything."""
    image, disk = torn_history(tmp_path_factory)
    number = data.draw(st.integers(0, len(disk.writes) - 1))
    image = bytearray(image)
    for done, offset, _ in disk.writes[:number]:
        image[offset : offset + len(done)] = done
    record, offset, released = disk.writes[number]
    for start in range(0, len(record), 64):
        fate = data.draw(st.sampled_from(["old", "new", "rubbish"]))
        part = record[start : start + 64]
        if fate != "old":
            image[offset + start : offset + start + len(part)] = part if fate == "new" else bytes(len(part))
    assert decode(bytes(image))[1].total.covers(released)


_HISTORY = {}


def torn_history(factory):
    if not _HISTORY:
        _HISTORY[0] = history(factory.mktemp("history"))
    return _HISTORY[0]


@pytest.mark.parametrize("slot", [0, 1])
def test_one_slot_may_rot_at_rest(tmp_path, slot):
    """After a kill, with a block in use: any byte of either slot may change."""
    disk = Disk()
    ledger = open_on(tmp_path, disk)
    for _ in range(4):
        assert ledger.charge(ONE, "cam") is None
    image = store_path(tmp_path).read_bytes()
    for at in range(slot * SLOT_BYTES, slot * SLOT_BYTES + len(encode(read(tmp_path), 1))):
        rotten = image[:at] + bytes([image[at] ^ 0x10]) + image[at + 1 :]
        found = decode(rotten)
        assert found is not None
        assert found[1].total.covers(ONE * 4)
    ledger.close()


def test_a_rotten_slot_is_mended_when_the_ledger_is_opened(tmp_path):
    ledger = Ledger.open_in(tmp_path, Limits(), now=now)
    ledger.charge(ONE, "cam")
    ledger.close()
    for slot in (0, 1):
        with store_path(tmp_path).open("r+b") as file:
            file.seek(slot * SLOT_BYTES + 30)
            file.write(b"rot")
        Ledger.open_in(tmp_path, Limits(), now=now).close()
        assert read(tmp_path).total == ONE


@pytest.mark.parametrize("size", [0, 1, 47, SLOT_BYTES - 1, SLOT_BYTES, SLOT_BYTES + 60, FILE_BYTES - 1])
def test_a_truncated_file_is_mended_or_refused_but_never_less(tmp_path, size):
    ledger = Ledger.open_in(tmp_path, Limits(block_frames=1), now=now)
    for _ in range(3):
        ledger.charge(ONE, "cam")
    ledger.close()
    os.truncate(store_path(tmp_path), size)
    if size >= SLOT_BYTES - 1:
        Ledger.open_in(tmp_path, Limits(), now=now).close()
        assert read(tmp_path).total == ONE * 3
        assert store_path(tmp_path).stat().st_size == FILE_BYTES
    else:
        with pytest.raises(LedgerError, match="the spent budget is unknown"):
            Ledger.open_in(tmp_path, Limits(), now=now)
        with pytest.raises(LedgerError, match="no slot"):
            read(tmp_path)


def test_no_valid_slot_is_refused_and_not_mistaken_for_a_first_start(tmp_path):
    Ledger.open_in(tmp_path, Limits(), now=now).close()
    store_path(tmp_path).write_bytes(bytes(FILE_BYTES))
    with pytest.raises(LedgerError, match="the spent budget is unknown"):
        Ledger.open_in(tmp_path, Limits(), now=now)
    assert store_path(tmp_path).read_bytes() == bytes(FILE_BYTES)


def test_a_lost_file_is_refused_and_not_mistaken_for_a_first_start(tmp_path):
    Ledger.open_in(tmp_path, Limits(), now=now).close()
    store_path(tmp_path).unlink()
    for attempt in (lambda: Ledger.open_in(tmp_path, Limits(), now=now), lambda: read(tmp_path)):
        with pytest.raises(LedgerError, match="gone"):
            attempt()
    assert not store_path(tmp_path).exists()


def test_a_first_start_that_was_cut_short_can_be_made_again(tmp_path):
    store_path(tmp_path).parent.mkdir(parents=True)
    store_path(tmp_path).with_suffix(".new").write_bytes(b"half")
    Ledger.open_in(tmp_path, Limits(), now=now).close()
    assert read(tmp_path).total == Amount()
    marker_path(tmp_path).unlink()  # cut between the file and its marker
    Ledger.open_in(tmp_path, Limits(), now=now).close()
    assert marker_path(tmp_path).exists()


def test_before_the_first_start_there_is_nothing_to_read(tmp_path):
    assert read(tmp_path) is None


def test_a_full_disk_refuses_a_new_ledger(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutputError, match="No space left"):
        Ledger.open_in(tmp_path, Limits(), now=now)
    assert not store_path(tmp_path).exists()
    assert not marker_path(tmp_path).exists()
    monkeypatch.undo()
    Ledger.open_in(tmp_path, Limits(), now=now).close()


def test_charging_never_makes_the_file_grow(tmp_path):
    ledger = Ledger.open_in(tmp_path, Limits(block_frames=1), now=now)
    before = store_path(tmp_path).stat()
    for number in range(30):
        assert ledger.charge(ONE, f"subject{number}") is None
    after = store_path(tmp_path).stat()
    assert (after.st_size, after.st_blocks) == (before.st_size, before.st_blocks) == (FILE_BYTES, FILE_BYTES // 512)
    ledger.close()
