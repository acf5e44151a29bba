"""Makes estimates from the stored counts: for a time, and for all devices, some, or each."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from cloud_server.statistics.estimates import Estimates, Response, pairs, single
from cloud_server.statistics.store import Reader, Selection
from cloud_server.statistics.tally import Series, paired
from split_model.bundle import Bundle, Codebook
from split_model.errors import UsageError
from split_model.features.data import read_labels

Counts = NDArray[np.int64]


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """Frames in which something was true: estimate, 95 % interval, and the number of responses for it."""

    frames: float
    low: float
    high: float
    named: int


class CodewordEstimate(Estimate, frozen=True, kw_only=True):
    """The estimate of one codeword. ``decoded_as``: the class of the tail's answer, if it has classes."""

    group: int
    codeword: int
    decoded_as: str | None = None


class ClassEstimate(Estimate, frozen=True, kw_only=True):
    """The estimate of all codewords that are decoded as one class.

    ``confused``: held-out samples decoded as this class without noise: the number that were right, and the others
    by their right class; measured when the codebook was learned.
    """

    decoded_as: str
    codewords: int
    right_samples: int
    confused: dict[str, int]


class PairEstimate(Estimate, frozen=True, kw_only=True):
    """The estimate of a codeword in one group together with a codeword in another."""

    groups: tuple[int, int]
    codewords: tuple[int, int]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One selection of devices and one codebook.

    Attributes:
        devices: The devices by their number of frames.
        begin_s: Begin of the counted time, in Unix seconds; whole minutes, or whole hours for old counts.
        end_s: Its end.
        frames: The number of releases.
        kept: The mechanism's probability that a codeword arrives unchanged.
        distribution: The codewords' estimates, most frequent first.
        classes: By decoded class, most frequent first; empty for several groups, and for an answer without classes.
        pairs: The most frequent pairs of codewords of two groups.

    """

    bundle: str
    identity: str
    cut: int
    codewords: int
    groups: int
    whole_input_epsilon: float
    selection: str
    devices: dict[str, int]
    begin_s: int
    end_s: int
    frames: int
    kept: float
    distribution: list[CodewordEstimate]
    classes: list[ClassEstimate]
    pairs: list[PairEstimate]


def select(
    devices: Sequence[str], patterns: Sequence[str], labels: Mapping[str, Sequence[str]], *, each: bool
) -> dict[str, list[str]]:
    """Sort devices into the selections to report on.

    Args:
        devices: Names.
        patterns: Names, patterns as ``porch*``, and labels of the config; none means all devices.
        labels: The patterns that each label stands for.
        each: Whether every device is a separate selection.

    Returns:
        Devices by the selection's name. Without ``each``, one for every label given, and one for the rest.

    Raises:
        UsageError: A pattern or label that fits no device.

    """
    chosen: dict[str, list[str]] = {}
    for pattern in patterns or ["*"]:
        wanted = labels.get(pattern, [pattern])
        found = [name for name in devices if any(fnmatch.fnmatchcase(name, one) for one in wanted)]
        if not found and patterns:
            known = ", ".join([*labels, *devices][:20]) or "none yet"
            raise UsageError(f"--device {pattern}: no device of that name", remedy=f"labels and devices: {known}")
        chosen["all devices" if pattern == "*" else pattern] = found
    if each:
        return {name: [name] for found in chosen.values() for name in found}
    return chosen


@dataclass(frozen=True, slots=True)
class Question:
    """What to report on.

    Attributes:
        since_s: The time's begin, in Unix seconds.
        until_s: Its end.
        patterns: The devices; see `select`.
        labels: The labels that patterns may be; see `select`.
        each: Whether every device is reported by itself.
        bundles: By identity; a series whose bundle is not among them has no names of classes.
        most_pairs: The number of pairs of codewords to report for two groups.

    """

    since_s: float = 0.0
    until_s: float = math.inf
    patterns: Sequence[str] = ()
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    each: bool = False
    bundles: Mapping[str, Bundle] = field(default_factory=dict)
    most_pairs: int = 100


def rows(reader: Reader, question: Question) -> list[Row]:
    """Every series that has counts in the time, for each selection of devices.

    Raises:
        UsageError: A pattern or label that fits no device.

    """
    found = []
    for number, series in reader.all_series():
        frames = reader.devices(number, question.since_s, question.until_s)
        span = reader.span(number, question.since_s, question.until_s)
        if span is None:
            continue
        for name, devices in select(list(frames), question.patterns, question.labels, each=question.each).items():
            if devices:
                selection = Selection(number, tuple(devices), *span)
                counted = {device: frames[device] for device in devices}
                found.append(_row(reader, series, selection, question, name=name, devices=counted))
    return found


def _row(
    reader: Reader, series: Series, selection: Selection, question: Question, *, name: str, devices: dict[str, int]
) -> Row:
    spec, frames = series.spec, sum(devices.values())
    response = Response.of(spec.codewords, spec.group_epsilon)
    counts = np.zeros((spec.groups, spec.codewords), np.int64)
    for (group, codeword), count in reader.singles(selection).items():
        counts[group, codeword] = count
    book, labels = _book(question.bundles.get(series.bundle), series)
    return Row(
        bundle=series.name,
        identity=series.bundle,
        cut=series.cut,
        codewords=spec.codewords,
        groups=spec.groups,
        whole_input_epsilon=spec.epsilon,
        selection=name,
        devices=devices,
        begin_s=int(selection.since_s),
        end_s=int(selection.until_s),
        frames=frames,
        kept=response.kept,
        distribution=_distribution(counts, response, frames, book, labels),
        classes=_classes(counts[0], response, frames, book, labels) if spec.groups == 1 else [],
        pairs=_pairs(reader.pairs(selection), response, question.most_pairs) if paired(spec) else [],
    )


def _book(bundle: Bundle | None, series: Series) -> tuple[Codebook | None, Sequence[str]]:
    if bundle is None:
        return None, ()
    wanted = (series.cut, series.spec.codewords, series.spec.groups)
    books = (
        book
        for cut in bundle.manifest.cuts
        for book in cut.codebooks
        if (cut.index, book.codewords, book.groups) == wanted
    )
    answer = bundle.manifest.answer
    labels = () if answer is None or answer.labels is None else read_labels(bundle.path(answer.labels))
    return next(books, None), labels


def _distribution(
    counts: Counts, response: Response, frames: int, book: Codebook | None, labels: Sequence[str]
) -> list[CodewordEstimate]:
    found = single(response, counts, frames)
    decoded = book.decoded if book is not None else ()
    listed = [
        CodewordEstimate(
            group=group,
            codeword=codeword,
            decoded_as=_named(decoded[codeword], labels) if decoded else None,
            named=int(counts[group, codeword]),
            **_numbers(found, (group, codeword)),
        )
        for group, codeword in np.ndindex(*counts.shape)
    ]
    return sorted(listed, key=lambda one: (one.group, -one.frames, one.codeword))


def _classes(
    counts: Counts, response: Response, frames: int, book: Codebook | None, labels: Sequence[str]
) -> list[ClassEstimate]:
    if book is None or not book.decoded:
        return []
    decoded = np.array(book.decoded)
    listed = []
    for index in np.unique(decoded).tolist():
        inside = decoded == index
        named = int(counts[inside].sum())
        found = single(response.of_set(int(inside.sum())), named, frames)
        samples = {right: count for seen, right, count in book.confusion if seen == index}
        listed.append(
            ClassEstimate(
                decoded_as=_named(index, labels),
                codewords=int(inside.sum()),
                right_samples=samples.pop(index, 0),
                confused={_named(right, labels): count for right, count in samples.items()},
                named=named,
                **_numbers(found, ()),
            )
        )
    return sorted(listed, key=lambda one: -one.frames)


def _pairs(counted: Mapping[tuple[int, int, int, int], int], response: Response, most: int) -> list[PairEstimate]:
    size = response.codewords
    tables: dict[tuple[int, int], Counts] = {}
    for (a, b, word_a, word_b), count in counted.items():
        tables.setdefault((a, b), np.zeros((size, size), np.int64))[word_a, word_b] = count
    listed = []
    for groups, table in tables.items():
        found = pairs(response, response, table)
        for at in np.argsort(-found.frames, axis=None, kind="stable")[:most].tolist():
            where = divmod(at, size)
            numbers = _numbers(found, where)
            listed.append(PairEstimate(groups=groups, codewords=where, named=int(table[where]), **numbers))
    return sorted(listed, key=lambda one: (one.groups, -one.frames))


def _numbers(found: Estimates, at: tuple[int, ...]) -> dict[str, Any]:
    return {"frames": float(found.frames[at]), "low": float(found.low[at]), "high": float(found.high[at])}


def _named(index: int, labels: Sequence[str]) -> str:
    return labels[index] if index < len(labels) else f"class {index}"
