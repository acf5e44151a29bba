"""The trained networks as ``.tflite`` files: NHWC, ReLUs fused, outputs flattened as an SSD head has them."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from models import flatbuffer
from models.shapes.network import NETWORKS, OUTPUTS, Kind, Layer, Parameters
from models.shapes.pictures import SIDE


def build(kind: Kind, parameters: Parameters) -> bytes:
    """One network: picture float32 [1, 96, 96, 3] of 0 to 1 in.

    ``detector`` answers ``boxes`` [1, 144, 4] and ``classes`` [1, 144, 3], logits; ``segmenter`` answers ``mask``
    [1, 48, 48, 4], logits.
    """
    graph = flatbuffer.Graph(f"{kind} of discs, squares and triangles")
    made = {"": graph.tensor("picture", (1, SIDE, SIDE, 3))}
    before = ""
    for layer in NETWORKS[kind]:
        made[layer.name] = _layer(graph, parameters, layer, made[layer.source or before], made)
        before = layer.name
    outputs = [made[name] for name in OUTPUTS[kind]]
    if kind == "detector":
        outputs = [_flat(graph, tensor, name) for tensor, name in zip(outputs, OUTPUTS[kind], strict=True)]
    return graph.finish(made[""], *outputs)


def _layer(graph: flatbuffer.Graph, parameters: Parameters, layer: Layer, x: int, made: dict[str, int]) -> int:
    if layer.double:
        x = _doubled(graph, x, layer.name)
    side = graph.shape(x)[1] // layer.stride
    options = schema.Conv2DOptionsT()
    options.strideW = options.strideH = layer.stride
    options.dilationWFactor = options.dilationHFactor = 1
    options.padding = schema.Padding.SAME
    options.fusedActivationFunction = flatbuffer.RELU if layer.relu and not layer.add else flatbuffer.LINEAR
    kernel = parameters[f"{layer.name}/kernel"].transpose(3, 0, 1, 2)
    parts = [
        graph.tensor(f"{layer.name}/{part}", data.shape, np.ascontiguousarray(data, np.float32))
        for part, data in (("kernel", kernel), ("bias", parameters[f"{layer.name}/bias"]))
    ]
    name = f"{layer.name}/conv" if layer.add or layer.name in OUTPUTS["detector"] else layer.name
    y = graph.op("CONV_2D", [x, *parts], graph.tensor(name, (1, side, side, layer.outward)), options)
    if not layer.add:
        return y
    add: Any = schema.AddOptionsT()
    add.fusedActivationFunction = flatbuffer.RELU
    return graph.op("ADD", [made[layer.add], y], graph.tensor(layer.name, graph.shape(y)), add)


def _doubled(graph: flatbuffer.Graph, x: int, name: str) -> int:
    _, height, width, channels = graph.shape(x)
    size = graph.tensor(f"{name}/size", (2,), np.array([2 * height, 2 * width], np.int32))
    options = schema.ResizeNearestNeighborOptionsT()
    options.alignCorners = options.halfPixelCenters = False
    output = graph.tensor(f"{name}/doubled", (1, 2 * height, 2 * width, channels))
    return graph.op("RESIZE_NEAREST_NEIGHBOR", [x, size], output, options)


def _flat(graph: flatbuffer.Graph, x: int, name: str) -> int:
    _, height, width, channels = graph.shape(x)
    shape = (1, height * width, channels)
    options = schema.ReshapeOptionsT()
    options.newShape = list(shape)
    wanted = graph.tensor(f"{name}/shape", (3,), np.array(shape, np.int32))
    return graph.op("RESHAPE", [x, wanted], graph.tensor(name, shape), options)
