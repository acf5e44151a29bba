"""Counts: each release once, none lost by a locked file, minutes become hours, the file keeps its limit."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_server.statistics.report import Question, rows, select
from cloud_server.statistics.store import Reader, Store
from cloud_server.statistics.tally import Series, Tally
from split_model.errors import BadInputError, MissingInputError, OutputError, UsageError
from split_model.privacy import CodebookSpec

NOW_S = 1_800_000_000.0
ONE = Series("a" * 64, "model", 7, CodebookSpec(epsilon=4.0, codewords=8))
THREE = Series("a" * 64, "model", 7, CodebookSpec(epsilon=6.0, codewords=300, groups=3))


def open_store(path, *, keep_days=90.0, limit_bytes=1 << 30):
    return closing(Store(path, keep_days=keep_days, limit_bytes=limit_bytes))


def counted(path, **question):
    with closing(Reader(path)) as reader:
        return rows(reader, Question(**question))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.integers(0, 7), st.integers(0, 300))))
def test_every_release_counts_once_whatever_comes_again(sent):
    tally, known, wanted = Tally(), set(), Counter()
    for device, number, codeword, at_s in sent:
        tally.add(ONE, device, bytes([codeword]), request=("boot", number), unix_s=NOW_S + at_s)
        if (device, number) not in known:
            known.add((device, number))
            wanted[device, codeword] += 1
    found = Counter()
    for (_, device, start_s), bucket in tally.take().items():
        assert start_s % 60 == 0
        assert bucket.frames == sum(bucket.singles.values())
        found.update({(device, codeword): count for (_, codeword), count in bucket.singles.items()})
    assert found == wanted
    assert tally.copies == len(sent) - len(known)
    assert tally.take() == {}


@pytest.mark.parametrize("payload", [b"", b"\x08", b"\x01\x01"])
def test_a_payload_that_is_no_codeword_counts_nothing(payload):
    tally = Tally()
    tally.add(ONE, "porch", payload, request=("boot", 1), unix_s=NOW_S)
    assert tally.take() == {}
    assert tally.malformed == 1


def filled(minutes, *, device="porch", codewords=(1, 1, 2)):
    tally = Tally()
    for minute in minutes:
        for number, codeword in enumerate(codewords):
            at_s = NOW_S + 60 * minute
            tally.add(ONE, device, bytes([codeword]), request=(f"{minute}", number), unix_s=at_s)
    return tally.take()


def test_minutes_become_hours_and_no_count_is_lost(tmp_path):
    path = tmp_path / "statistics.sqlite"
    with open_store(path) as store:
        for hour in range(6):
            now_s = NOW_S + 3600 * (hour + 1)
            store.add(filled(range(60 * hour, 60 * hour + 60, 7)), unix_s=now_s)
        (row,) = counted(path)
        with closing(sqlite3.connect(path)) as database:
            spans = {span for (span,) in database.execute("SELECT DISTINCT span_s FROM singles")}
    frames = 3 * sum(len(range(60 * hour, 60 * hour + 60, 7)) for hour in range(6))
    assert row.frames == frames
    assert {word.codeword: word.named for word in row.distribution if word.named} == {
        1: frames * 2 / 3,
        2: frames / 3,
    }
    assert spans == {60, 3600}


def test_old_counts_go_by_age_and_by_size(tmp_path):
    path = tmp_path / "old.sqlite"
    with open_store(path, keep_days=1.0) as store:
        store.add(filled([0]), unix_s=NOW_S)
        store.add(filled([3 * 1440]), unix_s=NOW_S + 3 * 86_400)
    (row,) = counted(path)
    assert row.frames == 3
    assert row.begin_s >= NOW_S + 3 * 86_400 - 60

    path = tmp_path / "large.sqlite"
    limit_bytes = 256 << 10
    with open_store(path, limit_bytes=limit_bytes) as store:
        for hour in range(200):
            at_s = NOW_S + 3600 * hour
            tally = Tally()
            for number in range(200):
                payload = np.array([number % 300, number, 299 - number], "<u2").tobytes()
                tally.add(THREE, f"board-{number}", payload, request=(f"{hour}", number), unix_s=at_s)
            store.add(tally.take(), unix_s=at_s)
    assert path.stat().st_size <= 3 * limit_bytes
    (row,) = counted(path)
    assert row.end_s > NOW_S + 3600 * 199
    assert row.begin_s > NOW_S + 3600


def test_devices_are_selected_by_name_pattern_and_label(tmp_path):
    path = tmp_path / "statistics.sqlite"
    with open_store(path) as store:
        for device in ("porch-1", "porch-2", "hall"):
            store.add(filled([0], device=device), unix_s=NOW_S + 60)
    labels = {"entrance": ("porch-*",)}
    (all_devices,) = counted(path)
    assert (all_devices.frames, all_devices.devices) == (9, {"hall": 3, "porch-1": 3, "porch-2": 3})
    assert [row.frames for row in counted(path, patterns=["entrance", "hall"], labels=labels)] == [6, 3]
    assert [row.selection for row in counted(path, each=True)] == ["hall", "porch-1", "porch-2"]
    assert counted(path, until_s=NOW_S - 3600) == []
    with pytest.raises(UsageError, match=r"attic.*entrance, hall"):
        select(["hall"], ["attic"], labels, each=False)


def test_groups_have_marginals_and_small_ones_pairs(tmp_path):
    path = tmp_path / "statistics.sqlite"
    series = Series("b" * 64, "model", 3, CodebookSpec(epsilon=60.0, codewords=4, groups=3))
    tally = Tally()
    for number in range(300):
        payload = bytes([number % 4, number % 4, 3])
        tally.add(series, "porch", payload, request=("boot", number), unix_s=NOW_S)
    with open_store(path) as store:
        store.add(tally.take(), unix_s=NOW_S)
    (row,) = counted(path)
    assert [sum(word.named for word in row.distribution if word.group == group) for group in range(3)] == [300] * 3
    top = next(pair for pair in row.pairs if pair.groups == (0, 1))
    assert top.codewords[0] == top.codewords[1]
    assert top.low <= 75 <= top.high
    assert top.frames == pytest.approx(75, abs=0.1)  # at this ε hardly any codeword is another's
    assert {pair.groups for pair in row.pairs} == {(0, 1), (0, 2), (1, 2)}


def test_a_file_that_cannot_be_written_for_a_while_loses_no_count(tmp_path):
    """All of a transaction or nothing: what could not be stored is given back and stored later."""
    path = tmp_path / "statistics.sqlite"
    tally = Tally()
    tally.add(ONE, "porch", b"\x01", request=("boot", 1), unix_s=NOW_S)
    with open_store(path) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")  # as unwritable as a full disk, and it passes
        taken = tally.take()
        with pytest.raises(OutputError, match=r"locked.*statistics.path"):
            store.add(taken, unix_s=NOW_S)
        tally.give_back(taken)
        other.execute("ROLLBACK")
        store.add(tally.take(), unix_s=NOW_S)
    assert counted(path)[0].frames == 1


def test_files_that_are_no_statistics_are_refused_in_one_line(tmp_path):
    with pytest.raises(MissingInputError, match="no statistics yet"):
        Reader(tmp_path / "none.sqlite")
    other = tmp_path / "other.sqlite"
    other.write_bytes(os.urandom(8192))
    with pytest.raises(OutputError, match=r"other.sqlite.*statistics.path"):
        Store(other, keep_days=1.0, limit_bytes=1 << 20)
    with closing(Reader(other)) as reader, pytest.raises(BadInputError, match=r"other.sqlite"):
        reader.all_series()
    newer = tmp_path / "newer.sqlite"
    with closing(sqlite3.connect(newer)) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(OutputError, match="format 99"):
        Store(newer, keep_days=1.0, limit_bytes=1 << 20)
