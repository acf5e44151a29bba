"""A small model, cut and calibrated, and frames for it: what the system tests give to both programs."""

from __future__ import annotations

import itertools
from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from split_model.bundle import Bundle
from split_model.prepare.pipeline import PrepareOptions, prepare

VALUES = 8000


def dense_model(path: Path, *, seed: int = 0, values: int = VALUES, hidden: int | None = None) -> Path:
    """A vector of ``values`` numbers through one FULLY_CONNECTED layer, or two with ``hidden`` numbers between."""
    rng = np.random.default_rng(seed)
    model, graph = schema.ModelT(version=3, buffers=[schema.BufferT()]), schema.SubGraphT()
    code = schema.BuiltinOperator.FULLY_CONNECTED
    model.operatorCodes = [schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=code, version=1)]
    graph.tensors, graph.operators = [], []

    def tensor(name: str, shape: tuple[int, ...], data: np.ndarray | None = None) -> int:
        buffer = schema.BufferT()
        if data is not None:
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
        model.buffers.append(buffer)
        kind = schema.TensorType.FLOAT32
        graph.tensors.append(
            schema.TensorT(
                name=name.encode(), shape=np.array(shape, np.int32), type=kind, buffer=len(model.buffers) - 1
            )
        )
        return len(graph.tensors) - 1

    widths = [values, *([hidden] if hidden else []), 10]
    last = tensor("vector", (1, values))
    graph.inputs = [last]
    for number, (taken, given) in enumerate(itertools.pairwise(widths)):
        matrix = (rng.normal(size=(given, taken)) / np.sqrt(taken)).astype(np.float32)
        weights = tensor(f"weights{number}", matrix.shape, matrix)
        made = tensor(f"layer{number}", (1, given))
        graph.operators.append(
            schema.OperatorT(
                opcodeIndex=0,
                inputs=[last, weights],
                outputs=[made],
                builtinOptionsType=schema.BuiltinOptions.FullyConnectedOptions,
                builtinOptions=schema.FullyConnectedOptionsT(),
            )
        )
        last = made
    graph.outputs = [last]
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def frames(path: Path, *, values: int = VALUES, count: int = 16) -> Path:
    """An ``.npz`` of inputs."""
    np.savez(path, inputs=np.random.default_rng(1).uniform(-1, 1, (count, values)).astype(np.float32))
    return path


def make_bundle(folder: Path, *, seed: int = 0, values: int = 512, hidden: int = 256) -> Bundle:
    """Model, calibration and bundle in ``folder``; its frames are ``folder/frames.npz``."""
    folder.mkdir(parents=True, exist_ok=True)
    options = PrepareOptions(
        model=dense_model(folder / "model.tflite", seed=seed, values=values, hidden=hidden),
        output=folder / "bundle",
        cuts=None,
        calibration=frames(folder / "frames.npz", values=values),
    )
    return prepare(options, lambda *_: None)
