"""Where answers go: JSON lines, one a frame, flushed at once, so that a reader follows live."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from split_model.bundle import TopK
from split_model.errors import OutputError

Array = NDArray[Any]

#: Outputs of more values than this are not written into a record; declare an answer schema instead.
_MAX_VALUES = 1000


class JsonLines:
    """Writes records to a file or to standard output."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._encoder = msgspec.json.Encoder()
        self._file: IO[bytes] = sys.stdout.buffer
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = path.open("ab")
            except OSError as error:
                raise OutputError(f"{path}: {error.strerror}; set sink.path to a file you can write") from None

    def write(self, record: dict[str, Any]) -> None:
        """Write one record; `OutputError` where it cannot be written, for example on a full disk."""
        try:
            self._file.write(self._encoder.encode(record) + b"\n")
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"{self._path or 'standard output'}: {error.strerror}; make room") from None

    def close(self) -> None:
        """Close the file; standard output stays open."""
        if self._path is not None:
            self._file.close()


def answer_fields(outputs: Sequence[Array], schema: TopK | None, labels: Sequence[str]) -> dict[str, Any]:
    """The answer as the schema reads it: ``top`` with class, label and score, or the raw ``outputs``."""
    if schema is None:
        return {"outputs": [_raw(tensor) for tensor in outputs]}
    scores = np.asarray(outputs[schema.output], np.float64).reshape(-1)
    if schema.scores == "logits":
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
