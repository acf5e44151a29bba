"""Parts of manifest records: their base, references to files, and kinds of scores."""

from __future__ import annotations

from typing import Literal

import msgspec


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all manifest records."""


class FileRef(Record, frozen=True):
    """One file of the bundle; ``path`` is relative to the bundle, with forward slashes."""

    path: str
    sha256: str
    size_bytes: int


#: Kinds of a class output's values. ``logits``: a softmax gives probabilities. ``probabilities``: the model has
#: applied #: it. ``multilabel-logits`` and ``multilabel-probabilities``: the same with a sigmoid of each class.
#: ``values``: shown #: unchanged.
Scores = Literal["logits", "probabilities", "multilabel-logits", "multilabel-probabilities", "values"]
