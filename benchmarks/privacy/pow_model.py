"""A small model whose time follows its input: POW takes several times as long on denormal numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from models import flatbuffer
from split_model.bundle import Bundle
from split_model.prepare.pipeline import PrepareOptions, prepare

SHAPE = (1, 32, 32, 8)
CLASSES = 10
#: Of a denormal number it makes another one, so that every POW of a chain is slow on them.
_EXPONENT = 0.999


def build(pows: int) -> bytes:
    """Build a model of this many POWs and a fully connected layer."""
    graph = flatbuffer.Graph("powers")
    source = last = graph.tensor("input", SHAPE)
    exponent = graph.tensor("exponent", (1,), np.array([_EXPONENT], np.float32))
    for number in range(pows):  # noise makes negative numbers, which have no power
        last = graph.op("ABS", [last], graph.tensor(f"size{number}", SHAPE), schema.AbsOptionsT())
        last = graph.op("POW", [last, exponent], graph.tensor(f"power{number}", SHAPE), schema.PowOptionsT())
    size = int(np.prod(SHAPE))
    shape = graph.tensor("shape", (2,), np.array([1, size], np.int32))
    last = graph.op("RESHAPE", [last, shape], graph.tensor("flat", (1, size)), schema.ReshapeOptionsT())
    weights = np.random.default_rng(0).normal(size=(CLASSES, size)).astype(np.float32) / np.float32(size)
    inputs = [last, graph.tensor("weights", weights.shape, weights)]
    answer = graph.tensor("answer", (1, CLASSES))
    return graph.finish(source, graph.op("FULLY_CONNECTED", inputs, answer, schema.FullyConnectedOptionsT()))


def prepared(folder: Path, *, pows: int = 120, head_pows: int | None = None) -> Bundle:
    """Prepare its bundle, cut after half of the POWs by default, calibrated on random numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    model, data = folder / "powers.tflite", folder / "public.npz"
    model.write_bytes(build(pows))
    np.savez(data, inputs=np.random.default_rng(1).random((32, *SHAPE[1:]), np.float32))
    cut = pows if head_pows is None else 2 * head_pows  # an ABS before each
    options = PrepareOptions(model=model, output=folder / "bundle", calibration=data, cuts=(cut,), replace=True)
    return prepare(options, lambda *_: None)
