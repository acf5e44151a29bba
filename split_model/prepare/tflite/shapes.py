"""Opens a model for `prepare`, with the real shapes of its tensors.

A file may lack them: it may have placeholders (a shape signature with -1), outputs of a custom op often have no
shape, and some sizes depend on the data. But the shapes of live tensors and outputs must be known.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np

from split_model.bundle.manifest import ITEM_BYTES
from split_model.errors import BackendError, BadModelError
from split_model.interpreter import open_interpreter
from split_model.prepare.tflite.graph import Graph
from split_model.prepare.tflite.open_sizes import with_open_axes
from split_model.prepare.tflite.reading import ModelFile, read_model
from split_model.prepare.tflite.sandbox import Seen, check_runs
from split_model.prepare.tflite.slicing import Part, pack_part
from split_model.prepare.tflite.tables import printable


def open_model(path: Path, *, backend: str | None = None, try_it: bool = True) -> ModelFile:
    """Read a model, run it in a child process, and take its shapes from there.

    With ``try_it`` off, for inspection, nothing runs unless the shapes need it. Raises as `read_model` and
    `check_runs`; if a backend refuses the model itself, for example because of an unknown custom op, that is a
    `BadModelError` naming the op.
    """
    model = read_model(path)
    if not try_it and not model.graph.dynamic and not model.graph.unsaid:
        return model
    try:
        seen = check_runs(path, backend=backend)
    except BackendError as error:
        raise _explained(model.graph, error) from None
    return with_open_axes(resolve_shapes(model, seen), seen)


def open_sides(model: ModelFile) -> tuple[tuple[int, ...], ...]:
    """The shape of each input, with -1 for sides that the file leaves open."""
    shapes = []
    for index in model.graph.inputs:
        signature = model.tensors[index].shapeSignature
        shape = model.graph.tensors[index].shape
        is_open = signature is not None and len(signature) == len(shape)
        shapes.append(tuple(int(side) for side in signature) if is_open else shape)
    return tuple(shapes)


def with_input_shape(model: ModelFile, shape: tuple[int, ...], *, backend: str | None = None) -> bytes:
    """Make a ``.tflite`` of the model with this shape of its single input; other shapes follow from it.

    Raises:
        BadModelError: The model has several inputs, the shape contradicts the sides that are not open, or the
            model does not run at it.

    """
    graph = model.graph
    (declared, *others) = open_sides(model)
    if others:
        raise BadModelError(
            f"{graph.source}: has {len(others) + 1} inputs, but --input-shape is for one",
            remedy="convert it with fixed input shapes",
        )
    fits = len(shape) == len(declared) and all(
        side in (want, -1) for side, want in zip(declared, shape, strict=True)
    )
    if not fits or min(shape) < 1:
        sides = ", ".join("?" if side == -1 else str(side) for side in declared)
        raise BadModelError(
            f"{graph.source}: --input-shape {','.join(map(str, shape))} does not fit the input [{sides}]",
            remedy="give a whole number of 1 or more for each '?', and the others as they are",
        )
    tensors = tuple(
        dataclasses.replace(
            tensor, shape=shape if tensor.index == graph.inputs[0] else tensor.shape, dynamic=not tensor.constant
        )
        for tensor in graph.tensors
    )
    plain = []
    for tensor in model.tensors:
        fixed = copy.copy(tensor)
        fixed.shapeSignature = None
        plain.append(fixed)
    sized = dataclasses.replace(model, graph=dataclasses.replace(graph, tensors=tensors), tensors=tuple(plain))
    resolved = resolve_shapes(sized, _shapes_in_memory(sized, backend))
    ops = tuple(op.index for op in graph.ops if op.needed)
    return bytes(pack_part(resolved, Part(ops=ops, inputs=graph.inputs, outputs=graph.outputs)))


def _shapes_in_memory(model: ModelFile, backend: str | None) -> Seen:
    """The activations' shapes in a run on zeros of a model in memory: each is made an output."""
    graph = model.graph
    ops = [op for op in graph.ops if op.counts]
    made = tuple(tensor for op in ops for tensor in op.outputs if graph.tensors[tensor].dtype in ITEM_BYTES)
    part = Part(ops=tuple(op.index for op in graph.ops if op.needed), inputs=graph.inputs, outputs=made)
    try:
        probe = open_interpreter(bytes(pack_part(model, part)), backend=backend)
        arrays = probe.run([np.zeros(spec.shape, spec.dtype) for spec in probe.inputs])
    except (BackendError, BadModelError) as error:
        raise _unresolved(graph, error) from None
    return {tensor: (array.shape,) for tensor, array in zip(made, arrays, strict=True)}


def _explained(graph: Graph, error: BackendError) -> BackendError | BadModelError:
    """Explain why a backend refused this model, if the model is the cause; else return the same error."""
    reason = printable(str(error))
    for op in graph.ops:
        name = op.name.removeprefix("CUSTOM:")
        if name != op.name and name in reason:
            return BadModelError(
                f"{graph.source}: op {op.index} {name} is a custom op that this TFLite backend lacks",
                remedy=f"convert the model without it, or try the other backend ({_excerpt(reason)})",
            )
    if "find op for builtin" in reason:
        return BadModelError(
            f"{graph.source}: has an op that this TFLite backend is too old for",
            remedy=f"upgrade it, or try the other backend ({_excerpt(reason)})",
        )
    return _unresolved(graph, error) if graph.dynamic else error


def _unresolved(graph: Graph, error: Exception) -> BadModelError:
    return BadModelError(
        f"{graph.source}: has dynamic shapes that do not resolve",
        remedy=f"convert it with fixed input shapes ({_excerpt(printable(str(error)))})",
    )


def _excerpt(reason: str) -> str:
    """The backend's own text, without its links."""
    return reason.split(" See instructions", 1)[0].rpartition(".tflite: ")[2][:160]


def resolve_shapes(model: ModelFile, seen: Seen) -> ModelFile:
    """Return the model with its activations' observed shapes or, if these differ, the longest sides.

    The model's inputs keep their stored shapes, which backends use.
    """
    graph = model.graph
    made = {tensor for op in graph.ops if op.counts for tensor in op.outputs}
    tensors = tuple(
        dataclasses.replace(tensor, shape=_longest(seen[tensor.index]), dynamic=False)
        if tensor.index in made and seen.get(tensor.index)
        else dataclasses.replace(tensor, dynamic=False)
        for tensor in graph.tensors
    )
    return dataclasses.replace(model, graph=dataclasses.replace(graph, tensors=tensors))


def _longest(shapes: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    """The longest length of each side; of shapes with different numbers of sides the longest shape."""
    most = max(len(shape) for shape in shapes)
    return tuple(map(max, *(shape for shape in shapes if len(shape) == most))) if len(shapes) > 1 else shapes[0]
