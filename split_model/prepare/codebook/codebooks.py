"""Learns codebooks for the strict release from public data and the whole model's answers on it.

A part of the data is held out, to measure how often the device's own lookup is right; `prepare` prints that with
every codebook. With labels, codewords are fitted to the labels and to the model's outputs.
"""

# Over 300 lines: learning, judging and telling one kind of codebook, which are read together.

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no stubs

from split_model.bundle import Codebook, Cut, Manifest, file_ref
from split_model.errors import BadInputError, ConfigError, UsageError
from split_model.features.samples import Data
from split_model.prepare.codebook.decoder import make_decoder
from split_model.prepare.codebook.samples import CodebookSamples, Halves, group_channels, read_samples
from split_model.prepare.codebook.training import Scores, cluster, learn_codewords
from split_model.privacy.codebook import CodebookSpec, expected_share
from split_model.privacy.codebook_file import Decoder, Encoder, Grouping, write

Floats = NDArray[np.float32]
Progress = Callable[[int, int], None]

_SEED = 0
_HELD_OUT = 0.1
_LEAST_SAMPLES = 20
_KEPT = 0.99  # codewords are fitted for the epsilon at which randomised response keeps this share of them
_MOST_JUDGED = 2000  # number of held-out samples through the tail, if codewords of several groups are combined


@dataclass(frozen=True)
class CodebookWish:
    """One codebook to learn: ``--codebook CUT:CODEWORDS[:GROUPS]``."""

    cut: int
    codewords: int
    groups: int = 1

    @classmethod
    def parse(cls, text: str) -> CodebookWish:
        """Read CUT:CODEWORDS[:GROUPS]; `UsageError` names the mistake."""
        try:
            numbers = [int(part) for part in text.split(":")]
        except ValueError:
            numbers = []
        if len(numbers) not in (2, 3):
            raise UsageError(f"--codebook {text}", remedy="give CUT:CODEWORDS or CUT:CODEWORDS:GROUPS, as 7:32")
        wish = cls(*numbers)
        try:
            CodebookSpec(epsilon=1.0, codewords=wish.codewords, groups=wish.groups)
        except ConfigError as error:
            raise UsageError(f"--codebook {text}: {error.problem}", remedy=error.remedy) from None
        return wish


@dataclass(frozen=True)
class LearnedCodebooks:
    """The data of codebooks. ``held_out``: positions that were not used for learning, by cut."""

    data: Data | None = None
    held_out: Mapping[int, frozenset[int]] = field(default_factory=dict)


def add_codebooks(
    root: Path,
    manifest: Manifest,
    wishes: Sequence[CodebookWish],
    data: Data,
    progress: Callable[[str, int, int], None],
) -> tuple[Manifest, LearnedCodebooks]:
    """Add a codebook for each wish to the manifest, and write its file into the bundle folder ``root``.

    Also returns the held-out samples. The data are read once for consecutive codebooks of the same cut and number
    of groups.
    """
    read: CutReading | None = None
    held_out: dict[int, frozenset[int]] = {}
    for wish in wishes:
        name = f"learning {wish.codewords} codewords at cut {wish.cut}"
        steps = _Steps(lambda done, total, name=name: progress(name, done, total), 2 * len(data))  # type: ignore[misc]
        if read is None or (read.halves.cut.index, len(read.samples.rows)) != (wish.cut, wish.groups):
            read = read_cut(root, manifest, wish, data, advance=steps.advance)
        book = learn_codebook(read, wish, advance=steps.advance)
        steps.end()
        held = frozenset(_held_positions(read.samples))
        held_out[wish.cut] = held_out.get(wish.cut, held) & held
        cuts = tuple(
            msgspec.structs.replace(cut, codebooks=(*cut.codebooks, book)) if cut.index == wish.cut else cut
            for cut in manifest.cuts
        )
        manifest = msgspec.structs.replace(manifest, cuts=cuts)
    return manifest, LearnedCodebooks(data, held_out)


def _held_positions(samples: CodebookSamples) -> list[int]:
    """Positions of the held-out samples in the data."""
    positions = sorted(samples.taken)
    return [positions[int(at)] for at in _held_out(samples.origins, _SEED)[0]]


def check_wishes(manifest: Manifest, wishes: Sequence[CodebookWish], data: Data) -> None:
    """Refuse codebooks that cannot be learned, before the calibration.

    Raises:
        UsageError: A cut is not offered.
        BadInputError: A cut does not have so many groups, its model has outputs of no fixed size, or there are too
            few samples.

    """
    for wish in wishes:
        group_channels(_cut_of(manifest, wish), wish.groups)
        _check_count(len(data), wish)


