"""The workstation's terminal, with Rich: tables that fold to its width, and progress. Neither program imports it.

In a pipe everything is plain text and nothing is folded. `split-model verify` runs on boards, too, which have no
Rich: there progress is plain lines.
"""

from __future__ import annotations

import importlib.util
import io
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

from split_model.service.terminal_text import columns, fold

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: In a pipe a table is as wide as its cells.
_UNFOLDED = 4096
_PIPE_EVERY_S = 2.0


@dataclass(frozen=True)
class Table:
    """Headings and rows of text. Columns stand at the right, those named in ``left`` at the left, ``gap`` apart."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: frozenset[str] = frozenset()
    gap: int = 2


Part: TypeAlias = "str | Table"


def as_text(parts: Iterable[Part], width: int | None = None) -> str:
    """Lines and tables as text, folded at ``width`` columns; None folds nothing."""
    return "\n".join(_table(part, width) if isinstance(part, Table) else fold(part, width) for part in parts)


def show(parts: Iterable[Part]) -> None:
    """Print lines and tables for people to the standard output."""
    print(as_text(parts, columns(sys.stdout)))


def _table(table: Table, width: int | None) -> str:
    from rich.console import Console
    from rich.table import Table as RichTable

    drawn = RichTable(box=None, pad_edge=False, show_edge=False, padding=(0, table.gap, 0, 0), header_style="")
    for heading in table.headings:
        side = "left" if heading in table.left else "right"
        drawn.add_column(heading, justify=side, overflow="fold", vertical="top")  # type: ignore[arg-type]  # a literal
    for row in table.rows:
        drawn.add_row(*row)
    file = io.StringIO()
    console = Console(
        file=file, width=width or _UNFOLDED, color_system=None, markup=False, emoji=False, highlight=False
    )
    console.print(drawn)
    return "\n".join(line.rstrip() for line in file.getvalue().rstrip("\n").split("\n"))


class ProgressDisplay:
    """Progress on the error output: a bar for each step on a terminal, a line every two seconds in a pipe.

    Use it in a ``with`` statement, and call it with the step, the items done, and all items.
    """

    def __init__(self) -> None:
        self._draws = columns(sys.stderr) is not None and importlib.util.find_spec("rich") is not None
        self._bars: Progress | None = None
        self._task: tuple[str, TaskID] | None = None
        self._said_s = float("-inf")

    def __enter__(self) -> ProgressDisplay:  # noqa: PYI034  Self comes with Python 3.11
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def __call__(self, what: str, done: int, total: int) -> None:
        if not self._draws:
            self._plain(what, done, total)
            return
        if self._task is None or self._task[0] != what:
            self._end()
            self._bars = _bars()
            self._task = (what, self._bars.add_task(what, total=total))
            self._bars.start()
        assert self._bars is not None
        self._bars.update(self._task[1], completed=done, total=total)
        if done >= total:
            self._end()

    def _plain(self, what: str, done: int, total: int) -> None:
        now_s = time.monotonic()
        if done < total and now_s - self._said_s < _PIPE_EVERY_S:
            return
        self._said_s = now_s
        print(f"{what} {done}/{total}", file=sys.stderr, flush=True)

    def _end(self) -> None:
        """Leave the bar as it is; what follows, a log line or another bar, stands below."""
        if self._bars is not None:
            self._bars.stop()
        self._bars = self._task = None


def _bars() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(file=sys.stderr, width=columns(sys.stderr), highlight=False),
        redirect_stdout=False,
        redirect_stderr=False,
    )
