"""Writes the files of a bundle from a model and a list of cuts, and makes its manifest."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from split_model.bundle import (
    FORMAT,
    ChannelCalibration,
    Cut,
    FileRef,
    ImagePreprocess,
    Manifest,
    TensorSpec,
    TopK,
    file_ref,
)
from split_model.bundle.manifest import ITEM_BYTES
from split_model.errors import BadModelError, UsageError
from split_model.prepare.tflite.cuts import CutPoint, Cuts, tensor_spec
from split_model.prepare.tflite.graph import Graph
from split_model.prepare.tflite.macs import total_macs
from split_model.prepare.tflite.reading import ModelFile
from split_model.prepare.tflite.slicing import Part, head_part, pack_part, tail_part

#: Called with the name of the step, the number of finished items, and the number of all items.
Progress = Callable[[str, int, int], None]


def choose(cuts: Cuts, indices: Sequence[int]) -> list[CutPoint]:
    """Find the legal cuts at the given positions, in op order; `UsageError` names an invalid position."""
    legal = {cut.index: cut for cut in cuts.legal}
    reasons = dict(cuts.excluded)
    for index in indices:
        if index not in legal:
            reason = reasons.get(index, "no tensor changes there, or it is outside the model")
            raise UsageError(
                f"cut {index} is not possible: {reason}", remedy="'split-model inspect' lists the cuts"
            )
    return [legal[index] for index in sorted(set(indices))]


def write_bundle(
    scratch: Path,
    *,
    model_path: Path,
    model: ModelFile,
    cuts: Sequence[CutPoint],
    name: str,
    calibration: Mapping[int, tuple[ChannelCalibration, ...]] | None = None,
    preprocess: ImagePreprocess | None = None,
    answer: TopK | None = None,
    made_by: str = "",
    progress: Progress | None = None,
) -> Manifest:
    """Write ``model.tflite`` and each cut's head and tail into an empty folder; returns the manifest to write.

    ``model`` is ``model_path`` as read (with its shapes resolved); ``calibration`` is by cut index,
    and a cut without one can only be used unprotected. Use it inside `split_model.bundle.writing`; the caller
    writes the labels that ``answer`` names.
    """
    graph = model.graph
    inputs, outputs = _specs(graph, graph.inputs), _specs(graph, graph.outputs)
    _check_bounds(graph)
    shutil.copyfile(model_path, scratch / "model.tflite")
    made = []
    for done, cut in enumerate(sorted(cuts, key=lambda cut: cut.index)):
        if progress is not None:
            progress("slicing", done, len(cuts))
        folder = f"cut-{cut.index:03d}"
        (scratch / folder).mkdir()
        head = None
        if cut.index > 0:
            head = _write(scratch, f"{folder}/head.tflite", model, head_part(graph, cut))
        made.append(
            Cut(
                index=cut.index,
                head=head,
                tail=_write(scratch, f"{folder}/tail.tflite", model, tail_part(graph, cut)),
                tensors=_specs(graph, cut.live),
                head_macs=cut.head_macs,
                tail_macs=cut.tail_macs,
                calibration=(calibration or {}).get(cut.index),
            )
        )
    if progress is not None:
        progress("slicing", len(cuts), len(cuts))
    return Manifest(
        format=FORMAT,
        name=name,
        ops=len(graph.ops),
        macs=total_macs(graph),
        model=file_ref(scratch, "model.tflite"),
        inputs=inputs,
        outputs=outputs,
        cuts=tuple(made),
        preprocess=preprocess,
        answer=answer,
        made_by=made_by,
    )


def _write(scratch: Path, relative: str, model: ModelFile, part: Part) -> FileRef:
    with (scratch / relative).open("wb") as file:
        file.write(pack_part(model, part))
    return file_ref(scratch, relative)


def _check_bounds(graph: Graph) -> None:
    """Refuse a model whose answer has no maximum size."""
    for index in graph.outputs:
        tensor = graph.tensors[index]
        if not tensor.bounded or not all(tensor.shape):
            raise BadModelError(
                f"{graph.source}: the size of output {tensor.name!r} depends on the data, and nothing bounds it",
                remedy="convert the model with outputs of a fixed size, as boxes padded to the most there can be, "
                'or declare "max_rows" of detections (--answer)',
            )


def _specs(graph: Graph, indices: Sequence[int]) -> tuple[TensorSpec, ...]:
    """Specs of inputs or outputs; `BadModelError` for an unsupported type."""
    tensors = [graph.tensors[index] for index in indices]
    for tensor in tensors:
        if tensor.dtype not in ITEM_BYTES:
            raise BadModelError(
                f"{graph.source}: {tensor.name!r} is {tensor.dtype}",
                remedy=f"inputs and outputs can be {', '.join(ITEM_BYTES)}",
            )
    return tuple(map(tensor_spec, tensors))
