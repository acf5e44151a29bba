"""How good the answers through a release are, as it was measured: the records, and where they are kept.

``split-model evaluate --store`` writes them to ``evaluation.json`` in the bundle's folder; the device program reads
them for its accuracy floor. The manifest does not name that file, so measuring again changes neither the bundle's
identity nor anything on the server. It names the bundle instead: figures of another bundle are never used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from split_model.bundle import Bundle
from split_model.bundle.store import open_regular
from split_model.errors import BadBundleError, MissingInputError, OutputError
from split_model.privacy import CodebookSpec, NoiseSpec
from split_model.service.atomic_file import write_atomically

FORMAT = 1
FILE = "evaluation.json"
_MAX_BYTES = 16 << 20

#: ``clip``: clipped to the public ranges and nothing else, which no device does; it tells what clipping costs.
#: ``lookup``: a codebook's own codeword, without randomised response: the device could look it up itself.
Mechanism = Literal["clip", "noise", "lookup", "codebook"]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all records."""


class Share(_Record, frozen=True):
    """A proportion and its 95 % interval over ``samples`` samples."""

    value: float
    low: float
    high: float
    samples: int


class Mean(_Record, frozen=True):
    """A mean over samples and its 95 % interval."""

    value: float
    low: float
    high: float
    samples: int


class Figure(_Record, frozen=True):
    """The measure that fits answers that are no classes, against the unprotected model's: `answers.measures`."""

    measure: Literal["mAP50", "pixels", "IoU", "cosine"]
    mean: Mean


class Row(_Record, frozen=True):
    """One way to release one cut; ``spec`` is that of ``noise``, ``codebook`` that of the other release.

    A ``lookup`` has the ``codebook`` too, whose epsilon then means nothing and is the largest there is.

    ``noise_aware``: the tail was one trained on noise of this epsilon.

    ``agreement``: how often the best class is that of the unprotected model; of boxes, landmarks, maps and vectors
    how much of the answer is the same (`split_model.answers.measures`), and ``figure`` is their own measure; None
    where the bundle does not say what the outputs are.
    ``accuracy``: how often it is the label; None without labels. ``output_error``: squared error of the outputs
    over their variance among the samples, 1 being as bad as answering the average. Of the two epsilons,
    ``per_value_epsilon_max`` protects one feature value and ``whole_input_epsilon`` the whole frame.
    """

    cut: int
    mechanism: Mechanism
    tensors: tuple[str, ...]
    spec: NoiseSpec | None
    payload_bytes: int
    draws: int
    agreement: Share | None
    accuracy: Share | None
    output_error: Mean
    per_value_epsilon_max: float | None = None
    per_value_epsilon_mean: float | None = None
    whole_input_epsilon: float | None = None
    codebook: CodebookSpec | None = None
    noise_aware: bool = False
    figure: Figure | None = None

    @property
    def key(self) -> tuple[int, Mechanism, NoiseSpec | None, CodebookSpec | None]:
        """The cut and the release that the row is of."""
        return self.cut, self.mechanism, self.spec, self.codebook

    @property
    def measured(self) -> tuple[str, Share] | None:
        """The share to compare with a floor: the accuracy, without labels the agreement; None without either."""
        if self.accuracy is not None:
            return "accuracy", self.accuracy
        return None if self.agreement is None else ("agreement", self.agreement)


class DataRecord(_Record, frozen=True):
    """The data of an evaluation. ``sha256``: of all inputs and labels; it tells data of the same name apart."""

    name: str
    sha256: str
    samples: int
    labelled: int


class Evaluation(_Record, frozen=True):
    """All rows, and how the unprotected whole model does on the same data. ``bundle``: its identity."""

    format: int
    bundle: str
    data: DataRecord
    unprotected_accuracy: Share | None
    rows: tuple[Row, ...]
    made_by: str = ""

    def find(self, cut: int, spec: NoiseSpec | CodebookSpec) -> Row | None:
        """The rows of exactly this release at a cut."""
        key = (cut, "codebook", None, spec) if isinstance(spec, CodebookSpec) else (cut, "noise", spec, None)
        return next((row for row in self.rows if row.key == key), None)


def path_of(bundle: Bundle) -> Path:
    """Where a bundle's evaluation is kept."""
    return bundle.root / FILE


def load(bundle: Bundle) -> Evaluation | None:
    """The stored evaluation of a bundle; None where there is none, or one of another bundle.

    Raises `BadBundleError` where the file is no evaluation.
    """
    path = path_of(bundle)
    try:
        with open_regular(path) as file:
            raw = file.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            raise BadBundleError(f"{path}: over {_MAX_BYTES >> 20} MiB", remedy="remove it and evaluate again")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MissingInputError(
            f"{path}: {error.strerror or error}", remedy="evaluate the bundle, or make the file readable"
        ) from None
    try:
        head = msgspec.json.decode(raw, type=_Head)
        if head.format != FORMAT:
            raise BadBundleError(
                f"{path}: format {head.format}, this version reads {FORMAT}", remedy="remove it and evaluate again"
            )
        found = msgspec.json.decode(raw, type=Evaluation)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadBundleError(f"{path}: {error}", remedy="remove it and evaluate again") from None
    return found if found.bundle == bundle.identity else None


def store(bundle: Bundle, evaluation: Evaluation) -> Evaluation:
    """Keep an evaluation with its bundle, and return all that is kept now.

    Rows measured before on the same data stay, those that were measured again are replaced; rows of other data go.
    Written whole or not at all; `OutputError` where the folder does not take it.
    """
    before = load(bundle)
    if before is not None and before.data.sha256 == evaluation.data.sha256:
        rows = {row.key: row for row in (*before.rows, *evaluation.rows)}
        evaluation = msgspec.structs.replace(evaluation, rows=tuple(sorted(rows.values(), key=_order)))
    path = path_of(bundle)
    try:
        write_atomically(path, msgspec.json.format(msgspec.json.encode(evaluation), indent=1) + b"\n")
    except OSError as error:
        raise OutputError(
            f"{path}: {error.strerror or error}", remedy="make the bundle's folder writable"
        ) from None
    return evaluation


class _Head(msgspec.Struct, frozen=True):
    format: int


def _order(row: Row) -> tuple[int, str, str, float, int, int]:
    spec, book = row.spec, row.codebook
    if book is not None:
        return (row.cut, row.mechanism, "", -book.epsilon, book.codewords, book.groups)
    named = ("", 0.0, 0) if spec is None else (spec.allocation, -spec.epsilon, spec.bits)
    return (row.cut, row.mechanism, *named, 0)
