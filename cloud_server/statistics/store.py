"""The counts on disk: one SQLite file that the server writes and ``cloud-server statistics`` reads.

After some hours minutes are added up to hours, and counts older than the limit are deleted, so the size of the file
is bounded. It holds only released codewords, which are not secret: their ε is spent.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloud_server.statistics.tally import BUCKET_S, Bucket, Key, Series
from split_model.errors import BadInputError, MissingInputError, OutputError
from split_model.privacy.codebook import CodebookSpec

_HOUR_S = 3600
#: Seconds after which minutes are added up to hours.
_MINUTES_FOR_S = 3 * _HOUR_S
_DAY_S = 86_400
_VERSION = 1
#: Seconds that a reader and the server wait for each other.
_BUSY_S = 5.0

_SCHEMA = """
CREATE TABLE series (
    id INTEGER PRIMARY KEY, bundle TEXT, name TEXT, cut INTEGER, codewords INTEGER, groups INTEGER, epsilon REAL,
    UNIQUE (bundle, cut, codewords, groups, epsilon));
CREATE TABLE frames (
    series INTEGER, device TEXT, start_s INTEGER, span_s INTEGER, count INTEGER,
    PRIMARY KEY (series, device, start_s, span_s)) WITHOUT ROWID;
CREATE TABLE singles (
    series INTEGER, device TEXT, start_s INTEGER, span_s INTEGER, grp INTEGER, codeword INTEGER, count INTEGER,
    PRIMARY KEY (series, device, start_s, span_s, grp, codeword)) WITHOUT ROWID;
CREATE TABLE pairs (
    series INTEGER, device TEXT, start_s INTEGER, span_s INTEGER,
    grp INTEGER, grp2 INTEGER, codeword INTEGER, codeword2 INTEGER, count INTEGER,
    PRIMARY KEY (series, device, start_s, span_s, grp, grp2, codeword, codeword2)) WITHOUT ROWID;
