"""Formats an evaluation: one line per row, always with both epsilons."""

from __future__ import annotations

from split_model.answers.measures import AGREEMENTS
from split_model.bundle.evaluation import Evaluation, Figure, Mean, Row, Share

_FIGURES = {
    "mAP50": "mean average precision at an IoU of 0.5, the unprotected model's boxes as the truth",
    "pixels": "mean distance from the unprotected model's landmarks, in pixels of the input",
    "IoU": "intersection over union with the unprotected model's map, mean over its classes",
    "cosine": "of the angle to the unprotected model's vector",
}


def render(evaluation: Evaluation) -> str:
    """Format the table; empty columns are left out."""
    figure = next((row.figure.measure for row in evaluation.rows if row.figure is not None), None)
    columns = [
        column
        for column in (
            ("agreement", "agreement"),
            ("accuracy", "accuracy"),
            ("figure", figure or ""),
            ("output_error", "output error"),
        )
        if any(getattr(row, column[0]) is not None for row in evaluation.rows)
    ]
    lines = [
        f"{'cut':>4} {'bytes':>8} {'release':<22} {'eps/value max':>13} {'eps/input':>12} "
        + " ".join(f"{title + ' [95 %]':<22}" for _, title in columns)
    ]
    lines += [_line(row, [name for name, _ in columns]) for row in evaluation.rows]
    if any(row.noise_aware for row in evaluation.rows):
        lines.append("(aware): by a tail trained on noise of this epsilon")
    if any(row.mechanism == "lookup" for row in evaluation.rows):
        lines.append("local lookup: the device's own answer, without a release")
    if figure:
        lines.append(f"{figure}: {_FIGURES[figure]}; agreement: {AGREEMENTS[figure]}")
    if evaluation.unprotected_accuracy is not None:
        lines.append(f"unprotected whole model: accuracy {_text(evaluation.unprotected_accuracy)}")
    lines.append(
        f"{evaluation.data.samples} samples; intervals are over samples, not draws. "
        "Output error: squared, over the variance of the outputs among the samples"
    )
    return "\n".join(line.rstrip() for line in lines)


def _line(row: Row, columns: list[str]) -> str:
    release = "clip only"
    if row.spec is not None:
        release = f"{row.spec.allocation} eps={row.spec.epsilon:g}{' (aware)' if row.noise_aware else ''}"
    elif row.codebook is not None:
        book = row.codebook
        size = f"{book.codewords} codewords" + (f" x {book.groups}" if book.groups > 1 else "")
        release = f"codebook {size}" if row.mechanism == "codebook" else f"local lookup {size}"
    largest = "-" if row.per_value_epsilon_max is None else f"{row.per_value_epsilon_max:.4g}"
    total = "-" if row.whole_input_epsilon is None else f"{row.whole_input_epsilon:.6g}"
    cells = " ".join(f"{_text(getattr(row, column)):<22}" for column in columns)
    return f"{row.cut:>4} {row.payload_bytes:>8} {release:<22} {largest:>13} {total:>12} {cells}"


def _text(share: Share | Mean | Figure | None) -> str:
    share = share.mean if isinstance(share, Figure) else share
    return "-" if share is None else f"{share.value:.3f} [{share.low:.2f}, {share.high:.2f}]"
