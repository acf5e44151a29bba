"""Writes plots with matplotlib, without a screen; the same figures give the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from split_model.errors import BackendError, OutputError, UsageError

SUFFIXES = (".png", ".svg")


def check_plot_path(path: Path) -> None:
    """Raise `UsageError` for a file that is neither ``.png`` nor ``.svg``; call it before the work starts."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--plot {path}: draws {' or '.join(SUFFIXES)} files", remedy="name one of those")


@contextmanager
def drawn(path: Path, size_inches: tuple[float, float]) -> Iterator[Any]:
    """Yield an empty figure, which is written to ``path`` at the end.

    Raises `BackendError` without matplotlib, `OutputError` for a bad path.
    """
    check_plot_path(path)
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise BackendError("--plot needs matplotlib", remedy="install this package with [tools]") from None
    # Text stays text, and identifiers in an .svg do not change from run to run.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "split-model"}):
        figure = Figure(figsize=size_inches, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        try:
            figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
        except OSError as error:
            raise OutputError(
                f"{path}: {error.strerror or error}", remedy="choose a folder you can write to"
            ) from None


def plain(text: str) -> str:
    """Escape a file's name for matplotlib, which reads dollar signs as formulae."""
    return "".join(sign if sign.isprintable() and sign != "$" else "?" for sign in text)[:80]
