"""The trained network, or one of its tails, as a ``.tflite`` file: batch norms folded in, NHWC, ReLUs fused.

No torch here: weights are NumPy arrays by their names in the checkpoint, kernels OIHW.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from models import flatbuffer
from models.fashion.layers import CLASSES, EXTRA, LAYERS, NAMES, SIDE, named
from models.fashion.layers import after as layers_after
from split_model.arrays import Array

_EPSILON = 1e-5  # of the batch norms, as trained


def build(weights: Mapping[str, Array]) -> bytes:
    """The whole network: image float32 [1, 28, 28, 1] in 0 to 1 in, logits float32 [1, 10] out."""
    graph = flatbuffer.Graph("residual CNN for Fashion-MNIST")
    image = graph.tensor("image", (1, SIDE, SIDE, 1))
    return _finish(graph, weights, image, NAMES, packed=False)


def build_tail(weights: Mapping[str, Array], after: str) -> bytes:
    """The layers after ``after`` as a model of their own; their kernels are kept as int8 and widened on loading."""
    graph = flatbuffer.Graph(f"tail after {after}, residual CNN for Fashion-MNIST")
    passed = LAYERS[: NAMES.index(after) + 1]
    side = SIDE
    for layer in passed:
        side = -(-side // layer.stride)
    features = graph.tensor(after, (1, side, side, passed[-1].outward))
    names = layers_after(after, extra=f"{EXTRA.name}.weight" in weights)
    return _finish(graph, weights, features, names, packed=True)


def _finish(
    graph: flatbuffer.Graph, weights: Mapping[str, Array], source: int, names: tuple[str, ...], *, packed: bool
) -> bytes:
    x = source
    for name in names:
        x = _layer(graph, weights, x, name, packed=packed)
    options = schema.ReducerOptionsT()
    options.keepDims = False
    axes = graph.tensor("pool/axes", (2,), np.array([1, 2], np.int32))
    pooled = graph.op("MEAN", [x, axes], graph.tensor("pool", (1, graph.shape(x)[-1])), options)
    dense = schema.FullyConnectedOptionsT()
    dense.fusedActivationFunction = flatbuffer.LINEAR
    parts = [
        _constant(graph, f"logits/{part}", weights[f"logits.{part}"], packed=packed) for part in ("weight", "bias")
    ]
    return graph.finish(
        source, graph.op("FULLY_CONNECTED", [pooled, *parts], graph.tensor("logits", (1, CLASSES)), dense)
    )


def _layer(graph: flatbuffer.Graph, weights: Mapping[str, Array], source: int, name: str, *, packed: bool) -> int:
    layer = named(name)
    kernel, bias = _folded(weights, name)
    options = schema.Conv2DOptionsT()
    options.strideW = options.strideH = layer.stride
    options.dilationWFactor = options.dilationHFactor = 1
    options.padding = schema.Padding.SAME
    options.fusedActivationFunction = flatbuffer.LINEAR if layer.residual else flatbuffer.RELU
    side = -(-graph.shape(source)[1] // layer.stride)
    parts = [
        _constant(graph, f"{name}/{part}", data, packed=packed)
        for part, data in (("kernel", kernel), ("bias", bias))
    ]
    output = graph.tensor(f"{name}/conv" if layer.residual else name, (1, side, side, layer.outward))
    y = graph.op("CONV_2D", [source, *parts], output, options)
    if not layer.residual:
        return y
    add = schema.AddOptionsT()
    add.fusedActivationFunction = flatbuffer.RELU
    return graph.op("ADD", [source, y], graph.tensor(name, graph.shape(y)), add)


def _constant(graph: flatbuffer.Graph, name: str, data: Array, *, packed: bool) -> int:
    if packed and data.ndim > 1:
        return graph.packed(name, data)
    return graph.tensor(name, data.shape, data.astype(np.float32))


def _folded(weights: Mapping[str, Array], name: str) -> tuple[Array, Array]:
    """Kernel OHWI and bias with the batch norm multiplied in, computed in float64."""
    kernel, gain, shift, mean, variance = (
        weights[f"{name}{part}"].astype(np.float64)
        for part in (".weight", "_norm.weight", "_norm.bias", "_norm.running_mean", "_norm.running_var")
    )
    factor = gain / np.sqrt(variance + _EPSILON)
    return (kernel * factor[:, None, None, None]).transpose(0, 2, 3, 1), shift - mean * factor
