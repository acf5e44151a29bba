"""The statistics of released codewords, with their intervals, as HTML; what ``cloud-server statistics`` prints."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing

from cloud_server.config import StatisticsTable
from cloud_server.statistics.report import ClassEstimate, CodewordEstimate, Question, Row, rows
from cloud_server.statistics.store import Reader
from cloud_server.web.layout import document, row, table, text
from split_model.errors import SplitModelError

_MOST_ROWS = 50
_DAY_S = 86_400.0
_INTRODUCTION = (
    "<p>Of the last 24 hours. Estimates are unbiased; the intervals are of 95 % and cover the randomness of the "
    "mechanism, nothing else. No single codeword can be believed.</p>"
)


def page(config: StatisticsTable | None) -> str:
    """The whole page. Reads the file of counts, which may take a moment."""
    if config is None or config.path is None:
        body = "<p>Nothing is counted: the server's config has no <code>statistics.path</code>.</p>"
        return document("Statistics", body, at="/statistics")
    try:
        with closing(Reader(config.path)) as reader:
            found = rows(reader, Question(since_s=time.time() - _DAY_S, labels=config.labels))
    except SplitModelError as error:
        return document("Statistics", f"<p>{text(error.problem)}</p>", at="/statistics")
    if not found:
        return document("Statistics", "<p>No codebook releases in the last 24 hours.</p>", at="/statistics")
    return document("Statistics", _INTRODUCTION + "".join(_tables(one) for one in found), at="/statistics")


def _tables(one: Row) -> str:
    title = f"{one.bundle}, cut {one.cut}: {one.codewords} codewords, whole-input ε {one.whole_input_epsilon:g}"
    told = f"{one.frames} frames of {len(one.devices)} devices; in {one.kept:.1%} a codeword arrives as it was."
    shown: Sequence[ClassEstimate | CodewordEstimate] = one.classes or one.distribution
    made = [
        row(
            _name(estimate, one.groups),
            f"{estimate.frames:.0f}",
            f"{estimate.low:.0f} to {estimate.high:.0f}",
            f"{estimate.frames / one.frames:.1%}",
        )
        for estimate in shown[:_MOST_ROWS]
    ]
    headings = [
        ("Decoded as" if one.classes else "Codeword", ""),
        ("Frames", ""),
        ("Interval", "95 %"),
        ("Share", ""),
    ]
    return f"<h2>{text(title)}</h2><p>{text(told)}</p>{table(title, headings, made)}"


def _name(estimate: ClassEstimate | CodewordEstimate, groups: int) -> str:
    if isinstance(estimate, ClassEstimate):
        return estimate.decoded_as
    group = f"group {estimate.group}, " if groups > 1 else ""
    return f"{group}codeword {estimate.codeword}"
