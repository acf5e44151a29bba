"""The fleet's state and table: rows follow from reports and the time, and what is kept is bounded."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_server.fleet.cells import COLUMNS, cells, state_text
from cloud_server.fleet.rows import SILENT_S, rows
from cloud_server.fleet.state import LEAST_BETWEEN_S, MOST_DEVICES, MOVES, POINTS, Fleet
from cloud_server.fleet.terminal import as_text
from split_model.protocol import messages as wire
from split_model.protocol import reports
from tests.device_reports import make_report

BUNDLE = "a" * 64
REPORT = make_report(
    BUNDLE,
    period_s=10.0,
    bundle_name="<script>alert(1)</script>",
    split=20,
    local=62,
    moved=None,
    frames=reports.FrameCounts(
        exact=True, frames_in=100, offloaded=70, local=20, fallback=10, failed=0, dropped=0, late=0, moves=0
    ),
)
NAMES = {"k1": "porch", "k2": "hall"}


def later(report: wire.Report = REPORT, *, by_s: float = 10.0, frames: int = 0, **changes) -> wire.Report:
    told = msgspec.structs.replace(
        report.frames, frames_in=report.frames.frames_in + frames, offloaded=report.frames.offloaded + frames
    )
    return msgspec.structs.replace(report, uptime_s=report.uptime_s + by_s, frames=told, **changes)


def table(fleet: Fleet, now_s: float, names=NAMES, bundles=None):
    return {
        row.name: row
        for row in rows(names, fleet.all_known(), {BUNDLE: "lite"} if bundles is None else bundles, now_s)
    }


def test_a_row_says_what_the_report_said():
    fleet = Fleet()
    fleet.heard({"k1": 5.0}, NAMES)
    fleet.reported("k1", REPORT, 5.0)
    row = table(fleet, 6.0)["porch"]
    assert (row.condition, row.bundle, row.hosted, row.split, row.local) == ("up", "lite", True, 20, False)
    assert (row.there, row.here, row.frames_in) == (70, 30, 100)
    assert (row.uplink_mbit_s, row.expected_s, row.offload_s, row.load) == (4.5, 0.18, 0.12, 1.25)
    assert (row.whole_input_epsilon, row.whole_input_epsilon_left, row.per_value_epsilon_max) == (4096, 995904, 16)
    assert (row.agreement, row.agreement_bound) == (0.95, 0.91)
    assert table(fleet, 6.0)["hall"].condition == "never"


def test_a_device_that_is_not_heard_is_silent_since_then_and_keeps_its_figures():
    fleet = Fleet()
    fleet.heard({"k1": 5.0}, NAMES)
    fleet.reported("k1", REPORT, 5.0)
    assert table(fleet, 5.0 + SILENT_S)["porch"].condition == "up"
    silent = table(fleet, 5.0 + SILENT_S + 1.0)["porch"]
    assert (silent.condition, silent.heard_ago_s, silent.there) == ("silent", SILENT_S + 1.0, 70)
    assert state_text(silent) == "silent 9 s"


def test_a_device_whose_connection_is_gone_is_silent_at_once_and_up_again_when_it_is_back():
    fleet = Fleet()
    fleet.heard({"k1": 5.0}, NAMES)
    fleet.heard({}, NAMES)
    assert table(fleet, 5.5)["porch"].condition == "silent"
    fleet.heard({"k1": 6.0}, NAMES)
    assert table(fleet, 6.0)["porch"].condition == "up"


def test_a_device_that_tells_nothing_is_up_and_one_whose_reports_stop_is_marked():
    fleet = Fleet()
    fleet.heard({"k1": 100.0, "k2": 100.0}, NAMES)
    fleet.reported("k2", REPORT, 60.0)
    fleet.heard({"k1": 100.0, "k2": 100.0}, NAMES)
    found = table(fleet, 100.0)
    assert state_text(found["porch"]) == "up, no reports"
    assert found["hall"].stale
    assert state_text(found["hall"]) == "up, reports stopped 40 s ago"


def test_frames_a_second_come_from_two_reports():
    fleet = Fleet()
    fleet.reported("k1", REPORT, 0.0)
    assert table(fleet, 0.0)["porch"].frames_per_s is None
    fleet.reported("k1", later(frames=50), 10.0)
    assert table(fleet, 10.0)["porch"].frames_per_s == 5.0


def test_a_restart_is_no_negative_rate():
    fleet = Fleet()
    fleet.reported("k1", later(frames=50), 10.0)
    fleet.reported("k1", msgspec.structs.replace(REPORT, uptime_s=1.0), 20.0)
    assert table(fleet, 20.0)["porch"].frames_per_s is None


def test_reports_that_come_too_soon_are_dropped_and_counted():
    fleet = Fleet()
    for number in range(100):
        fleet.reported("k1", later(frames=number), number * LEAST_BETWEEN_S / 10)
    assert fleet.reports == 10
    assert fleet.dropped == 90


def test_a_key_that_is_no_longer_allowed_is_forgotten():
    fleet = Fleet()
    fleet.reported("k1", REPORT, 0.0)
    fleet.heard({}, {"k2": "hall"})
    assert fleet.all_known().keys() <= {"k2"}


def test_each_move_of_the_split_is_kept_once_with_its_time_and_its_reason():
    fleet = Fleet()
    moved = reports.Moved(ago_s=4.0, split_from=62, split_to=20, why="saves 120 ms")
    frames = msgspec.structs.replace(REPORT.frames, moves=1)
    fleet.reported("k1", msgspec.structs.replace(REPORT, moved=moved, frames=frames), 10.0)
    fleet.reported("k1", msgspec.structs.replace(REPORT, moved=moved, frames=frames, uptime_s=110.0), 20.0)
    (move,) = fleet.known("k1").moves
    assert (move.at_s, move.split_from, move.split_to, move.why) == (6.0, 62, 20, "saves 120 ms")


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c", "d"]), st.floats(0.0, 60.0), st.integers(0, 5)),
        min_size=1,
        max_size=200,
    )
)
def test_whatever_devices_do_what_is_kept_is_bounded_and_every_row_can_be_shown(events):
    fleet, now_s = Fleet(), 0.0
    names = {"a": "one", "b": "two"}
    for key, wait_s, moves in events:
        now_s += wait_s
        told = msgspec.structs.replace(REPORT.frames, moves=moves)
        moved = reports.Moved(ago_s=1.0, split_from=0, split_to=1, why="w")
        fleet.reported(key, msgspec.structs.replace(REPORT, uptime_s=now_s, moved=moved, frames=told), now_s)
        fleet.heard({key: now_s}, names)
        known = fleet.all_known()
        assert known.keys() <= names.keys()
        for one in known:
            full = fleet.known(one)
            assert len(full.points) <= POINTS
            assert len(full.moves) <= MOVES
        for row in rows(names, known, {}, now_s):
            assert set(cells(row)) == {column.name for column in COLUMNS}


def test_more_devices_than_there_is_room_for_are_not_kept():
    fleet = Fleet()
    for number in range(MOST_DEVICES + 10):
        fleet.reported(f"key {number}", REPORT, 0.0)
    assert len(fleet.all_known()) == MOST_DEVICES
    assert fleet.dropped == 10


@pytest.mark.parametrize("count", [0, 1, 200])
def test_the_terminals_table_fits_80_columns(count):
    fleet = Fleet()
    names = {f"k{number}": f"a-board-with-a-long-name-{number}" for number in range(count)}
    for number, key in enumerate(names):
        if number % 3:
            fleet.heard(dict.fromkeys(names, 0.0), names)
            fleet.reported(key, later(frames=10**9, alerts=("source", "sink", "throttled")), 0.0)
    shown = as_text(rows(names, fleet.all_known(), {}, 1e6))
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert shown.splitlines()[-1].startswith(
        {0: "no device is allowed yet", 1: "1 device: "}.get(count, f"{count} devices: ")
    )


def test_a_devices_own_words_are_no_label_and_no_name():
    fleet = Fleet()
    fleet.heard({"k1": 0.0}, NAMES)
    fleet.reported("k1", REPORT, 0.0)
    row = table(fleet, 0.0, bundles={})["porch"]
    assert row.bundle == "other"
    assert cells(row)["bundle"] == "other (aaaaaaaa)"
    assert "bundle not hosted" in cells(row)["alerts"]
