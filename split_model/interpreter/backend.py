"""The adapter of the two TFLite backends, ``ai-edge-litert`` and ``tflite-runtime``.

Both packages have the same ``Interpreter`` class, in different modules and with different errors. No other module
of this project imports them to run a model.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from split_model.arrays import Array
from split_model.bundle.manifest import TensorSpec
from split_model.errors import BackendError, BadInputError, BadModelError, MissingInputError
from split_model.interpreter import quiet_start
from split_model.interpreter.mapped import Range, mapped_at

#: Module of the Interpreter by backend name, in order of preference.
BACKENDS = {
    "ai-edge-litert": "ai_edge_litert.interpreter",
    "tflite-runtime": "tflite_runtime.interpreter",
}
#: One file is mapped at a time, so that the new mapping is recognised, even while others are unmapped.
_mapping = threading.Lock()
_DTYPES = ("float32", "float16", "int8", "uint8", "int16", "int32", "int64", "bool")


def available_backends() -> tuple[str, ...]:
    """The backends that are installed, best first; nothing is imported."""
    return tuple(name for name, module in BACKENDS.items() if importlib.util.find_spec(module.split(".")[0]))


def choose_backend(backend: str | None) -> str:
    """Choose a backend by name, or the best for None; nothing is imported.

    Raises `BackendError` if it is not installed.
    """
    if backend is not None and backend not in BACKENDS:
        raise BackendError(f"backend {backend!r} is unknown", remedy=f"choose one of {', '.join(BACKENDS)}")
    installed = available_backends()
    name = backend or (installed[0] if installed else None)
    if name is None or name not in installed:
        extra = "legacy" if name == "tflite-runtime" else "litert"
        raise BackendError(
            f"TFLite backend {name or 'ai-edge-litert'} is not installed",
            remedy=f"install this package with [{extra}]",
        )
    return name


def _interpreter_class(backend: str | None) -> tuple[str, Callable[..., Any]]:
    name = choose_backend(backend)
    try:
        found = importlib.import_module(BACKENDS[name]).Interpreter
    except ImportError as error:
        raise BackendError(
            f"TFLite backend {name} is installed but does not import: {error}",
            remedy="install the backend again, or give this program more memory",
        ) from None
    quiet_start.start(name, found)
    return name, found


class Interpreter:
    """A loaded model with allocated tensors; ``run`` is one inference. Not for two threads at once.

    ``mapped``: the addresses of its mapped file, valid as long as this object.
    """

    def __init__(
        self,
        raw: Any,
        *,
        backend: str,
        source: str,
        mapped: frozenset[Range] = frozenset(),
        content: bytes | None = None,
    ) -> None:
        self._raw = raw
        self._content = content  # the backend reads constants from these bytes and does not own them
        self.mapped = mapped
        self.backend = backend
        self.source = source
        self._input_details = raw.get_input_details()
        self._output_details = raw.get_output_details()
        self.inputs = tuple(_spec(detail) for detail in self._input_details)
        self.outputs = tuple(_spec(detail) for detail in self._output_details)

    def run(self, tensors: Sequence[Array]) -> list[Array]:
        """Run once on arrays in the order, shapes and dtypes of ``inputs``; returns those of ``outputs``.

        The returned arrays are copies that the caller owns and may change in place.
        """
        if len(tensors) != len(self.inputs):
            raise BadInputError(f"{self.source}: takes {len(self.inputs)} inputs, got {len(tensors)}")
        for detail, spec, tensor in zip(self._input_details, self.inputs, tensors, strict=True):
            if tensor.shape != spec.shape or tensor.dtype != spec.dtype:
                raise BadInputError(
                    f"{self.source}: input {spec.name!r} is {spec.dtype}{list(spec.shape)}, "
                    f"got {tensor.dtype}{list(tensor.shape)}"
                )
            self._raw.set_tensor(detail["index"], tensor)
        try:
            self._raw.invoke()
        except (RuntimeError, ValueError) as error:
            raise BackendError(f"{self.source}: {self.backend} failed at inference: {_one_line(error)}") from None
        return self.results()

    def results(self) -> list[Array]:
        """Return the outputs of the last `run` again, as new copies."""
        try:
            return [self._raw.get_tensor(detail["index"]) for detail in self._output_details]
        except ValueError:  # backends return no tensor without elements, for example if a detector found nothing
            return [self._result(detail) for detail in self._raw.get_output_details()]

    def _result(self, detail: dict[str, Any]) -> Array:
        shape = tuple(int(side) for side in detail["shape"])
        made: Array = np.empty(shape, detail["dtype"]) if 0 in shape else self._raw.get_tensor(detail["index"])
        return made

    def tensor_shapes(self) -> dict[int, tuple[int, ...]]:
        """The shape of every tensor in the last `run`, by its index in the file.

        Exact for all of them only if the model was opened with ``fused`` off.
        """
        return {
            int(detail["index"]): tuple(int(side) for side in detail["shape"])
            for detail in self._raw.get_tensor_details()
        }


def open_interpreter(
    model: Path | bytes,
    *,
    backend: str | None = None,
    threads: int = 1,
    source: str = "",
    fused: bool = True,
    batch: int = 1,
) -> Interpreter:
    """Load a model from a file (memory-mapped by the backend) or from bytes; messages call it ``source``.

    With a ``batch``, the first axis of every input is resized to it. Not every model supports that: it may be
    refused here, fail when it runs, or have outputs without that axis.

    With ``fused`` off each op runs separately and slowly; then the backend knows the shape of every tensor. Raises
    `BackendError` if no backend is installed or it lacks an op, `BadModelError` if the file is not a model,
    `MissingInputError` if there is no file.
    """
    name, make = _interpreter_class(backend)
    arguments: dict[str, Any]
    if isinstance(model, bytes):
        source = source or "model in memory"
        arguments = {"model_content": model}
    else:
        source = source or str(model)
        if not model.is_file():
            raise MissingInputError(f"{source}: no such model file", remedy="name a .tflite file that exists")
        if not os.access(model, os.R_OK):
            raise MissingInputError(f"{source}: no permission to read it", remedy="make it readable for this user")
        arguments = {"model_path": str(model)}
    if not fused:
        resolvers = importlib.import_module(BACKENDS[name]).OpResolverType
        arguments["experimental_op_resolver_type"] = resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    try:
        with _mapping:
            before = frozenset() if isinstance(model, bytes) else mapped_at(model)
            raw = make(num_threads=threads, **arguments)
            mapped = frozenset() if isinstance(model, bytes) else mapped_at(model) - before
        for detail in raw.get_input_details() if batch > 1 else ():
            raw.resize_tensor_input(detail["index"], [batch, *(int(side) for side in detail["shape"][1:])])
        raw.allocate_tensors()
    except SystemError:
        raise BackendError(
            f"{name} does not work with NumPy {np.__version__}", remedy="install 'numpy<2'"
        ) from None
    except ValueError as error:
        raise BadModelError(f"{source}: not a model that {name} can read: {_one_line(error)}") from None
    except RuntimeError as error:
        raise BackendError(f"{source}: {name} cannot run this model: {_one_line(error)}") from None
    content = model if isinstance(model, bytes) else None
    return Interpreter(raw, backend=name, source=source, mapped=mapped, content=content)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _spec(detail: dict[str, Any]) -> TensorSpec:
    dtype = np.dtype(detail["dtype"]).name
    if dtype not in _DTYPES:
        raise BadModelError(f"tensor {detail['name']!r} has dtype {dtype}, which this project does not carry")
    scale, zero_point = detail["quantization"]
    return TensorSpec(
        name=str(detail["name"]),
        shape=tuple(int(side) for side in detail["shape"]),
        dtype=dtype,
        scale=float(scale),
        zero_point=int(zero_point),
    )