def _cut_of(manifest: Manifest, wish: CodebookWish) -> Cut:
    cut = next((cut for cut in manifest.cuts if cut.index == wish.cut), None)
    if cut is None:
        offered = [cut.index for cut in manifest.cuts]
        raise UsageError(
            f"--codebook {wish.cut}:{wish.codewords}: there is no such cut",
            remedy=f"the bundle offers the cuts {offered}",
        )
    if any(spec.open_axes for spec in manifest.outputs):
        raise BadInputError(
            f"--codebook {wish.cut}:{wish.codewords}: the model's outputs have a size that depends on the data",
            remedy="use the noise release, or convert the model with outputs of a fixed size",
        )
    return cut


def _check_count(count: int, wish: CodebookWish) -> None:
    least = max(_LEAST_SAMPLES, 2 * wish.codewords)
    if count < least:
        raise BadInputError(
            f"{count} samples are too few to learn {wish.codewords} codewords from", remedy=f"give at least {least}"
        )


@dataclass(frozen=True)
class CutReading:
    """The samples at one cut, for codebooks of some number of groups."""

    halves: Halves
    grouping: Grouping
    samples: CodebookSamples


def read_cut(
    root: Path,
    manifest: Manifest,
    wish: CodebookWish,
    data: Data,
    *,
    backend: str | None = None,
    advance: Callable[[], None] = lambda: None,
) -> CutReading:
    """Run the public data through a cut of the bundle folder ``root``; ``advance`` is called for every sample.

    Raises `UsageError` for a cut that is not offered, `BadInputError` for groups it does not have.
    """
    cut = _cut_of(manifest, wish)
    halves = Halves(root, manifest, cut, backend)
    grouping = group_channels(cut, wish.groups)
    return CutReading(halves, grouping, read_samples(halves, grouping, data, advance))


def learn_codebook(
    read: CutReading, wish: CodebookWish, *, seed: int = _SEED, advance: Callable[[], None] = lambda: None
) -> Codebook:
    """Learn one codebook and write its file into the bundle's folder.

    The same data and machine give the same file. Raises `BadInputError` for too few samples. ``advance`` is called
    for every sample that is read again.
    """
    halves, grouping, samples = read.halves, read.grouping, read.samples
    root, cut = halves.root, halves.cut
    count = len(samples.outputs)
    _check_count(count, wish)
    held, known = _held_out(samples.origins, seed)
    with threadpool_limits(1, user_api="blas"):
        scores = _scores(samples, known, halves=halves, grouping=grouping, wish=wish, seed=seed)
    codewords = np.column_stack([one.codewords(rows) for one, rows in zip(scores, samples.rows, strict=True)])
    decoder = make_decoder(halves, grouping, samples, codewords, known=known, count=wish.codewords, advance=advance)
    judged = _judge(halves, samples, codewords, held, decoder=decoder, wish=wish, seed=seed)
    name = f"cut-{cut.index:03d}/codebook-{wish.codewords}x{wish.groups}.npz"
    encoder = Encoder(grouping, tuple(one.weights for one in scores), tuple(one.bias for one in scores))
    write(root / name, encoder, decoder)
    return Codebook(
        codewords=wish.codewords,
        groups=wish.groups,
        file=file_ref(root, name),
        lookup=round(judged.lookup, 6),
        chance=round(judged.chance, 6),
        samples=judged.samples,
        truth=samples.truth,
        decoded=judged.decoded,
        confusion=judged.confusion,
    )


