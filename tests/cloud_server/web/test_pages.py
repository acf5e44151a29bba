"""The pages as HTML, without a server: whatever is shown is escaped, and figures are those of the command line."""

from __future__ import annotations

import time
from contextlib import closing
from html.parser import HTMLParser

from cloud_server.config import StatisticsTable
from cloud_server.fleet.answer_times import AnswerTimes
from cloud_server.fleet.overview import Overview
from cloud_server.statistics.report import Question, rows
from cloud_server.statistics.store import Reader, Store
from cloud_server.statistics.tally import Series, Tally
from cloud_server.web import device_page, pages, statistics_page
from split_model.privacy import CodebookSpec
from split_model.protocol import reports
from tests.device_reports import make_report

HOSTILE = "<img src=x onerror=alert(1)>\"'&\n\u202e"


class Tags(HTMLParser):
    """All tags and texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


def overview_with(name: str, **changes) -> Overview:
    overview = Overview(names=lambda: {"key": name}, status=lambda: None, clock=lambda: 10.0)
    overview.fleet.heard({"key": 9.0}, {"key": name})
    overview.fleet.reported("key", make_report("a" * 64, **changes), 9.0)
    return overview


def test_whatever_a_device_says_is_text_on_every_page():
    moved = reports.Moved(ago_s=1.0, split_from=2, split_to=1, why=HOSTILE)
    overview = overview_with(HOSTILE, bundle_name=HOSTILE, software=HOSTILE, python=HOSTILE, moved=moved)
    one, known = overview.device(HOSTILE)
    for page in (
        pages.devices(overview.rows()),
        pages.bundles({"b" * 64: HOSTILE}, overview.rows()),
        pages.login(HOSTILE),
        device_page.page(one, known, now_s=10.0),
    ):
        found = Tags(page)
        assert "img" not in found.tags
        assert not any(name.startswith("on") or name == "style" for name in found.attributes)
        assert "<img src=x onerror=alert(1)>\"'&??" in found.text  # what does not print is a question mark


def test_the_live_figures_are_those_of_the_page():
    overview = overview_with("porch")
    shown = Tags(pages.devices(overview.rows())).text
    live = pages.devices_live(overview.rows())
    assert all(text in shown for key, text in live.items() if not key.startswith("class "))
    one, known = overview.device("porch")
    page = Tags(device_page.page(one, known, now_s=10.0)).text
    assert all(text in page for text in device_page.live(one, known).values())


def test_a_device_that_nobody_knows_is_none():
    assert overview_with("porch").device("hall") is None


def test_times_of_answers_are_told_by_tail():
    times = AnswerTimes()
    for number in range(100):
        times.answered(
            "lite",
            20,
            total_s=0.003 if number < 96 else 3.0,
            queue_s=0.0,
            tail_s=0.002,
            received_bytes=1,
            sent_bytes=1,
        )
    (tail,) = times.tails().values()
    assert [tail.parts["total"].quantile_s(share) for share in (0.5, 0.95, 0.99)] == [0.005, 0.005, 5.0]


def test_statistics_have_their_intervals(tmp_path):
    path, now_s = tmp_path / "statistics.sqlite", time.time()
    series = Series("a" * 64, "model", 7, CodebookSpec(epsilon=4.0, codewords=8))
    tally = Tally()
    for number in range(300):
        tally.add(series, "porch", bytes([number % 3]), request=("boot", number), unix_s=now_s - 60.0)
    with closing(Store(path, keep_days=90.0, limit_bytes=1 << 30)) as store:
        store.add(tally.take(), unix_s=now_s)
    with closing(Reader(path)) as reader:
        (row,) = rows(reader, Question())
    shown = Tags(statistics_page.page(StatisticsTable(path=path))).text
    first = row.distribution[0]
    assert "model, cut 7: 8 codewords, whole-input ε 4" in shown
    assert f"{first.low:.0f} to {first.high:.0f}" in shown
    assert f"{first.frames / row.frames:.1%}" in shown


def test_without_statistics_the_page_says_why(tmp_path):
    assert "statistics.path" in statistics_page.page(StatisticsTable())
    assert "no statistics yet" in statistics_page.page(StatisticsTable(path=tmp_path / "none")).lower()
