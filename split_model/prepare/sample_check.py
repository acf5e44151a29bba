"""Finds public data on which the model fails, which would otherwise look like a fault of every cut."""

from __future__ import annotations

from pathlib import Path

from split_model.bundle import Manifest
from split_model.errors import BackendError, BadInputError
from split_model.features.data import Sample, open_data
from split_model.interpreter import Interpreter, open_interpreter
from split_model.prepare.dry_run import one_line

#: Dtypes of inputs that may be ids, unless they have a scale.
_WHOLE_NUMBERS = frozenset(("int8", "uint8", "int16", "int32", "int64"))


def check_samples(scratch: Path, manifest: Manifest, data: Path | None) -> None:
    """Run the model on all samples if the data are integers (which may be ids out of range).

    Args:
        scratch: The bundle's folder.
        manifest: The bundle's manifest so far.
        data: The public data, or None.

    Raises:
        BadInputError: The model fails on a sample, which the message names.

    """
    if data is None or not any(spec.dtype in _WHOLE_NUMBERS and not spec.scale for spec in manifest.inputs):
        return
    whole = open_interpreter(scratch / manifest.model.path)
    for sample in open_data(data, manifest.inputs, manifest.preprocess):
        _run(whole, sample, data, scratch)


def _run(whole: Interpreter, sample: Sample, data: Path, scratch: Path) -> None:
    try:
        whole.run(sample.tensors)
    except BackendError as error:
        raise BadInputError(
            f"{data}: the model does not run on sample {sample.name}: {one_line(error, scratch)}",
            remedy="take it out; numbers that are ids must be below the length of the model's table",
        ) from None