"""
#: The key columns of each table of counts.
_TABLES = {
    "frames": "series, device",
    "singles": "series, device, grp, codeword",
    "pairs": "series, device, grp, grp2, codeword, codeword2",
}


class Store:
    """The server's side of the file. Use it from one thread.

    Args:
        path: The file; it is made if it is missing.
        keep_days: Counts older than this are deleted.
        limit_bytes: Above this size of the file the oldest counts are deleted.

    Raises:
        OutputError: The file cannot be opened or written, or is not a file of this program.

    """

    def __init__(self, path: Path, *, keep_days: float, limit_bytes: int) -> None:
        self._path = path
        self._keep_s = keep_days * _DAY_S
        self._limit_bytes = limit_bytes
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            try:
                self._prepare()
            except BaseException:
                self._open.close()
                raise

    def add(self, buckets: Mapping[Key, Bucket], *, unix_s: float) -> None:
        """Add counts, in one transaction: all of them or none. Raises `OutputError`."""
        with self._errors(), self._transaction():
            for (series, device, start_s), bucket in buckets.items():
                at = (self._series_id(series), device, start_s, BUCKET_S)
                self._count("frames", [(*at, bucket.frames)])
                self._count("singles", [(*at, *key, count) for key, count in bucket.singles.items()])
                self._count("pairs", [(*at, *key, count) for key, count in bucket.pairs.items()])
            self._age(unix_s)

    def close(self) -> None:
        """Close the file."""
        self._open.close()

    def _prepare(self) -> None:
        version = self._open.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _VERSION):
            raise OutputError(
                f"{self._path}: statistics of format {version}, this program has {_VERSION}",
                remedy="name another file in statistics.path",
            )
        self._open.execute("PRAGMA synchronous = NORMAL")
        if version == 0:
            self._open.execute("PRAGMA auto_vacuum = INCREMENTAL")
            self._open.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")

    def _series_id(self, series: Series) -> int:
        spec = series.spec
        named = (series.bundle, series.cut, spec.codewords, spec.groups, spec.epsilon)
        self._open.execute(
            "INSERT OR IGNORE INTO series (bundle, cut, codewords, groups, epsilon, name) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (*named, series.name),
        )
        found = self._open.execute(
            "SELECT id FROM series WHERE (bundle, cut, codewords, groups, epsilon) = (?, ?, ?, ?, ?)", named
        )
        return int(found.fetchone()[0])

    def _count(self, table: str, rows: Sequence[tuple[object, ...]]) -> None:
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            self._open.executemany(
                f"INSERT INTO {table} VALUES ({marks}) ON CONFLICT DO UPDATE SET count = count + excluded.count",  # noqa: S608
                rows,
            )

    def _age(self, unix_s: float) -> None:
        """Add up old minutes to hours, and delete the oldest counts."""
        hours_to_s = int(unix_s - _MINUTES_FOR_S) // _HOUR_S * _HOUR_S
        due = self._open.execute(
            "SELECT 1 FROM frames WHERE span_s = ? AND start_s < ? LIMIT 1", (BUCKET_S, hours_to_s)
        )
        if due.fetchone() is not None:
            for table, columns in _TABLES.items():
                self._add_up(table, columns, hours_to_s)
        self._delete_before(unix_s - self._keep_s)
        while self._used_bytes() > self._limit_bytes:
            oldest_s = self._open.execute("SELECT min(start_s) FROM frames").fetchone()[0]
            if oldest_s is None:
                return
            self._delete_before(oldest_s // _HOUR_S * _HOUR_S + _HOUR_S)

    def _add_up(self, table: str, columns: str, before_s: int) -> None:
        old = {"span": BUCKET_S, "before": before_s, "hour": _HOUR_S}
        others = columns.removeprefix("series, device").removeprefix(", ")
        into = f"series, device, start_s, span_s, {others + ', ' if others else ''}count"
        hour = "start_s / :hour * :hour"
        self._open.execute(
            f"INSERT INTO {table} ({into}) SELECT series, device, {hour}, :hour, "  # noqa: S608
            f"{others + ', ' if others else ''}sum(count) FROM {table} WHERE span_s = :span AND start_s < :before "
            f"GROUP BY {columns}, {hour} ON CONFLICT DO UPDATE SET count = count + excluded.count",
            old,
        )
        self._open.execute(f"DELETE FROM {table} WHERE span_s = :span AND start_s < :before", old)  # noqa: S608

    def _delete_before(self, unix_s: float) -> None:
        for table in _TABLES:
            self._open.execute(f"DELETE FROM {table} WHERE start_s + span_s <= ?", (unix_s,))  # noqa: S608

    def _used_bytes(self) -> int:
        pages, free, size = (
            int(self._open.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._open.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._open.execute("COMMIT")
        except BaseException:
            if self._open.in_transaction:
                self._open.execute("ROLLBACK")
            raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise OutputError(
                f"{self._path}: {error}", remedy="make room there, or name another file in statistics.path"
            ) from None


@dataclass(frozen=True, slots=True)
class Selection:
    """A selection of counts: a series (its number in the file), some devices, and a time in Unix seconds."""

    series: int
    devices: tuple[str, ...]
    since_s: float
    until_s: float


class Reader:
    """Reads the file while the server writes it.

    Raises:
        MissingInputError: There is no file.
        BadInputError: It is not a file of this program.

    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise MissingInputError(
                f"{path}: no statistics yet",
                remedy="they begin with the first codebook release of a device; see 'cloud-server status'",
            )
        self._path = path
        self._open = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_S)

    def close(self) -> None:
        """Close the file."""
        self._open.close()

    def all_series(self) -> list[tuple[int, Series]]:
        """Every series, by its number in the file."""
        rows = self._rows("SELECT id, bundle, name, cut, codewords, groups, epsilon FROM series ORDER BY id")
        return [
            (number, Series(bundle, name, cut, CodebookSpec(epsilon=epsilon, codewords=codewords, groups=groups)))
            for number, bundle, name, cut, codewords, groups, epsilon in rows
        ]

    def devices(self, series: int, since_s: float, until_s: float) -> dict[str, int]:
        """The number of frames of each device in buckets that overlap the time."""
        rows = self._rows(
            "SELECT device, sum(count) FROM frames WHERE series = ? AND start_s + span_s > ? AND start_s < ? "
            "GROUP BY device ORDER BY device",
            (series, since_s, until_s),
        )
        return {str(device): int(count) for device, count in rows}

    def span(self, series: int, since_s: float, until_s: float) -> tuple[int, int] | None:
        """Begin of the first of these buckets and end of the last; None if there are none."""
        [(begin, end)] = self._rows(
            "SELECT min(start_s), max(start_s + span_s) FROM frames "
            "WHERE series = ? AND start_s + span_s > ? AND start_s < ?",
            (series, since_s, until_s),
        )
        return None if begin is None else (int(begin), int(end))

    def singles(self, selection: Selection) -> dict[tuple[int, int], int]:
        """Counts by (group, codeword)."""
        rows = self._counted("singles", "grp, codeword", selection)
        return {(group, codeword): count for group, codeword, count in rows}

    def pairs(self, selection: Selection) -> dict[tuple[int, int, int, int], int]:
        """Counts by (group, later group, codeword of the one, of the other)."""
        rows = self._counted("pairs", "grp, grp2, codeword, codeword2", selection)
        return {(a, b, word_a, word_b): count for a, b, word_a, word_b, count in rows}

    def _counted(self, table: str, columns: str, selection: Selection) -> list[tuple[Any, ...]]:
        marks = ", ".join("?" * len(selection.devices))
        return self._rows(
            f"SELECT {columns}, sum(count) FROM {table} WHERE series = ? AND start_s + span_s > ? AND start_s < ? "  # noqa: S608
            f"AND device IN ({marks}) GROUP BY {columns}",
            (selection.series, selection.since_s, selection.until_s, *selection.devices),
        )

    def _rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        try:
            with closing(self._open.execute(query, values)) as found:
                return found.fetchall()
        except sqlite3.Error as error:
            raise BadInputError(
                f"{self._path}: {error}", remedy="name the server's file in statistics.path"
            ) from None
