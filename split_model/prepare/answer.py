"""How an answer is read as classes: which output, what its scores are, and whether samples agree with that.

Labels name the classes of one vector. Scores are taken from the end of the graph, or as the user declares them, and
checked on the model's answers: declared probabilities must add up to one.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_model.bundle import TensorSpec, TopK, file_ref
from split_model.bundle.records import Scores
from split_model.errors import BadInputError
from split_model.features.data import read_labels
from split_model.features.preprocess import to_real
from split_model.prepare.tflite.ending import Ending, ending_of
from split_model.prepare.tflite.graph import Graph

#: Probabilities of float outputs may miss one by this, and each by as much the range of 0 to 1.
_TOLERANCE = 0.01
_KINDS: dict[str, Scores] = {"softmax": "probabilities", "sigmoid": "multilabel-probabilities", "plain": "logits"}
_REMEDY = (
    "declare --scores logits, multilabel-logits or multilabel-probabilities, or values to show them as they are"
)


def is_vector(shape: Sequence[int]) -> bool:
    """Whether a shape is one vector of values: no more than one side is over 1."""
    return len(shape) > 0 and math.prod(shape) == max(shape)


def class_output(graph: Graph, labels_path: Path, count: int, wanted: int | None) -> int:
    """The output that ``count`` labels name the classes of: ``wanted``, or the first one that they fit.

    Raises:
        BadInputError: There is none; the message has the shapes and what to do.

    """
    shapes = [graph.tensors[tensor].shape for tensor in graph.outputs]
    if wanted is not None and not 0 <= wanted < len(shapes):
        raise BadInputError(
            f"--labels-output {wanted}: the model has outputs 0 to {len(shapes) - 1}", remedy="name one of these"
        )
    looked = range(len(shapes)) if wanted is None else [wanted]
    open_ended = {at for at in looked if graph.tensors[graph.outputs[at]].open_axes}
    vectors = [at for at in looked if is_vector(shapes[at]) and at not in open_ended]
    for at in vectors:
        if math.prod(shapes[at]) == count:
            return at
    if vectors:
        classes = math.prod(shapes[vectors[0]])
        background = ", the one more may be 'background' at its place" if classes - count == 1 else ""
        which = "first output" if vectors[0] == 0 else f"output {vectors[0]}"
        raise BadInputError(
            f"{labels_path}: {count} labels, the model's {which} has {classes} classes",
            remedy=f"give one label a class{background}",
        )
    told = ", ".join(f"{at} {list(shapes[at])}" for at in looked)
    raise BadInputError(
        f"{labels_path}: labels name the classes of one vector, [1, {count}], the model has output {told}: "
        f"{'its size depends on the data' if looked[0] in open_ended else _why(shapes[looked[0]])}",
        remedy="say what the outputs are with --answer detections, map, landmarks or vector, or leave --labels out",
    )


def _why(shape: Sequence[int]) -> str:
    sides = [side for side in shape if side > 1]
    if len(shape) == 4 and len(sides) >= 2:
        places = math.prod(shape[:-1])
        return f"a map of {places} places with {shape[-1]} values each"
    if len(shape) == 2:
        return f"a batch of {shape[0]} vectors of {shape[1]}"
    return "several vectors"


def declared_answer(
    graph: Graph, scratch: Path, *, labels: Path | None, top_k: int, scores: Scores | None, output: int | None
) -> tuple[TopK | None, Ending | None]:
    """The answer's schema where labels are given, copied into ``scratch``, and how that output ends."""
    if labels is None:
        return None, None
    names = read_labels(labels)
    at = class_output(graph, labels, len(names), output)
    shutil.copyfile(labels, scratch / "labels.txt")
    ending = ending_of(graph, at)
    answer = TopK(
        output=at,
        k=min(top_k, len(names)),
        labels=file_ref(scratch, "labels.txt"),
        scores=_KINDS[ending.kind] if scores is None else scores,
    )
    return answer, ending


def describe(answer: TopK, ending: Ending, *, declared: bool) -> str:
    """One line for people: how the scores are read, and why."""
    if declared:
        return f"scores of output {answer.output}: {answer.scores}, as declared"
    why = f"it ends in {ending.op}" if ending.op else "it ends in neither SOFTMAX nor LOGISTIC"
    return f"scores of output {answer.output} taken as {answer.scores}: {why}; --scores declares others"


class ScoreCheck:
    """Looks whether answers are what their scores are declared to be; `add` each, then `check`."""

    def __init__(self, answer: TopK, spec: TensorSpec, ending: Ending) -> None:
        self._answer, self._spec = answer, spec
        self._step = max(ending.step, spec.scale)
        self._count = 0
        self._low, self._high = math.inf, -math.inf
        self._sums = [math.inf, -math.inf]

    def add(self, outputs: Sequence[NDArray[Any]]) -> None:
        """One more answer of the model, its raw outputs."""
        real = to_real(outputs[self._answer.output], self._spec).astype(np.float64)
        self._count += 1
        self._low, self._high = min(self._low, float(real.min())), max(self._high, float(real.max()))
        total = float(real.sum())
        self._sums = [min(self._sums[0], total), max(self._sums[1], total)]

    def check(self) -> str:
        """A line of advice where the declaration is doubtful, else empty.

        Raises:
            BadInputError: What is declared as probabilities is none.

        """
        slack = _TOLERANCE + self._step
        each = -slack <= self._low and self._high <= 1 + slack
        spread = _TOLERANCE + self._spec.size * self._step / 2
        whole = 1 - spread <= self._sums[0] and self._sums[1] <= 1 + spread
        scores = self._answer.scores
        if scores == "probabilities" and not (each and whole):
            raise BadInputError(
                f"output {self._answer.output} is declared as probabilities, but adds up to "
                f"{self._range(self._sums)} in {self._count} answers "
                f"(its values: {self._range((self._low, self._high))})",
                remedy=_REMEDY,
            )
        if scores == "multilabel-probabilities" and not each:
            raise BadInputError(
                f"output {self._answer.output} is declared as probabilities of each class, but its values are "
                f"{self._range((self._low, self._high))} in {self._count} answers",
                remedy=_REMEDY,
            )
        if scores in ("logits", "multilabel-logits") and each and self._low >= -self._step:
            kind = "probabilities" if whole and self._spec.size > 1 else "multilabel-probabilities"
            return f"all {self._count} answers tried lie in 0..1; probabilities need --scores {kind}"
        return ""

    def _range(self, ends: Iterable[float]) -> str:
        return " to ".join(f"{end:.3g}" for end in ends)
