"""The cuts of a config as a table for a terminal: which are used, how they answer, what a frame costs at each."""

from __future__ import annotations

from edge_runtime.daemon.plan import Plan
from split_model.service.terminal_text import in_words

_HEADINGS = ("cut", "used", "agreement", "at least", "pictures", "epsilon a value", "a frame")


def cut_lines(plan: Plan) -> list[str]:
    """Return a heading and a line for each cut at which something could leave, under 80 columns."""
    rows = [_row(plan, cut.index) for cut in plan.bundle.manifest.cuts]
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(_HEADINGS, *rows, strict=True)]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (_HEADINGS, *rows)
    ]


def _row(plan: Plan, cut: int) -> tuple[str, ...]:
    known, release = plan.accuracy[cut], plan.releases[cut]
    per_value = "none" if release is None else in_words(release.per_value_epsilon_max)
    whole = "none" if release is None else in_words(release.whole_input_epsilon)
    return (
        str(cut),
        "yes" if cut in plan.in_use else "no",
        "-" if known.agreement is None else f"{known.agreement:.2f}",
        "-" if known.bound is None else f"{known.bound:.2f}",
        "-" if known.pictures is None else f"{known.pictures:,}",
        per_value,
        whole,
    )
