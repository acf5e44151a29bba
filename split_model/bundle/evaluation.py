"""The stored accuracy measurements of a bundle: records, reading and writing.

``split-model prepare`` writes them to ``evaluation.json`` in the bundle's folder, and ``split-model evaluate
--store`` adds those of the user's own data; the device program reads them for its accuracy floor. The manifest does
not name that file, so measuring again changes neither the bundle's identity nor anything on the server. It names
the bundle instead: figures of another bundle are never used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from split_model.bundle import Bundle
from split_model.bundle.store import open_regular
from split_model.errors import BadBundleError, MissingInputError, OutputError
from split_model.privacy import CodebookSpec, NoiseSpec
from split_model.service.atomic_file import write_atomically

#: Format 2 added the figures of `prepare` and the bound of the agreement, which format 1 lacks.
FORMAT = 2
_READ = (1, FORMAT)
FILE = "evaluation.json"
_MAX_BYTES = 16 << 20

#: ``clip``: only clipped to the public ranges, to measure the cost of clipping; no device does this. ``lookup``: a
#: #: codebook's codeword without randomised response, which the device could look up itself.
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
    """The measure of answers other than classes, against the unprotected model's: `answers.measures`."""

    measure: Literal["mAP50", "pixels", "IoU", "cosine"]
    mean: Mean


class Row(_Record, frozen=True):
    """The measurements of one release at one cut; ``spec``: of ``noise``; ``codebook``: of the other release.

    A ``lookup`` has the ``codebook`` too; its epsilon then has no meaning and is the maximum.

    ``noise_aware``: the tail was one trained on noise of this epsilon.

    ``agreement``: the mean agreement with the unsplit model, by a measure that fits the answer: for classes the
    share of answers with the same best class; for boxes, landmarks, maps and vectors the share of the answer that
    is the same (`split_model.answers.measures`), and ``figure`` is their own measure. None in files of format 1 if
    the bundle does not declare the outputs. ``agreement_bound``: its one-sided 80 % lower bound over pictures; None
    in files of format 1. ``accuracy``: share of answers that equal the label; None without labels.
    ``output_error``: squared error of the outputs over their variance among the samples, 1 being as bad as
    answering the average. Of the two epsilons, ``per_value_epsilon_max`` protects one feature value and
    ``whole_input_epsilon`` the whole frame.
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
    agreement_bound: float | None = None
    figure: Figure | None = None

    @property
    def key(self) -> tuple[int, Mechanism, NoiseSpec | None, CodebookSpec | None]:
        """The cut and the release of the row."""
        return self.cut, self.mechanism, self.spec, self.codebook

    @property
    def bound(self) -> float | None:
        """The lower bound to compare with a floor; for format 1 the lower end of the 95 % interval (stricter)."""
        if self.agreement_bound is not None or self.agreement is None:
            return self.agreement_bound
        return self.agreement.low


class DataRecord(_Record, frozen=True):
    """The data of an evaluation. ``sha256``: of all inputs and labels; distinguishes data of the same name."""

    name: str
    sha256: str
    samples: int
    labelled: int


class Prepared(_Record, frozen=True):
    """The figures measured by `prepare`, each picture under a release that was calibrated without it.

    ``measure``: the definition of agreement as text. ``unit``: the counted unit. ``available``: the number of
    units; a row that was decided early has fewer.
    """

    measure: str
    unit: Literal["pictures", "samples"]
    available: int
    rows: tuple[Row, ...]


class Nearest(NamedTuple):
    """The figures of a release at a cut. ``row``: the measurements.

    ``relation``: ``same``: measured under this release. ``weaker``: under one with a smaller epsilon, which loses
    more of the answers. ``stronger``: under one with a larger epsilon. The releases differ in nothing else.
    """

    row: Row
    relation: Literal["same", "weaker", "stronger"]


class Evaluation(_Record, frozen=True):
    """All rows, and the accuracy of the unprotected whole model on the same data.

    ``bundle``: its identity. ``data``: the data of ``rows``, which `evaluate` measured; ``prepared``: the rows of
    `prepare`.
    """

    format: int
    bundle: str
    data: DataRecord
    unprotected_accuracy: Share | None
    rows: tuple[Row, ...]
    made_by: str = ""
    prepared: Prepared | None = None

    @property
    def all_rows(self) -> tuple[Row, ...]:
        """The user's own figures, and those of `prepare` for other releases."""
        own = {row.key for row in self.rows}
        prepared = () if self.prepared is None else self.prepared.rows
        return (*self.rows, *(row for row in prepared if row.key not in own))

    def find(self, cut: int, spec: NoiseSpec | CodebookSpec) -> Row | None:
        """Find the row of exactly this release at a cut."""
        key = (cut, "codebook", None, spec) if isinstance(spec, CodebookSpec) else (cut, "noise", spec, None)
        return next((row for row in self.all_rows if row.key == key), None)

    def nearest(self, cut: int, spec: NoiseSpec | CodebookSpec) -> Nearest | None:
        """Find the best row for a release at a cut: its own, else the nearest weaker, else the nearest stronger.

        A cut that passes a floor with a smaller epsilon also passes with this one; a cut that fails with a larger
        epsilon also fails with this one. A tail that was trained with noise is used at one epsilon only, so its
        rows hold for no other.
        """
        if (row := self.find(cut, spec)) is not None:
            return Nearest(row, "same")
        others = [
            (epsilon, row) for row in self.all_rows
            if row.cut == cut and not row.noise_aware and (epsilon := _epsilon_of(row, spec)) is not None
        ]  # fmt: skip
        weaker = [one for one in others if one[0] < spec.epsilon]
        if weaker:
            return Nearest(max(weaker, key=lambda one: one[0])[1], "weaker")
        return Nearest(min(others, key=lambda one: one[0])[1], "stronger") if others else None


