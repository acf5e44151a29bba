"""How good the answers through a release are, as it was measured: the records, and where they are kept.

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

#: Format 2 added the figures of `prepare` and the bound of the agreement; files of format 1 have none of them.
FORMAT = 2
_READ = (1, FORMAT)
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

    ``agreement``: the mean agreement with the unsplit model, by a measure that fits the answer: for classes how
    often the best one is the same; of boxes, landmarks, maps and vectors how much of the answer is the same
    (`split_model.answers.measures`), and ``figure`` is their own measure. None in files of format 1 where the
    bundle does not say what the outputs are. ``agreement_bound``: its one-sided 80 % lower bound over pictures;
    None in files of format 1. ``accuracy``: how often it is the label; None without labels. ``output_error``:
    squared error of the outputs over their variance among the samples, 1 being as bad as answering the average. Of
    the two epsilons, ``per_value_epsilon_max`` protects one feature value and ``whole_input_epsilon`` the whole
    frame.
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
        """The cut and the release that the row is of."""
        return self.cut, self.mechanism, self.spec, self.codebook

    @property
    def bound(self) -> float | None:
        """The lower bound to compare with a floor; of format 1 the end of the 95 % interval, which is stricter."""
        if self.agreement_bound is not None or self.agreement is None:
            return self.agreement_bound
        return self.agreement.low


class DataRecord(_Record, frozen=True):
    """The data of an evaluation. ``sha256``: of all inputs and labels; it tells data of the same name apart."""

    name: str
    sha256: str
    samples: int
    labelled: int


class Prepared(_Record, frozen=True):
    """The figures that `prepare` measured, each picture under a release that was calibrated without it.

    ``measure``: what agreement is, for people. ``unit``: what was counted. ``available``: how many of them there
    were to measure on; a row that was decided early has fewer.
    """

    measure: str
    unit: Literal["pictures", "samples"]
    available: int
    rows: tuple[Row, ...]


class Nearest(NamedTuple):
    """The figures of a release at a cut. ``row``: the measurements.

    ``relation``: whether that was the ``same`` release; or one that differs in epsilon alone, a ``weaker`` one of a
    smaller epsilon, which loses more of the answers, or a ``stronger`` one.
    """

    row: Row
    relation: Literal["same", "weaker", "stronger"]


class Evaluation(_Record, frozen=True):
    """All rows, and how the unprotected whole model does on the same data. ``bundle``: its identity.

    ``data`` is of the ``rows``, which `evaluate` measured; ``prepared`` has those of `prepare`.
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
        """The user's own figures, then those of `prepare` that these do not replace."""
        own = {row.key for row in self.rows}
        prepared = () if self.prepared is None else self.prepared.rows
        return (*self.rows, *(row for row in prepared if row.key not in own))

    def find(self, cut: int, spec: NoiseSpec | CodebookSpec) -> Row | None:
        """The row of exactly this release at a cut."""
        key = (cut, "codebook", None, spec) if isinstance(spec, CodebookSpec) else (cut, "noise", spec, None)
        return next((row for row in self.all_rows if row.key == key), None)

    def nearest(self, cut: int, spec: NoiseSpec | CodebookSpec) -> Nearest | None:
        """The row that tells most of a release at a cut: its own, else the nearest weaker, else a stronger one.

        What passes a floor under a weaker release passes it under this one, and what fails under a stronger one
        fails. A tail that was trained with noise is used at one epsilon alone, so its rows tell of no other.
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
    """The epsilon of a row whose release differs from another in nothing else; None where more differs."""
    if isinstance(spec, NoiseSpec):
        known = row.spec if row.mechanism == "noise" else None
        alike = known is not None and (known.allocation, known.bits) == (spec.allocation, spec.bits)
        return known.epsilon if known is not None and alike else None
    book = row.codebook if row.mechanism == "codebook" else None
    alike = book is not None and (book.codewords, book.groups) == (spec.codewords, spec.groups)
    return book.epsilon if book is not None and alike else None


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
    """Keep an evaluation with its bundle, and return all that is kept now.

    Rows measured before on the same data stay, those that were measured again are replaced; rows of other data go.
    The figures of `prepare` stay, unless the evaluation brings new ones.
    Written whole or not at all; `OutputError` where the folder does not take it.
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
