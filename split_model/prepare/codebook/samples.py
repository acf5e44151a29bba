"""The samples for learning a codebook at one cut: averaged features, the model's outputs, the labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from split_model.arrays import Array
from split_model.bundle import Cut, Manifest
from split_model.errors import BadInputError
from split_model.features.preprocess import to_real
from split_model.features.samples import Data
from split_model.interpreter import Interpreter, open_interpreter
from split_model.privacy.codebook_file import Grouping, check_groups

Floats = NDArray[np.float32]
Progress = Callable[[int, int], None]

_MOST_INPUTS = 4096  # of a group's matrix: maps are averaged until they fit
_MOST_VALUES = 1 << 28  # of all samples' averaged features together: 1 GiB
_LABEL_SHARE = 0.5


@dataclass
class Halves:
    """Head and tail of one cut, and the tail's output with the answer."""

    root: Path
    manifest: Manifest
    cut: Cut
    backend: str | None
    tail: Interpreter = field(init=False)
    output: int = field(init=False)

    def __post_init__(self) -> None:
        """Open head and tail of the cut."""
        head = self.cut.head
        self._head = None if head is None else open_interpreter(self.root / head.path, backend=self.backend)
        self.tail = open_interpreter(self.root / self.cut.tail.path, backend=self.backend)
        reading = self.manifest.reading
        first = 0 if reading is None else reading.outputs[0]
        self.output = first if self.manifest.answer is None else self.manifest.answer.output

    def features(self, inputs: tuple[Array, ...]) -> list[Array]:
        """The live tensors of one sample."""
        return list(inputs) if self._head is None else self._head.run(inputs)

    def answer(self, features: list[Array]) -> Floats:
        """The tail's answer in real units, flat."""
        real = to_real(self.tail.run(features)[self.output], self.tail.outputs[self.output])
        return real.reshape(-1).astype(np.float32)

    def probabilities(self, outputs: Floats) -> Floats:
        """Answers [n, classes] as probabilities."""
        answer = self.manifest.answer
        if answer is not None and answer.scores == "probabilities":
            return outputs
        if answer is not None and answer.scores.startswith(
            "multilabel"
        ):  # their shares of the probability of one class
            each = (
                outputs if answer.scores.endswith("probabilities") else 1 / (1 + np.exp(-np.clip(outputs, -80, 80)))
            )
            shares: Floats = np.maximum(each, 1e-6)
            shares /= shares.sum(axis=1, keepdims=True)
            return shares
        raised: Floats = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        raised /= raised.sum(axis=1, keepdims=True)
        return raised


@dataclass(frozen=True)
class CodebookSamples:
    """``rows``: by group [n, inputs_g]; ``outputs`` [n, d]. ``classes``: whether the answer is read as classes.

    ``origins`` [n]: a number for each sample name; crops of one picture share it.
    """

    data: Data
    taken: frozenset[int]
    rows: tuple[Floats, ...]
    outputs: Floats
    labels: NDArray[np.int64] | None
    origins: NDArray[np.int64]
    classes: bool

    @property
    def truth(self) -> Literal["labels", "model", "variance"]:
        """The truth for judging an answer: labels or the whole model."""
        if not self.classes:
            return "variance"
        return "model" if self.labels is None else "labels"

    @property
    def right(self) -> NDArray[np.int64]:
        """The class that is right, [n]."""
        found: NDArray[np.int64] = self.outputs.argmax(axis=1) if self.labels is None else self.labels
        return found

    def features(self, halves: Halves, grouping: Grouping) -> Iterator[list[Floats]]:
        """Yield every sample's live tensors again in real units; from the rows if these are unaveraged."""
        tensors = halves.cut.tensors
        if len(self.rows) == 1 and set(grouping.pool) == {1}:
            ends = np.cumsum([spec.size for spec in tensors])[:-1]
            for row in self.rows[0]:
                parts = zip(np.split(row, ends), tensors, strict=True)
                yield [part.reshape(spec.shape) for part, spec in parts]
            return
        for at, sample in enumerate(self.data):
            if at in self.taken:
                pairs = zip(halves.features(sample.tensors), tensors, strict=True)
                yield [to_real(one, spec) for one, spec in pairs]

    def targets(self, chosen: NDArray[np.int64], halves: Halves) -> Floats:
        """Targets of the codewords: scaled outputs, or probabilities (averaged with labels if there are any)."""
        outputs = self.outputs[chosen]
        if not self.classes:
            scaled: Floats = (outputs - outputs.mean(0)) / np.maximum(outputs.std(0), 1e-6)
            return scaled
        probabilities = halves.probabilities(outputs)
        if self.labels is None:
            return probabilities
        told: Floats = np.eye(outputs.shape[1], dtype=np.float32)[self.labels[chosen]]
        told *= _LABEL_SHARE
        told += (1 - _LABEL_SHARE) * probabilities
        return told


def group_channels(cut: Cut, groups: int) -> Grouping:
    """Divide channels into ``groups`` groups, averaged only as much as their matrices' size needs."""
    bounds = check_groups(groups, cut.tensors)
    widest = max(max(spec.shape) for spec in cut.tensors)
    for by in range(1, widest + 1):
        pool = tuple(
            min(by, max(spec.shape[1:3])) if len(spec.shape) == 4 and spec.shape[0] == 1 else 1
            for spec in cut.tensors
        )
        grouping = Grouping(cut.tensors, pool, bounds)
        sizes = [one.size for one in grouping.inputs([np.zeros(spec.shape, spec.dtype) for spec in cut.tensors])]
        if max(sizes) <= _MOST_INPUTS:
            return grouping
    raise BadInputError(
        f"cut {cut.index}: {max(sizes)} inputs a codeword are too many even averaged", remedy="take more groups"
    )


def read_samples(halves: Halves, grouping: Grouping, data: Data, advance: Callable[[], None]) -> CodebookSamples:
    """Run head and tail over the data, or over an evenly spread part that fits the memory limit.

    Raises `BadInputError` for values that are not finite and labels that the model does not have.
    """
    cut = halves.cut
    empty = grouping.inputs([np.zeros(spec.shape, spec.dtype) for spec in cut.tensors])
    most = max(1, _MOST_VALUES // sum(rows.size for rows in empty))
    taken = frozenset(int(at) for at in np.linspace(0, len(data) - 1, min(most, len(data))).round())
    rows = [np.empty((len(taken), one.size), np.float32) for one in empty]
    outputs: list[Floats] = []
    labels: list[int] = []
    names: list[str] = []
    for at, sample in enumerate(data):
        if at not in taken:
            continue
        features = halves.features(sample.tensors)
        for group, found in enumerate(grouping.inputs(features)):
            rows[group][len(outputs)] = found
        outputs.append(halves.answer(features))
        names.append(sample.name)
        if sample.label is not None:
            labels.append(sample.label)
        advance()
    if not all(np.isfinite(part).all() for part in (*rows, *outputs)):
        raise BadInputError(
            f"cut {cut.index}: features or outputs are not finite", remedy="choose another cut for the codebook"
        )
    labelled = len(labels) == len(outputs)
    if labelled and max(labels) >= outputs[0].size:
        raise BadInputError(
            f"label {max(labels)}, the model has classes 0 to {outputs[0].size - 1}",
            remedy="label the data by class index",
        )
    return CodebookSamples(
        data=data,
        taken=taken,
        rows=tuple(rows),
        outputs=np.array(outputs),
        labels=np.array(labels, np.int64) if labelled else None,
        origins=np.unique(names, return_inverse=True)[1],
        classes=halves.manifest.answer is not None or labelled,
    )
