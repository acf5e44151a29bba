"""The page stands alone, says what it must, escapes what it is given, and is written whole or not at all."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest
from PIL import Image

from split_model.errors import BadInputError, OutputError
from split_model.report import write_report
from split_model.report.figures import compared, epsilon, milliseconds


class Page(HTMLParser):
    """Text and the addresses a browser would load; balanced tags."""

    VOID = ("meta", "img", "source", "br")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.parts: list[str] = []
        self.tags: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = re.sub(r"\s+", " ", " ".join(self.parts))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for key, value in attrs if key in ("src", "srcset", "href", "action", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.parts.append(data)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory, report_log):
    folder = tmp_path_factory.mktemp("run")
    Image.new("RGB", (300, 200), "red").save(folder / "red.jpg")
    (folder / "broken.jpg").write_bytes(b"not a picture")
    run = report_log(folder, ("red.jpg", "broken.jpg", "gone.jpg", None))
    write_report(run, folder / "report.html")
    return Page((folder / "report.html").read_text(encoding="utf-8")), folder


def test_page_loads_nothing_from_anywhere(rendered):
    page, folder = rendered
    assert page.addresses
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert not re.findall(r"url\(|@import", (folder / "report.html").read_text())


def test_page_says_what_a_reader_must_know(rendered):
    page, _ = rendered
    for wanted in (
        "Emulated in this run",
        "board: this machine slowed 32 times",
        "per feature value, largest over channels",
        "per frame that is offloaded",
        "guarantees next to nothing",
        "1,204,224",
        "best fixed",
        "nearest rank",
        "2 photographs could not be read",
    ):
        assert wanted in page.text, wanted


def test_plots_and_photographs_are_inside_and_whole(rendered):
    page, _ = rendered
    plots = [a for a in page.addresses if a.startswith("data:image/svg+xml")]
    assert len(plots) == 6  # three plots, each for light and dark
    for plot in plots:
        assert ET.fromstring(base64.b64decode(plot.split(",")[1])).tag.endswith("svg")
    photographs = [a for a in page.addresses if a.startswith("data:image/jpeg")]
    assert len(photographs) == 1
    with Image.open(io.BytesIO(base64.b64decode(photographs[0].split(",")[1]))) as picture:
        assert max(picture.size) <= 256


def test_what_the_log_says_is_escaped(rendered):
    page, folder = rendered
    assert "<b>&amp;</b>" in page.text  # the label as it stands, as text
    assert "<b>&amp;" not in (folder / "report.html").read_text()


def test_same_run_same_page(rendered, tmp_path):
    _, folder = rendered
    write_report(folder / "RUN.jsonl", tmp_path / "again.html")
    first = (folder / "report.html").read_text()
    run = (tmp_path / "again.html").read_text()
    assert run == first


def test_slower_than_local_is_said_as_such(tmp_path, save_log):
    write_report(save_log(tmp_path, {"adaptive": 0.6, "local only": 0.4}), tmp_path / "r.html")
    assert "50 % more than local only" in Page((tmp_path / "r.html").read_text()).text


def test_run_with_one_policy_and_nothing_optional(tmp_path, save_log):
    write_report(save_log(tmp_path, {"fixed cut 3": 0.6}), tmp_path / "r.html")
    text = Page((tmp_path / "r.html").read_text()).text
    assert "Emulated" not in text
    assert "no release" in text  # no release in the log: told, not passed over


def test_a_failure_leaves_the_old_report_and_no_scraps(tmp_path, save_log):
    run = save_log(tmp_path, {"adaptive": 0.6})
    (tmp_path / "r.html").write_text("old")
    run.write_text(run.read_text() + "{\n")
    with pytest.raises(BadInputError, match="line 4"):
        write_report(run, tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["RUN.jsonl", "r.html"]
    run = save_log(tmp_path, {"adaptive": 0.6})
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "none" / "r.html", tmp_path / "folder"):
        with pytest.raises(OutputError) as caught:
            write_report(run, target)
        assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["RUN.jsonl", "folder", "r.html"]


def test_figures_as_read():
    assert [milliseconds(s) for s in (None, 0.0042, 0.1824, 2.5)] == ["–", "4.2 ms", "182 ms", "2,500 ms"]
    assert [epsilon(e) for e in (None, 16.0, 16.001, 31.4159, 250880.2)] == [
        "unknown",
        "16",
        "16.01",
        "31.42",
        "250,881",
    ]
    assert [compared(a, 0.4) for a in (0.3, 0.5, 0.4, None)] == [
        "25 % less than",
        "25 % more than",
        "the same as",
        "not comparable with",
    ]


def test_summary_needs_no_plots():
    code = "import sys, split_model.report.summary; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
