"""Measures agreement with the unsplit model, by the kind of answer: 1 is the same answer, 0 is wrong.

`KINDS` has for each kind of answer a function that makes its `Measure` from the bundle. Some measures need the
spread of the outputs over all samples, so there are two steps: `Measure.note` for each answer, `Measure.agreement`
at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from split_model.answers.measures import agreement, measure_of
from split_model.answers.reader import AnswerReader
from split_model.bundle import Bundle, Manifest
from split_model.errors import BadBundleError
from split_model.prepare.answer import is_vector
from split_model.prepare.outputs import Floats, Spread, squared_errors

#: A measure's note of one answer: one number, or one for each output.
Note: TypeAlias = "float | Sequence[float]"

#: A raw answer agrees if its squared error is at most this share of the outputs' variance among the samples.
RAW_TOLERANCE = 0.1


class Measure(Protocol):
    """The agreement of one answer with the unsplit model's. ``text``: the counted quantity as text."""

    @property
    def text(self) -> str:
        """The counted quantity, for example "the same best class"."""
        ...

    def note(self, outputs: Sequence[Floats], unsplit: Sequence[Floats]) -> Note:
        """Note an answer: the outputs in real units, compared with the unsplit model's."""
        ...

    def agreement(self, note: Note, spread: Spread) -> float:
        """The agreement from 0 to 1; ``spread``: the variation of the unsplit model's outputs over all samples."""
        ...


@dataclass(frozen=True)
class Direct:
    """A measure that needs only the two answers; ``compare`` gives the agreement."""

    text: str
    compare: Callable[[Sequence[Floats], Sequence[Floats]], float]

    def note(self, outputs: Sequence[Floats], unsplit: Sequence[Floats]) -> float:
        """The agreement itself."""
        return self.compare(outputs, unsplit)

    def agreement(self, note: Note, spread: Spread) -> float:  # noqa: ARG002  of the protocol
        """The same."""
        assert isinstance(note, float)
        return note


@dataclass(frozen=True)
class WithinSpread:
    """All outputs together: 1 if their squared error, in units of their variance, is within ``tolerance``."""

    tolerance: float = RAW_TOLERANCE

    @property
    def text(self) -> str:
        """The counted quantity."""
        return f"outputs within {self.tolerance:.0%} of their variance"

    def note(self, outputs: Sequence[Floats], unsplit: Sequence[Floats]) -> list[float]:
        """The squared error of each output."""
        return squared_errors(outputs, unsplit)

    def agreement(self, note: Note, spread: Spread) -> float:
        """Whether the outputs agree within the tolerance."""
        assert not isinstance(note, float)
        return float(spread.error(note) <= self.tolerance)


def same_class(output: int) -> Direct:
    """The best class is the unsplit model's."""

    def compare(outputs: Sequence[Floats], unsplit: Sequence[Floats]) -> float:
        return float(outputs[output].argmax() == unsplit[output].argmax())

    return Direct("the same best class", compare)


def class_output(manifest: Manifest) -> int | None:
    """The output that is read as classes; None if the bundle declares another meaning of the outputs."""
    if manifest.answer is None:
        first = manifest.outputs[0]
        known = manifest.reading is not None or manifest.answer_schema
        return None if known or first.open_axes or not is_vector(first.shape) else 0
    if not 0 <= manifest.answer.output < len(manifest.outputs):
        raise BadBundleError(
            f"the answer is to be read from output {manifest.answer.output}, but the outputs are 0 to "
            f"{len(manifest.outputs) - 1}",
            remedy="prepare the bundle again",
        )
    return manifest.answer.output


def _classes(bundle: Bundle) -> Measure:
    output = class_output(bundle.manifest)
    assert output is not None
    return same_class(output)


_TEXTS = {
    "mAP50": "F1 of boxes that match the unsplit model's",
    "pixels": "landmarks within 5 % of the input's longer side",
    "IoU": "intersection over union with the unsplit model's map",
    "cosine": "cosine to the unsplit model's vector",
}


def _read(bundle: Bundle) -> Measure:
    """The measure of boxes, landmarks, maps and vectors: the share that is the same."""
    reader, known = AnswerReader.of(bundle), measure_of(bundle.manifest)
    assert known is not None

    def compare(outputs: Sequence[Floats], unsplit: Sequence[Floats]) -> float:
        return float(agreement(reader.read(outputs), reader.read(unsplit), bundle.manifest))

    return Direct(_TEXTS[known], compare)


def _raw(bundle: Bundle) -> Measure:  # noqa: ARG001  of the table
    return WithinSpread()


#: The maker of a measure, by the kind of the answer of `kind_of`.
KINDS: Mapping[str, Callable[[Bundle], Measure]] = {"classes": _classes, "read": _read, "raw": _raw}


def kind_of(manifest: Manifest) -> str:
    """The kind of a bundle's answer: a key of `KINDS`."""
    if manifest.reading is not None:
        return "read"
    return "raw" if class_output(manifest) is None else "classes"


def measure_for(bundle: Bundle) -> Measure:
    """The measure that fits a bundle's answer; see `class_output` for errors."""
    return KINDS[kind_of(bundle.manifest)](bundle)
