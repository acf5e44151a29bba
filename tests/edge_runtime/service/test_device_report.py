"""What a board tells of itself: its status, within the bounds of the wire, and nothing of a frame's content."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from edge_runtime.privacy.ledger.status import AmountStatus, LedgerStatus, LeftStatus
from edge_runtime.service import metrics_file
from edge_runtime.service import status as states
from edge_runtime.service.device_report import report_of
from edge_runtime.service.fleet_reports import FleetReports
from split_model.protocol import messages as wire
from split_model.protocol import reports

AMOUNT = AmountStatus(
    whole_input_epsilon=4096.5,
    whole_input_rho=10.0,
    whole_input_epsilon_at_delta=4200.0,
    delta=1e-6,
    releases=12,
    unprotected_releases=0,
)
STATUS = states.Status(
    state="running",
    pid=1,
    process_ticks=1,
    written_boot_s=1.0,
    written_unix_s=1.0,
    uptime_s=123.456789,
    software="edge-runtime 0.1.0",
    config="/etc/edge-runtime/config.toml",
    bundle=states.BundleStatus(name="tiny", identity="a" * 64, folder="/opt/secret/folder"),
    cuts=[
        states.CutStatus(cut=2, used=True, agreement=0.95, agreement_bound=0.91, pictures=30, text="t"),
        states.CutStatus(cut=1, used=False, agreement=0.5, agreement_bound=0.4, pictures=30, text="t"),
    ],
    split=2,
    local=4,
    decision=states.DecisionStatus(ago_s=3.0, split_from=4, split_to=2, why="saves 12 ms of 95 ms"),
    link=states.LinkStatus(
        address="tcp://hall:5555", up=True, hosted=True, trouble="", uplink_mbit_s=4.5, rtt_s=0.03, queue_s=0.0,
        reconnects=1,
    ),
    board=states.BoardStatus(
        load=1.25, cpu_load=0.4, temperature_c=63.2, throttled=(), memory_available_bytes=1, rss_bytes=2
    ),
    counters={
        "frames_in": 1000, "offloaded": 733, "local": 200, "fallback": 50, "failed": 3, "dropped": 14, "late": 2,
        "moves": 5, "per_value_epsilon_max": 16.0,
    },
    latency=states.LatencyStatus(frames=128, median_s=0.08, p95_s=0.2),
    offload=states.LatencyStatus(frames=100, median_s=0.04, p95_s=0.09),
    expected_s=0.07,
    ledger=LedgerStatus(
        since_unix_s=1, spent=AMOUNT, reserved=AMOUNT, subjects={}, rate_per_s=1.0,
        lifetime=LeftStatus(budget=1e6, left=995903.5, spent_in_s=100.0), subject_budgets={}, window=None,
    ),
)  # fmt: skip


def told(status: states.Status = STATUS, *, exact: bool = False) -> wire.Report:
    report = report_of(status, period_s=10.0, exact=exact, python="3.11.7", backend="ai-edge-litert")
    assert report is not None
    return report


def test_the_report_says_what_the_status_says():
    report = told(exact=True)
    frames, ledger = report.frames, report.ledger
    assert ledger is not None
    assert (frames.frames_in, frames.offloaded, frames.local, frames.fallback) == (1000, 733, 200, 50)
    assert (report.split, report.local, report.expected_s) == (2, 4, 0.07)
    assert (report.agreement, report.agreement_bound) == (0.95, 0.91)
    assert (ledger.whole_input_epsilon, ledger.per_value_epsilon_max, ledger.budget) == (4096.5, 16.0, 1e6)
    assert report.link == reports.LinkReport(uplink_mbit_s=4.5, rtt_s=0.03, queue_s=0.0, reconnects=1)
    assert report.offload == reports.OffloadReport(frames=100, median_s=0.04, p95_s=0.09)


@pytest.mark.parametrize(
    "changes",
    [
        {"latency": states.LatencyStatus(frames=128, median_s=0.4, p95_s=1.2)},
        {"board": msgspec.structs.replace(STATUS.board, cpu_load=0.99, rss_bytes=10**9, memory_available_bytes=7)},
        {"board": msgspec.structs.replace(STATUS.board, temperature_c=66.9)},
        {"counters": STATUS.counters | {"frames_in": 1020, "local": 255, "fallback": 63, "dropped": 15}},
        {"under_way": 3},
        {"sources": {"camera": {"frames": 17}}},
        {"sinks": {"jsonl": {"written": 17}}},
        {"pid": 99},
        {"config": "/home/somebody"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_follows_from_the_content_of_frames_is_not_told(changes):
    """Times of local runs, processor time, exact numbers of frames that stayed, and paths."""
    assert told(msgspec.structs.replace(STATUS, **changes)) == told()


def test_exact_numbers_are_told_where_the_pace_makes_them_independent_of_the_frames():
    other = msgspec.structs.replace(STATUS, counters=STATUS.counters | {"local": 255})
    assert told(other, exact=True) != told(exact=True)


anything = st.floats(allow_nan=True, allow_infinity=True)


@given(
    numbers=st.tuples(anything, anything, anything, anything),
    counts=st.dictionaries(
        st.sampled_from(sorted(STATUS.counters)), st.integers(0, 1 << 70).map(float), min_size=4
    ),
    text=st.text(max_size=300),
)
def test_whatever_the_status_says_the_report_keeps_to_the_wire(numbers, counts, text):
    a, b, c, d = numbers
    status = msgspec.structs.replace(
        STATUS,
        uptime_s=a,
        expected_s=b,
        counters=counts,
        software=text,
        decision=states.DecisionStatus(ago_s=c, split_from=4, split_to=2, why=text),
        link=msgspec.structs.replace(STATUS.link, uplink_mbit_s=d, rtt_s=a, queue_s=b),
        board=msgspec.structs.replace(
            STATUS.board, load=c, temperature_c=20.0 + math.fmod(abs(d), 100.0) if math.isfinite(d) else None
        ),
    )
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    report = told(status)
    assert wire.decode_from_device(wire.encode(report)) == report


def test_a_starting_program_tells_nothing():
    starting = msgspec.structs.replace(STATUS, bundle=None)
    assert report_of(starting, period_s=10.0, exact=False, python="3", backend="b") is None


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def ticking(**table):
    """A teller of reports, its clock, and what it sent; ``table``: keys of ``[report]``."""
    from edge_runtime.config.config import ReportTable

    clock, sent = Clock(), []
    teller = FleetReports(clock)

    def tick(status=STATUS, *, takes=True):
        def send(report):
            sent.append((clock.now_s, report))
            return takes

        teller.tell(status, ReportTable(**table), paced=False, backend="ai-edge-litert", send=send)

    return tick, clock, sent


def test_reports_follow_the_clock_whatever_they_say():
    tick, clock, sent = ticking(period_s=5.0)
    for second in range(20):
        clock.now_s = float(second)
        tick(msgspec.structs.replace(STATUS, split=second % 3))
    assert [at_s for at_s, _ in sent] == [0.0, 5.0, 10.0, 15.0]


def test_switched_off_nothing_is_sent_nor_written():
    tick, _, sent = ticking(enabled=False)
    tick()
    assert sent == []


def test_a_board_that_comes_back_is_seen_at_once():
    down = msgspec.structs.replace(STATUS, link=msgspec.structs.replace(STATUS.link, up=False))
    tick, clock, sent = ticking(period_s=60.0)
    tick(down)
    assert sent == []
    clock.now_s = 1.0
    tick()
    assert len(sent) == 1


def test_the_file_for_node_exporter_is_whole_and_says_the_same(tmp_path):
    path = tmp_path / "edge_runtime.prom"
    tick, _, _ = ticking(enabled=False, textfile=path)
    tick()
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }
    assert samples[("edge_runtime_frames_total", ("outcome", "offloaded"))] == 733
    assert samples[("edge_runtime_frames_total", ("outcome", "local"))] == reports.coarse(200)
    assert samples[("edge_runtime_whole_input_epsilon",)] == 4096.5
    assert samples[("edge_runtime_link_up",)] == 1
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_folder_that_is_not_there_is_said_once_and_ends_nothing(tmp_path, caplog):
    tick, clock, sent = ticking(period_s=1.0, textfile=tmp_path / "none" / "edge_runtime.prom")
    for second in range(3):
        clock.now_s = 2.0 * second
        tick()
    assert len(caplog.records) == 1
    assert "report.textfile" in caplog.text
    assert len(sent) == 3


def test_labels_of_any_text_stay_one_line():
    hostile = msgspec.structs.replace(told(), bundle_name='a"b\\c\nd')
    families = list(text_string_to_metric_families(metrics_file.exposition(hostile, link_up=True)))
    info = next(family for family in families if family.name == "edge_runtime_info")
    assert info.samples[0].labels["bundle"] == 'a"b\\c\nd'
