"""Finds public data that the model does not run on: ids beyond a table look like a fault of every cut."""

from __future__ import annotations

from pathlib import Path

from split_model.bundle import Manifest
from split_model.errors import BackendError, BadInputError
from split_model.features.data import Sample, open_data
from split_model.interpreter import Interpreter, open_interpreter
from split_model.prepare.dry_run import one_line

#: Types of inputs that may be ids, unless they have a scale.
_WHOLE_NUMBERS = frozenset(("int8", "uint8", "int16", "int32", "int64"))


def check_samples(scratch: Path, manifest: Manifest, data: Path | None) -> None:
    """Run the model on all samples of data that holds whole numbers; other values fail on none.

    Args:
        scratch: The bundle's folder.
        manifest: Of the bundle so far.
        data: The public data, None where there is none.

    Raises:
        BadInputError: The model does not run on a sample, which the message names.

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
