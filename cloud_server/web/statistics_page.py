"""The HTML page of the codeword statistics, with the figures of ``cloud-server statistics``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from cloud_server.config import StatisticsTable
from cloud_server.statistics.report import ClassEstimate, CodewordEstimate, Question, Row, rows
from cloud_server.statistics.store import Reader
from cloud_server.web.rendering import render
from split_model.errors import SplitModelError

_MOST_ROWS = 50
_DAY_S = 86_400.0


def page(config: StatisticsTable | None) -> str:
    """Render the whole page. Reads the file of counts, which may take a moment."""
    if config is None or config.path is None:
        return _page(why="Nothing is counted: the server's config has no statistics.path.")
    try:
        with closing(Reader(config.path)) as reader:
            found = rows(reader, Question(since_s=time.time() - _DAY_S, labels=config.labels))
    except SplitModelError as error:
        return _page(why=error.problem)
    return (
        _page([_series(one) for one in found]) if found else _page(why="No codebook releases in the last 24 hours.")
    )


def _page(found: Sequence[dict[str, Any]] = (), *, why: str = "") -> str:
    return render("statistics.html", "Statistics", at="/statistics", found=found, why=why)


def _series(one: Row) -> dict[str, Any]:
    shown: Sequence[ClassEstimate | CodewordEstimate] = one.classes or one.distribution
    made = [
        (
            _name(estimate, one.groups),
            (
                f"{estimate.frames:.0f}",
                f"{estimate.low:.0f} to {estimate.high:.0f}",
                f"{estimate.frames / one.frames:.1%}",
            ),
        )
        for estimate in shown[:_MOST_ROWS]
    ]
    book = f"{one.codewords} codewords, whole-input ε {one.whole_input_epsilon:g}"
    first = "Decoded as" if one.classes else "Codeword"
    return {
        "title": f"{one.bundle}, cut {one.cut}: {book}",
        "told": f"{one.frames} frames of {len(one.devices)} devices; in {one.kept:.1%} a codeword arrives intact.",
        "headings": [(first, ""), ("Frames", ""), ("Interval", "95 %"), ("Share", "")],
        "rows": made,
    }


def _name(estimate: ClassEstimate | CodewordEstimate, groups: int) -> str:
    if isinstance(estimate, ClassEstimate):
        return estimate.decoded_as
    group = f"group {estimate.group}, " if groups > 1 else ""
    return f"{group}codeword {estimate.codeword}"
