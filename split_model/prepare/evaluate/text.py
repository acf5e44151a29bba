"""Formats an evaluation: one line per row, always with both epsilons."""

from __future__ import annotations

from split_model.answers.measures import AGREEMENTS
from split_model.bundle.evaluation import Evaluation, Figure, Mean, Row, Share
from split_model.service.terminal_text import counted, in_words, size
from split_model.terminal import Part, Table, as_text

_FIGURES = {
    "mAP50": "mean average precision at an IoU of 0.5, the unprotected model's boxes as the truth",
    "pixels": "mean distance from the unprotected model's landmarks, in pixels of the input",
    "IoU": "intersection over union with the unprotected model's map, mean over its classes",
    "cosine": "of the angle to the unprotected model's vector",
}


def render(evaluation: Evaluation, width: int | None = None) -> str:
    """The table, folded at ``width``; columns that no row has a figure for are left out."""
    figure = next((row.figure.measure for row in evaluation.rows if row.figure is not None), None)
    measured = [
        (title, name)
        for name, title in (
            ("agreement", "agreement"),
            ("accuracy", "accuracy"),
            ("figure", figure or ""),
            ("output_error", "output error"),
        )
        if any(getattr(row, name) is not None for row in evaluation.rows)
    ]
    headings = ("cut", "release", "sent", "eps a value", "eps a frame", *(title for title, _ in measured))
    rows = [_cells(row, [name for _, name in measured]) for row in evaluation.rows]
    parts: list[Part] = [Table(headings, rows, left=frozenset({"release"}), gap=1)]
    if any(row.noise_aware for row in evaluation.rows):
        parts.append("(aware): by a tail trained on noise of this epsilon")
    if any(row.mechanism == "lookup" for row in evaluation.rows):
        parts.append("local lookup: what the device could answer by itself, without a release")
    if figure:
        parts.append(f"{figure}: {_FIGURES[figure]}; agreement: {AGREEMENTS[figure]}")
    if evaluation.unprotected_accuracy is not None:
        parts.append(f"unprotected whole model: accuracy {_text(evaluation.unprotected_accuracy)}")
    parts.append(
        f"{counted(evaluation.data.samples, 'sample')}; ranges are 95 % intervals over samples, not draws; "
        "eps a value: the largest"
    )
    if any(name == "output_error" for _, name in measured):
        parts.append("output error: squared, over the variance of the outputs among the samples")
    return as_text(parts, width)


def _cells(row: Row, columns: list[str]) -> tuple[str, ...]:
    release = "clip only"
    if row.spec is not None:
        release = f"{row.spec.allocation} eps={row.spec.epsilon:g}{' (aware)' if row.noise_aware else ''}"
    elif row.codebook is not None:
        book = row.codebook
        codewords = f"{book.codewords} codewords" + (f" x {book.groups}" if book.groups > 1 else "")
        release = f"codebook {codewords}" if row.mechanism == "codebook" else f"local lookup {codewords}"
    largest = "-" if row.per_value_epsilon_max is None else in_words(row.per_value_epsilon_max)
    total = "-" if row.whole_input_epsilon is None else in_words(row.whole_input_epsilon)
    figures = [_text(getattr(row, column)) for column in columns]
    if columns and columns[-1] == "output_error":
        figures[-1] = figures[-1].partition(" ")[0]  # its interval is in the JSON
    return (str(row.cut), release, size(row.payload_bytes), largest, total, *figures)


def _text(share: Share | Mean | Figure | None) -> str:
    share = share.mean if isinstance(share, Figure) else share
    if share is None:
        return "-"
    return f"{share.value:.3f} {share.low:.2f}–{share.high:.2f}"
