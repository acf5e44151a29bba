"""Chooses the output that is read as classes and the kind of its scores, and checks both on samples.

Labels name the classes of one vector. The kind of scores follows from the end of the graph or from the user's
declaration, and is checked on the model's answers: declared probabilities must add up to one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_model.bundle import TensorSpec, TopK, file_ref
from split_model.bundle.records import Scores
from split_model.errors import BadInputError
from split_model.features.preprocess import to_real
from split_model.prepare.label_file import Labels, labels_of
from split_model.prepare.tflite.ending import Ending, ending_of
from split_model.prepare.tflite.graph import Graph

_log = logging.getLogger(__name__)

#: Tolerance of float probabilities: of their sum from one, and of each from the range of 0 to 1.
_TOLERANCE = 0.01
#: Ops whose values are not in the order of the classes, with the remedy.
_NO_SCORES = {
    "TOPK_V2": "TOPK_V2 has put its values in order of size",
    "ARG_MAX": "it is the number of a class, by ARG_MAX; take the model without that op",
    "ARG_MIN": "it is the number of a class, by ARG_MIN; take the model without that op",
}
_MOVES = frozenset(("RESHAPE", "SQUEEZE", "EXPAND_DIMS", "CAST", "DEQUANTIZE", "QUANTIZE"))
_PERCENT = 100
_KINDS: dict[str, Scores] = {"softmax": "probabilities", "sigmoid": "multilabel-probabilities", "plain": "logits"}
_REMEDY = (
    "declare --scores logits, multilabel-logits or multilabel-probabilities, or values to show them as they are"
)


def is_vector(shape: Sequence[int]) -> bool:
    """Whether a shape is one vector of values: at most one side is over 1."""
    return len(shape) > 0 and math.prod(shape) == max(shape)


def class_output(graph: Graph, labels: Labels, wanted: int | None) -> int:
    """Find the output whose classes the labels name: ``wanted``, or the first that they fit.

    Raises:
        BadInputError: There is none; the message has the shapes and the remedy.

    """
    shapes = [graph.tensors[tensor].shape for tensor in graph.outputs]
    count, source = len(labels.names), labels.source
    if wanted is not None and not 0 <= wanted < len(shapes):
        raise BadInputError(
            f"--labels-output {wanted}: the model has outputs 0 to {len(shapes) - 1}",
            remedy="name one of these outputs",
        )
    looked = range(len(shapes)) if wanted is None else [wanted]
    no_scores = {at: why for at in looked if (why := why_no_scores(graph, at))}
    open_ended = {at for at in looked if graph.tensors[graph.outputs[at]].open_axes}
    vectors = [at for at in looked if is_vector(shapes[at]) and at not in open_ended | no_scores.keys()]
    fitting = [at for at in vectors if math.prod(shapes[at]) == count]
    if len(fitting) > 1:
        others = ", ".join(map(str, fitting[1:]))
        _log.info(
            "labels are read from output %d; --labels-output takes another that they fit: %s", fitting[0], others
        )
    if fitting:
        return fitting[0]
    if vectors:
        raise _wrong_count(labels, vectors[0], math.prod(shapes[vectors[0]]))
    told = ", ".join(f"{at} {list(shapes[at])}" for at in looked)
    raise BadInputError(
        f"{source}: labels name the classes of one vector, [1, {count}], the model has output {told}: "
        f"{_why_none(looked[0], shapes[looked[0]], open_ended, no_scores)}",
        remedy="say what the outputs are with --answer detections, map, landmarks or vector, or leave --labels out",
    )


def why_no_scores(graph: Graph, output: int) -> str:
    """Why an output has not one score per class although it may be one vector; empty if it can have."""
    producers = graph.producers()
    tensor = graph.outputs[output]
    while (made := producers.get(tensor)) is not None and made.name in _MOVES and made.inputs:
        tensor = made.inputs[0]
    return "" if made is None else _NO_SCORES.get(made.name, "")


def _wrong_count(labels: Labels, output: int, classes: int) -> BadInputError:
    """Make the error for a vector with another number of values than labels."""
    count = len(labels.names)
    which = "first output" if output == 0 else f"output {output}"
    empty = [line for line, name in enumerate(labels.names, 1) if not name]
    blank = f" (line {empty[0]} is blank)" if empty else ""
    remedy = "give one label a class"
    if classes == 1:
        remedy = "one value is the score of one class: give its label alone, the one that a high score means"
    elif classes - count == 1:
        remedy += ", the one more may be 'background' at its place"
    return BadInputError(
        f"{labels.source}: {count} labels{blank}, the model's {which} has {classes} "
        f"{'class' if classes == 1 else 'classes'}",
        remedy=remedy,
    )


def _why_none(output: int, shape: Sequence[int], open_ended: Collection[int], no_scores: Mapping[int, str]) -> str:
    if output in open_ended:
        return "its size depends on the data"
    return no_scores.get(output) or _why(shape)


def _why(shape: Sequence[int]) -> str:
    sides = [side for side in shape if side > 1]
    if len(shape) == 4 and len(sides) >= 2:
        places = math.prod(shape[:-1])
        return f"a map of {places} places with {shape[-1]} values each"
    if len(shape) == 2:
        return f"a batch of {shape[0]} vectors of {shape[1]}"
    return "several vectors"


def declared_answer(
    graph: Graph,
    scratch: Path,
    *,
    labels: Path | None,
    model: Path | None,
    top_k: int,
    scores: Scores | None,
    output: int | None,
) -> tuple[TopK | None, Ending | None]:
    """Make the answer's schema if there are labels, write these into ``scratch``, and find the output's ending.

    Labels come from a file or, if none is given, from the file of ``model`` if it has some that fit.
    """
    known = labels_of(labels, model, _vector_sizes(graph, output))
    if known is None:
        return None, None
    at = class_output(graph, known, output)
    if known.told:
        _log.info("%s", known.told)
    (scratch / "labels.txt").write_text("".join(f"{name}\n" for name in known.names), encoding="utf-8")
    ending = ending_of(graph, at)
    answer = TopK(
        output=at,
        k=min(top_k, len(known.names)),
        labels=file_ref(scratch, "labels.txt"),
        scores=_KINDS[ending.kind] if scores is None else scores,
    )
    return answer, ending


def _vector_sizes(graph: Graph, wanted: int | None) -> list[int]:
    """Sizes of the outputs that are one vector; only of ``wanted`` if it is given."""
    looked = graph.outputs if wanted is None else graph.outputs[max(0, wanted) : max(0, wanted) + 1]
    tensors = [graph.tensors[at] for at in looked]
    return [tensor.size for tensor in tensors if is_vector(tensor.shape) and not tensor.open_axes]


def describe(answer: TopK, ending: Ending, *, declared: bool) -> str:
    """One line for the user: the kind of the scores, and why."""
    if declared:
        return f"scores of output {answer.output}: {answer.scores}, as declared"
    why = f"it ends in {ending.op}" if ending.op else "it ends in neither SOFTMAX nor LOGISTIC"
    return f"scores of output {answer.output} taken as {answer.scores}: {why}; --scores declares others"


class ScoreCheck:
    """Checks the declared kind of scores on answers; `add` each, then `check`."""

    def __init__(self, answer: TopK, spec: TensorSpec, ending: Ending) -> None:
        self._answer, self._spec = answer, spec
        self._step = max(ending.step, spec.scale)
        self._count = 0
        self._low, self._high = math.inf, -math.inf
        self._sums = [math.inf, -math.inf]

    def add(self, outputs: Sequence[NDArray[Any]]) -> None:
        """Add an answer of the model: its raw outputs."""
        real = to_real(outputs[self._answer.output], self._spec).astype(np.float64)
        self._count += 1
        self._low, self._high = min(self._low, float(real.min())), max(self._high, float(real.max()))
        total = float(real.sum())
        self._sums = [min(self._sums[0], total), max(self._sums[1], total)]

    @property
    def _slack(self) -> float:
        return _TOLERANCE + self._step

    @property
    def _each(self) -> bool:
        """Whether every value can be a probability."""
        return -self._slack <= self._low and self._high <= 1 + self._slack

    @property
    def _whole(self) -> bool:
        """Whether the values of every answer add up to one."""
        spread = _TOLERANCE + self._spec.size * self._step / 2
        return 1 - spread <= self._sums[0] and self._sums[1] <= 1 + spread

    def taken(self) -> tuple[Scores, str]:
        """Find the kind of scores by the answers if the graph suggests logits.

        Returns:
            The kind and the reason; empty for logits.

        """
        if self._spec.size > 1 and self._low >= -self._step:
            if self._each and self._whole:
                return "probabilities", f"all {self._count} answers tried lie in 0..1 and add up to one"
            if self._each:
                return "multilabel-probabilities", f"all {self._count} answers tried lie in 0..1"
            if max(abs(total - _PERCENT) for total in self._sums) <= _PERCENT * _TOLERANCE:
                return "values", f"all {self._count} answers tried add up to {_PERCENT}, as percentages do"
        return "logits", ""

    def check(self) -> str:
        """Return a line of advice if the declaration is doubtful, else empty.

        Raises:
            BadInputError: Declared probabilities are not probabilities.

        """
        each, whole = self._each, self._whole
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
