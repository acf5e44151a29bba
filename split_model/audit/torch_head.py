"""A head as a differentiable function: the ops of its ``.tflite`` in torch, checked against the interpreter.

White-box attackers follow the gradient of a head. Only float models can be followed, and only the ops below; others
are refused by name, and the attackers that need no gradient do without.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from split_model.arrays import Array
from split_model.audit.torch_ops import RUNS, Run
from split_model.errors import BadModelError
from split_model.interpreter import Interpreter
from split_model.prepare.tflite.reading import ModelFile, read_model

#: The largest difference from the interpreter, as a share of the largest value of a tensor.
TOLERANCE = 1e-4
_DTYPES = {0: np.float32, 1: np.float16, 2: np.int32, 4: np.int64}


class TorchHead:
    """Runs a head on torch tensors laid out as TFLite has them.

    Args:
        path: A float ``.tflite``.

    Raises:
        BadModelError: An op that is not known here, or a quantised model.

    """

    def __init__(self, path: Path) -> None:
        model = read_model(path)
        self._inputs, self._outputs = model.graph.inputs, model.graph.outputs
        self._constants = {
            tensor.index: _constant(model, tensor.index) for tensor in model.graph.tensors if tensor.constant
        }
        self._steps: list[tuple[Run, Any, list[int], list[int]]] = []
        for op in model.graph.ops:
            if not op.needed:
                continue
            if op.name not in RUNS:
                known = ", ".join(sorted(RUNS))
                raise BadModelError(
                    f"{path}: op {op.index} {op.name} cannot be followed backwards", remedy=f"known here: {known}"
                )
            stored = model.ops[op.index]
            self._steps.append((RUNS[op.name], stored.builtinOptions, list(stored.inputs), list(op.outputs)))
        quantised = next((t for t in model.graph.tensors if t.quantised), None)
        if quantised is not None:
            raise BadModelError(
                f"{path}: tensor {quantised.name!r} is quantised, so the head has no gradient",
                remedy="audit the float model that it was made from",
            )

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        """Run it: torch tensors [batch, ...] in, the live tensors [batch, ...] out."""
        values: dict[int, Any] = dict(self._constants)
        values |= dict(zip(self._inputs, inputs, strict=True))
        for run, options, ins, outs in self._steps:
            values[outs[0]] = run(options, [values[at] if at >= 0 else None for at in ins])
        return [values[at] for at in self._outputs]

    def check(self, interpreter: Interpreter, inputs: Sequence[Array]) -> float:
        """Compare with the interpreter on one input.

        Returns:
            The largest difference, as a share of the tensor's largest value.

        Raises:
            BadModelError: It is over `TOLERANCE`.

        """
        wanted = interpreter.run(inputs)
        with torch.no_grad():
            found = self([torch.from_numpy(np.ascontiguousarray(one)) for one in inputs])
        worst = 0.0
        for ours, theirs in zip(found, wanted, strict=True):
            scale = max(float(np.abs(theirs).max()), 1e-6)
            worst = max(worst, float(np.abs(ours.numpy() - theirs).max()) / scale)
        if not worst <= TOLERANCE:
            raise BadModelError(
                f"the head in torch differs from the interpreter by {worst:.2g} of its largest value",
                remedy="report this model: one of its ops is read wrongly",
            )
        return worst


def _constant(model: ModelFile, index: int) -> Any:
    tensor = model.tensors[index]
    dtype = _DTYPES.get(tensor.type)
    shape = tuple(int(side) for side in (tensor.shape if tensor.shape is not None else ()))
    if dtype is None:
        raise BadModelError(
            f"{model.graph.source}: constant {index} has a type that has no gradient", remedy="audit a float model"
        )
    values = np.frombuffer(model.buffers[tensor.buffer].tobytes(), dtype).reshape(shape)
    return torch.from_numpy(values.copy())
