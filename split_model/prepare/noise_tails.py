"""Adds tails that were trained on noisy features to a bundle, besides the plain ones.

They are trained with another framework, and given to `prepare` as a JSON file, a list of ``{"cut": 7, "epsilon":
2.0, "tail": "middle-2.tflite"}`` with paths relative to the file's folder. ``epsilon`` is the mean per-value
epsilon of the noise release that the tail was trained for, and used with.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np

from split_model.bundle import Manifest, NoiseTail, TensorSpec, file_ref
from split_model.errors import BadInputError, MissingInputError, UsageError
from split_model.interpreter import Interpreter, open_interpreter
from split_model.service import text_file


class NoiseTailEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of the list."""

    cut: int
    epsilon: float
    tail: str


def add_noise_tails(root: Path, manifest: Manifest, listed: Path) -> Manifest:
    """Add the listed tails to the manifest, and copy them into the bundle folder ``root``.

    Raises:
        UsageError: A cut is not offered.
        BadInputError: The list is damaged, or a tail's inputs or outputs do not fit cut and model.

    """
    try:
        listing = text_file.text(listed.read_bytes(), str(listed))
        entries = msgspec.json.decode(listing, type=tuple[NoiseTailEntry, ...])
    except OSError as error:
        raise MissingInputError(
            f"{listed}: {error.strerror}", remedy="give a JSON list of noise-aware tails"
        ) from None
    except msgspec.DecodeError as error:
        raise BadInputError(
            f"{listed}: not a list of noise-aware tails: {error}", remedy="mend the JSON in this file"
        ) from None
    offered = {cut.index: cut for cut in manifest.cuts}
    for entry in entries:
        if entry.cut not in offered:
            raise UsageError(
                f"{listed}: a tail for cut {entry.cut}, which does not exist",
                remedy=f"the bundle offers the cuts {list(offered)}",
            )
        cut = offered[entry.cut]
        source = listed.parent / entry.tail
        tail = open_interpreter(source)
        if _kinds(tail.inputs) != _kinds(cut.tensors) or not _makes(tail, manifest.outputs):
            raise BadInputError(
                f"{source}: its inputs or outputs are not those of a tail at cut {cut.index}",
                remedy="train the tail on this cut",
            )
        if not 0 < entry.epsilon < float("inf") or entry.epsilon in {one.epsilon for one in cut.noise_tails}:
            raise BadInputError(
                f"{listed}: epsilon {entry.epsilon:g} at cut {cut.index} is there twice, or not above 0 and finite",
                remedy="mend this entry",
            )
        name = f"cut-{cut.index:03d}/noise-tail-{entry.epsilon:g}.tflite"
        shutil.copyfile(source, root / name)
        added = NoiseTail(epsilon=entry.epsilon, tail=file_ref(root, name))
        offered[entry.cut] = msgspec.structs.replace(cut, noise_tails=(*cut.noise_tails, added))
    return msgspec.structs.replace(manifest, cuts=tuple(offered.values()))


def _makes(tail: Interpreter, outputs: tuple[TensorSpec, ...]) -> bool:
    """Whether a tail has the outputs of the model, tested by a run on zeros."""
    made = tail.run([np.zeros(spec.shape, spec.dtype) for spec in tail.inputs])
    return len(made) == len(outputs) and all(
        spec.fits(one.dtype.name, one.shape) for spec, one in zip(outputs, made, strict=True)
    )


def _kinds(specs: tuple[TensorSpec, ...]) -> list[tuple[tuple[int, ...], str]]:
    return [(spec.shape, spec.dtype) for spec in specs]
