"""``cloud-server statistics``: prints the estimates as tables or as JSON."""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from typing import Any

import msgspec

from cloud_server.config import Config
from cloud_server.statistics.report import Estimate, Question, Row, rows
from cloud_server.statistics.store import Reader
from cloud_server.tails import find_bundles
from split_model.bundle import Bundle
from split_model.errors import ConfigError, SplitModelError, UsageError
from split_model.service.time_spans import span_s

_log = logging.getLogger(__name__)

_WATCH_S = 5.0
_CLEAR = "\x1b[H\x1b[2J"
_LABEL_COLUMNS = 22


def show(config: Config, args: argparse.Namespace) -> None:
    """Print the estimates once, or repeatedly with ``--watch``.

    Raises:
        ConfigError: The config has no file of statistics.
        MissingInputError: There are no statistics yet.
        UsageError: A time or a device is invalid.

    """
    path = config.statistics.path
    if path is None:
        raise ConfigError(
            f"{args.config}: statistics.path is not set, so nothing is counted",
            remedy="add a [statistics] table with path = FILE, and restart the server",
        )
    if args.top < 0:
        raise UsageError(f"--top {args.top}", remedy="give a number of rows, or 0 for all")
    bundles = _bundles(config)
    while True:
        now_s = time.time()
        since_s, until_s = time_window(args.last, args.since, args.until, now_s=now_s)
        question = Question(
            since_s=since_s,
            until_s=until_s,
            patterns=args.device,
            labels=config.statistics.labels,
            each=args.each,
            bundles=bundles,
            most_pairs=args.top or 1 << 16,
        )
        with closing(Reader(path)) as reader:
            found = rows(reader, question)
        if args.json:
            print(json.dumps(msgspec.to_builtins(found), indent=None if args.watch else 1), flush=True)
        else:
            print((_CLEAR if args.watch else "") + as_text(found, top=args.top), flush=True)
        if not args.watch:
            return
        time.sleep(_WATCH_S)


def time_window(last: str | None, since: str | None, until: str | None, *, now_s: float) -> tuple[float, float]:
    """The reported time in Unix seconds, from the command line's options. Raises `UsageError`."""
    until_s = now_s if until is None else _moment("--until", until)
    if last is None:
        since_s = 0.0 if since is None else _moment("--since", since)
    else:
        if since is not None:
            raise UsageError("--last and --since", remedy="give only one of them")
        since_s = until_s - span_s("--last", last)
    if since_s >= until_s:
        raise UsageError("the time ends before it begins", remedy="give a --since before --until")
    return since_s, until_s


def as_text(found: Sequence[Row], *, top: int) -> str:
    """The rows as tables of 80 columns."""
    if not found:
        return "no codebook releases in this time"
    return "\n\n".join(_as_text(row, top) for row in found)


def _as_text(row: Row, top: int) -> str:
    groups = f" in each of {row.groups} groups" if row.groups > 1 else ""
    begin, end = (time.strftime("%Y-%m-%d %H:%M", time.localtime(at)) for at in (row.begin_s, row.end_s))
    book = f"{row.codewords} codewords{groups}, whole-input ε {row.whole_input_epsilon:g}"
    lines = [
        f"{row.bundle}, cut {row.cut}: {book}",
        f"{row.selection}: {row.frames} frames of {_count(len(row.devices), 'device')}, {begin} to {end}",
        f"a codeword arrives unchanged in {row.kept:.1%} of frames; intervals of 95 %",
    ]
    if row.classes:
        lines += [
            "",
            f"  {'decoded as':<{_LABEL_COLUMNS}} {'frames':>9}  {'interval':^19}  {'share':>6}  decoder right",
        ]
        for one in row.classes[: top or None]:
            wrong = sum(one.confused.values())
            samples = one.right_samples + wrong
            right = f"{one.right_samples} of {samples}" if samples else "not measured"
            lines.append(f"  {_cut(one.decoded_as)} {_figures(one, row.frames)}  {right}")
        lines += _left_out(len(row.classes), top)
    else:
        lines += ["", _heading("codeword")]
        for group in range(row.groups):
            listed = [word for word in row.distribution if word.group == group]
            where = f"group {group}, " if row.groups > 1 else ""
            lines += [
                f"  {_cut(f'{where}codeword {word.codeword}')} {_figures(word, row.frames)}"
                for word in listed[: top or None]
            ]
            lines += _left_out(len(listed), top)
    if row.pairs:
        lines += ["", _heading("pair")]
        for pair in row.pairs[: top or None]:
            (a, b), (word_a, word_b) = pair.groups, pair.codewords
            lines.append(f"  {_cut(f'groups {a}, {b}: {word_a}, {word_b}')} {_figures(pair, row.frames)}")
    return "\n".join(line.rstrip() for line in lines)


def _heading(first: str) -> str:
    return f"  {first:<{_LABEL_COLUMNS}} {'frames':>8} {'interval':^15} {'share':>6}"


def _figures(one: Estimate, frames: int) -> str:
    interval = f"{one.low:.0f} to {one.high:.0f}"
    return f"{one.frames:8.0f} {interval:^15} {one.frames / frames:6.1%}"


def _left_out(count: int, top: int) -> list[str]:
    return [f"  and {count - top} more; --top 0 shows all"] if top and count > top else []


def _cut(text: str) -> str:
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    return f"{shown if len(shown) <= _LABEL_COLUMNS else shown[: _LABEL_COLUMNS - 1] + '…':<{_LABEL_COLUMNS}}"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _moment(option: str, text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise UsageError(f"{option} {text}", remedy="write it as 2026-11-28 or 2026-11-28T08:00") from None


def _bundles(config: Config) -> dict[str, Bundle]:
    """The hosted bundles by identity; if one is broken, its estimates are shown without class names."""
    found: dict[str, Bundle] = {}
    for path in config.server.bundles:
        try:
            opened: list[Any] = [Bundle.open(root) for root in find_bundles(path)]
        except SplitModelError as error:
            _log.warning("no class names: %s", error)
            continue
        found |= {bundle.identity: bundle for bundle in opened}
    return found
