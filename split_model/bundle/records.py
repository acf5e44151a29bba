"""What the records of a manifest are made of: their base, references to files, and the meaning of scores."""

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


#: What the values of a class output are. ``logits``: a softmax makes probabilities of them. ``probabilities``: one
#: did in the model. ``multilabel-logits`` and ``multilabel-probabilities``: the same, by a sigmoid of each class.
#: ``values``: shown as they are.
Scores = Literal["logits", "probabilities", "multilabel-logits", "multilabel-probabilities", "values"]
