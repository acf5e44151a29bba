"""Checks a model's answers to samples against their declaration, and reports likely mistakes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from split_model.answers.detections import Found
from split_model.answers.reader import AnswerReader, input_size
from split_model.arrays import Array
from split_model.bundle import Bundle, Manifest
from split_model.bundle.readings import Detections
from split_model.errors import BadInputError
from split_model.interpreter import open_interpreter
from split_model.prepare.outputs import Floats, real_outputs
from split_model.prepare.reading_choice import declared_reading
from split_model.prepare.reading_declaration import ReadingWish
from split_model.prepare.tflite.graph import Graph

_log = logging.getLogger(__name__)

#: Coordinates above this are not fractions of the input's side.
_FAR = 2.0
_TOLERANCE = 1e-3


def with_reading(
    scratch: Path,
    manifest: Manifest,
    graph: Graph,
    wish: ReadingWish,
    *,
    labels: Path | None,
    samples: Sequence[Sequence[Array]],
) -> Manifest:
    """Add the reading of outputs to the manifest, checked on answers to samples.

    Raises:
        BadInputError: The outputs do not fit the reading, or answers show that it is wrong.

    """
    reading, told = declared_reading(manifest, graph, scratch, wish, labels)
    manifest = msgspec.structs.replace(manifest, reading=reading)
    _log.info("%s", told)
    whole = open_interpreter(scratch / manifest.model.path)
    found = ReadingCheck(AnswerReader.of(Bundle(scratch, manifest, "")))
    for tensors in samples:
        found.add(real_outputs(whole, tensors))
    if advice := found.check():
        _log.info("%s", advice)
    return manifest


class ReadingCheck:
    """Checks answers to samples against their declaration; `add` each, then `check`."""

    def __init__(self, reader: AnswerReader) -> None:
        self._reader = reader
        self._count = self._boxes = 0
        self._highest_score = 0.0
        self._reach = 0.0

    def add(self, outputs: Sequence[Floats]) -> None:
        """Add an answer of the model, in real units."""
        found = self._reader.read(outputs)
        self._count += 1
        if isinstance(found, Found) and len(found.scores):
            self._boxes += len(found.scores)
            self._highest_score = max(self._highest_score, float(found.scores.max()))
            size = max(input_size(self._reader.manifest))
            self._reach = max(self._reach, float(np.abs(found.boxes).max()) / size)

    def check(self) -> str:
        """Return a line of advice or of findings; empty for answers without boxes.

        Raises:
            BadInputError: Scores of boxes lie beyond 1.

        """
        reading = self._reader.manifest.reading
        if not isinstance(reading, Detections):
            return ""
        if reading.scores != "values" and self._highest_score > 1 + _TOLERANCE:
            raise BadInputError(
                f"the scores of boxes reach {self._highest_score:.3g} in {self._count} answers",
                remedy='declare "scores": "multilabel-logits", "logits" or "values", or another "layout"',
            )
        if reading.unit == "fraction" and self._reach > _FAR:
            return (
                f"boxes reach {self._reach:.3g} times the input's side in {self._count} answers; "
                'if they are pixels, declare "unit": "pixels"'
            )
        each = self._boxes / max(1, self._count)
        if not self._boxes:
            return (
                f"no box of a score of {reading.threshold:g} in {self._count} answers; is the declaration right, "
                'or "threshold" too high?'
            )
        return f"{each:.2g} boxes per answer in {self._count} answers"
