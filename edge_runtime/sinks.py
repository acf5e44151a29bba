"""Where answers go: JSON lines, one a frame, flushed at once, so that a reader follows live."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from split_model.bundle import TensorSpec, TopK
from split_model.errors import OutputError

Array = NDArray[Any]

#: Outputs of more values than this are not written into a record; declare an answer schema instead.
_MAX_VALUES = 1000


class JsonLines:
    """Appends records to a file, or writes them to standard output. A record is there whole or not at all."""

    def __init__(self, path: Path | None) -> None:
        self._name = str(path or "standard output")
        self._owned = path is not None
        self._encoder = msgspec.json.Encoder()
        if path is None:
            self._file = sys.stdout.fileno()
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise OutputError(f"{path}: {error.strerror}; set sink.path to a file you can write") from None

    def write(self, record: dict[str, Any]) -> None:
        """Write one record; `OutputError` where it cannot be written, for example on a full disk."""
        line = memoryview(self._encoder.encode(record) + b"\n")
        written = 0
        try:
            while written < len(line):
                written += os.write(self._file, line[written:])
        except BrokenPipeError:
            raise
        except OSError as error:
            self._take_back(written)
            raise OutputError(f"{self._name}: {error.strerror}; make room, or set sink.path elsewhere") from None

    def close(self) -> None:
        """Close the file; standard output stays open."""
        if self._owned:
            os.close(self._file)

    def _take_back(self, written: int) -> None:
        """Half a line would spoil the whole file for those who read it."""
        status = os.fstat(self._file)
        if written and stat.S_ISREG(status.st_mode):
            os.ftruncate(self._file, status.st_size - written)


def answer_fields(
    outputs: Sequence[Array], specs: Sequence[TensorSpec], schema: TopK | None, labels: Sequence[str]
) -> dict[str, Any]:
    """The answer as the schema reads it: ``top`` with class, label and score, or the raw ``outputs``.

    Scores are probabilities: of quantised outputs in real units, of logits after a softmax.
    """
    if schema is None:
        return {"outputs": [_raw(tensor) for tensor in outputs]}
    scores = np.asarray(outputs[schema.output], np.float64).reshape(-1)
    spec = specs[schema.output]
    if spec.scale:
        scores = spec.scale * (scores - spec.zero_point)
    if schema.scores == "logits":
        with np.errstate(invalid="ignore"):  # a model that answers infinities gets no scores, in JSON null
            scores = np.exp(scores - scores.max())
            scores /= scores.sum()
    best = np.argsort(-scores, kind="stable")[: schema.k]
    return {
        "top": [
            {
                "class": int(i),
                "label": labels[i] if i < len(labels) else str(i),
                "score": round(float(scores[i]), 4),
            }
            for i in best
        ]
    }


def _raw(tensor: Array) -> dict[str, Any]:
    record: dict[str, Any] = {"dtype": tensor.dtype.name, "shape": list(tensor.shape)}
    if tensor.size <= _MAX_VALUES:
        record["values"] = tensor.reshape(-1).tolist()
    return record