def _epsilon_of(row: Row, spec: NoiseSpec | CodebookSpec) -> float | None:
    """The epsilon of a row whose release differs only in epsilon; None if more differs."""
    if isinstance(spec, NoiseSpec):
        known = row.spec if row.mechanism == "noise" else None
        alike = known is not None and (known.allocation, known.bits) == (spec.allocation, spec.bits)
        return known.epsilon if known is not None and alike else None
    book = row.codebook if row.mechanism == "codebook" else None
    alike = book is not None and (book.codewords, book.groups) == (spec.codewords, spec.groups)
    return book.epsilon if book is not None and alike else None


def path_of(bundle: Bundle) -> Path:
    """Path of a bundle's evaluation."""
    return bundle.root / FILE


def load(bundle: Bundle) -> Evaluation | None:
    """Read the stored evaluation of a bundle; None if there is none, or it is of another bundle.

    Raises:
        BadBundleError: The file is not an evaluation.

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
        if head.format not in _READ:
            known = " and ".join(map(str, _READ))
            raise BadBundleError(
                f"{path}: format {head.format}, this version reads {known}", remedy="remove it and evaluate again"
            )
        found = msgspec.json.decode(raw, type=Evaluation)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadBundleError(f"{path}: {error}", remedy="remove it and evaluate again") from None
    return found if found.bundle == bundle.identity else None


def store(bundle: Bundle, evaluation: Evaluation) -> Evaluation:
    """Store an evaluation with its bundle; returns the stored whole.

    Earlier rows on the same data stay unless they were measured again; rows on other data are removed. The figures
    of `prepare` stay unless the evaluation has new ones. Written atomically; `OutputError` if it cannot be written.
    """
    before = load(bundle)
    if before is not None and before.data.sha256 == evaluation.data.sha256:
        rows = {row.key: row for row in (*before.rows, *evaluation.rows)}
        evaluation = msgspec.structs.replace(evaluation, rows=tuple(sorted(rows.values(), key=_order)))
    if before is not None and evaluation.prepared is None:
        evaluation = msgspec.structs.replace(evaluation, prepared=before.prepared)
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