def _held_out(origins: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split samples into held-out and learning ones; crops of a picture are on the same side."""
    order = np.random.default_rng(seed).permutation(int(origins.max()) + 1)
    chosen = np.isin(origins, order[: max(1, int(_HELD_OUT * len(order)))])
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


class _Steps:
    """Counts samples read."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def advance(self) -> None:
        self._done = min(self._done + 1, self._total - 1)
        self._progress(self._done, self._total)

    def end(self) -> None:
        self._progress(self._total, self._total)


def _scores(
    samples: CodebookSamples,
    known: NDArray[np.int64],
    *,
    halves: Halves,
    grouping: Grouping,
    wish: CodebookWish,
    seed: int,
) -> list[Scores]:
    if wish.groups == 1:
        epsilon = math.log((wish.codewords - 1) * _KEPT / (1 - _KEPT))
        targets = samples.targets(known, halves)
        rows = samples.rows[0][known]
        return [learn_codewords(rows, targets, wish.codewords, epsilon, classes=samples.classes, seed=seed)]
    scales = _sensitivities(halves.cut, samples, grouping)
    found = [
        cluster(rows[known] * scale, wish.codewords, seed=seed)
        for rows, scale in zip(samples.rows, scales, strict=True)
    ]
    return [
        Scores((one.weights * scale).astype(np.float32), one.bias) for one, scale in zip(found, scales, strict=True)
    ]


def _sensitivities(cut: Cut, samples: CodebookSamples, grouping: Grouping) -> list[Floats]:
    """The root of each input's sensitivity weight, by group; without calibration, of its inverse variance."""
    if cut.calibration is None:
        return [1.0 / np.maximum(rows.std(0), 1e-6) for rows in samples.rows]
    plain = tuple(msgspec.structs.replace(spec, dtype="float32", scale=0.0, zero_point=0) for spec in cut.tensors)
    maps = [
        np.broadcast_to(np.sqrt(np.array(known.weight)), spec.shape).astype(np.float32)
        for known, spec in zip(cut.calibration, cut.tensors, strict=True)
    ]
    return Grouping(plain, grouping.pool, grouping.groups).inputs(maps)


@dataclass(frozen=True)
class _Judged:
    """Results on held-out samples: shares of right answers with their own codewords and with random ones."""

    lookup: float
    chance: float
    samples: int
    decoded: tuple[int, ...] = ()
    confusion: tuple[tuple[int, int, int], ...] = ()


def _judge(
    halves: Halves,
    samples: CodebookSamples,
    codewords: NDArray[np.int64],
    held: NDArray[np.int64],
    *,
    decoder: Decoder,
    wish: CodebookWish,
    seed: int,
) -> _Judged:
    """Decode codewords of held-out samples, and random ones, and compare with the right answers."""
    held = held if wish.groups == 1 else held[:_MOST_JUDGED]
    drawn = np.random.default_rng((seed, 1)).integers(wish.codewords, size=(len(held), wish.groups))
    known: dict[tuple[int, ...], Floats] = {}

    def answers(chosen: NDArray[np.int64]) -> Floats:
        for key in map(tuple, chosen.tolist()):
            if key not in known:
                known[key] = halves.answer(decoder(key))
        return np.array([known[tuple(key)] for key in chosen.tolist()])

    if not samples.classes:
        outputs = samples.outputs[held]
        energy = max(float(outputs.var(0).sum()), 1e-12)
        own, random = (
            max(0.0, 1.0 - float(((answers(chosen) - outputs) ** 2).mean(0).sum()) / energy)
            for chosen in (codewords[held], drawn)
        )
        return _Judged(own, random, len(held))
    right = samples.right[held]
    own = float((answers(codewords[held]).argmax(1) == right).mean())
    if wish.groups == 1:  # the exact mean over all codewords, not over drawn ones
        every = answers(np.arange(wish.codewords)[:, None]).argmax(1)
        chance = float((every[None] == right[:, None]).mean())
        seen = Counter(zip(every[codewords[held, 0]].tolist(), right.tolist(), strict=True))
        confusion = tuple((decoded, truth, count) for (decoded, truth), count in sorted(seen.items()))
        return _Judged(own, chance, len(held), tuple(every.tolist()), confusion)
    return _Judged(own, float((answers(drawn).argmax(1) == right).mean()), len(held))


def lines(cuts: Sequence[Cut]) -> list[str]:
    """Each codebook with the local lookup's accuracy beside it, for people."""
    told = []
    for cut in cuts:
        for book in cut.codebooks:
            what = {
                "labels": "right by the labels",
                "model": "as the whole model answers",
                "variance": "of the outputs' variance kept",
            }[book.truth]
            at = ", ".join(f"{expected_share(book, epsilon):.3f} at {epsilon:g}" for epsilon in (4.0, 6.0, 8.0))
            told.append(
                f"cut {cut.index}: codebook of {book.codewords} codewords"
                + (f" in each of {book.groups} groups" if book.groups > 1 else "")
                + f"; lookup on the device itself {book.lookup:.3f} {what} ({book.samples} held-out samples); "
                f"expected through the release at whole-input epsilon: {at}"
            )
    return told
