"""Learns the decoder of a codebook: the features of each codeword on the server.

They are the mean features of its samples. With one group they are those of a typical sample instead, if the tail's
answer to these is nearer to the samples' own answers on average: a mean of features may be unlike any real
features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from split_model.arrays import Array
from split_model.bundle import TensorSpec
from split_model.features.preprocess import to_stored
from split_model.prepare.codebook.samples import CodebookSamples, Halves
from split_model.privacy.codebook_file import Decoder, Grouping, stored_dtype

_TYPICAL = 6
_FLOAT16 = 65504.0


def make_decoder(
    halves: Halves,
    grouping: Grouping,
    samples: CodebookSamples,
    codewords: NDArray[np.int64],
    *,
    known: NDArray[np.int64],
    count: int,
    advance: Callable[[], None],
) -> Decoder:
    """Learn from the samples ``known``; ``codewords`` [n, groups]: of all samples, 0..``count`` - 1."""
    tensors = halves.cut.tensors
    groups = codewords.shape[1]
    group_of = np.searchsorted(grouping.groups, np.arange(grouping.groups[-1]), side="right") - 1
    typical = _typical(samples, codewords[:, 0], known, count) if groups == 1 else {}
    sums = [np.zeros((count, *spec.shape)) for spec in tensors]
    sizes = np.zeros((groups, count), np.int64)
    tried: dict[int, list[list[Array]]] = {}
    mine = np.zeros(len(codewords), bool)
    mine[known] = True
    for at, real in enumerate(samples.features(halves, grouping)):
        advance()
        if not mine[at]:
            continue
        first = 0
        for total, one in zip(sums, real, strict=True):
            channels = np.arange(one.shape[-1])
            total[codewords[at][group_of[first + channels]], ..., channels] += np.moveaxis(one, -1, 0)
            first += len(channels)
        sizes[np.arange(groups), codewords[at]] += 1
        if at in typical:
            tried.setdefault(typical[at], []).append(real)
    tables = _means(sums, sizes, group_of)
    if groups == 1:
        _choose(tables, tried, halves, samples, codewords=codewords[known, 0], known=known)
    stored = tuple(_stored(table, spec) for table, spec in zip(tables, tensors, strict=True))
    return Decoder(tensors, grouping.groups, stored)


def _typical(
    samples: CodebookSamples, codewords: NDArray[np.int64], known: NDArray[np.int64], count: int
) -> dict[int, int]:
    """Find the typical samples of each codeword: their answer is near the mean answer of its samples."""
    found: dict[int, int] = {}
    for codeword in range(count):
        mine = known[codewords[known] == codeword]
        if len(mine):
            away = ((samples.outputs[mine] - samples.outputs[mine].mean(0)) ** 2).sum(1)
            found |= {int(at): codeword for at in mine[np.argsort(away, kind="stable")[:_TYPICAL]]}
    return found


def _means(sums: Sequence[Array], sizes: NDArray[np.int64], group_of: NDArray[np.int64]) -> list[Array]:
    """Mean features of the codewords' samples, per channel; a codeword without samples gets the mean of all."""
    tables, first = [], 0
    for total in sums:
        shares = sizes[group_of[first : first + total.shape[-1]]].T  # [codewords, channels]
        shares = shares.reshape(len(shares), *(1,) * (total.ndim - 2), -1)
        overall = total.sum(0) / max(1, int(sizes[0].sum()))
        tables.append(np.where(shares > 0, total / np.maximum(shares, 1), overall))
        first += total.shape[-1]
    return tables


def _choose(
    tables: list[Array],
    tried: dict[int, list[list[Array]]],
    halves: Halves,
    samples: CodebookSamples,
    *,
    codewords: NDArray[np.int64],
    known: NDArray[np.int64],
) -> None:
    """Choose the best candidate of each codeword for the tables.

    Its answer is right for most of the samples; among equals it is the one with the answer nearest to theirs.
    """
    tensors = halves.cut.tensors
    for codeword, candidates in tried.items():
        mine = known[codewords == codeword]
        scored: list[tuple[float, float, int]] = []
        for candidate in [[table[codeword] for table in tables], *candidates]:
            stored = [_stored(one[None], spec)[0] for one, spec in zip(candidate, tensors, strict=True)]
            answer = halves.answer([one.astype(spec.dtype) for one, spec in zip(stored, tensors, strict=True)])
            hits = float((samples.right[mine] == answer.argmax()).mean()) if samples.classes else 0.0
            scored.append((-hits, float(((samples.outputs[mine] - answer) ** 2).mean()), len(scored)))
        best = min(scored)[2]
        if best:
            for table, one in zip(tables, candidates[best - 1], strict=True):
                table[codeword] = one


def _stored(table: Array, spec: TensorSpec) -> Array:
    if stored_dtype(spec) is np.float16:
        return np.clip(table, -_FLOAT16, _FLOAT16).astype(np.float16)
    return to_stored(table.astype(np.float32), spec)
