"""EfficientNet-Lite0 as a TFLite flatbuffer: its blocks, the folding of batch norms, the writer.

Architecture: Tan and Le, EfficientNet (ICML 2019), in the Lite variant of 2020: ReLU6 for
swish, no squeeze-and-excitation, stem and head not scaled. 60 ops; image float32
[1, 224, 224, 3] holding (x - 127) / 128 in, logits float32 [1, 1000] out.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from models import flatbuffer
from split_model.arrays import Array

#: (has an expansion, stride of the first block, blocks) of each stage; kernels and channels are the weights'.
STAGES = ((False, 1, 1), (True, 2, 2), (True, 2, 2), (True, 2, 3), (True, 1, 3), (True, 2, 4), (True, 1, 1))
SIDE = 224
_EPSILON = 1e-3  # of the batch norms, as in training


class _Writer:
    """Writes layers with the weights of a checkpoint; ``weights`` are by PyTorch's names, kernels OIHW."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        self.weights = weights
        self.graph = flatbuffer.Graph("EfficientNet-Lite0")

    def conv(self, name: str, source: int, layer: str, norm: str, *, stride: int, activation: int) -> int:
        """Add a convolution with its batch norm; depthwise if the kernel has one input channel per group."""
        kernel, bias = self._folded(layer, norm)
        filters, group_channels = kernel.shape[:2]
        depthwise = group_channels == 1
        if depthwise:
            kernel = kernel[:, 0].transpose(1, 2, 0)[None]
            options = schema.DepthwiseConv2DOptionsT()
            options.depthMultiplier = 1
        else:
            kernel = kernel.transpose(0, 2, 3, 1)
            options = schema.Conv2DOptionsT()
        options.strideW = options.strideH = stride
        options.dilationWFactor = options.dilationHFactor = 1
        options.padding = schema.Padding.SAME
        options.fusedActivationFunction = activation
        weights = [self.graph.tensor(f"{name}/kernel", kernel.shape, kernel)]
        weights.append(self.graph.tensor(f"{name}/bias", bias.shape, bias))
        side = -(-self.graph.shape(source)[1] // stride)
        output = self.graph.tensor(name, (1, side, side, filters))
        kind = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        return self.graph.op(kind, [source, *weights], output, options)

    def add(self, name: str, left: int, right: int) -> int:
        options = schema.AddOptionsT()
        options.fusedActivationFunction = flatbuffer.LINEAR
        return self.graph.op("ADD", [left, right], self.graph.tensor(name, self.graph.shape(right)), options)

    def pool(self, source: int) -> int:
        options = schema.ReducerOptionsT()
        options.keepDims = False
        axes = self.graph.tensor("pool/axes", (2,), np.array([1, 2], np.int32))
        output = self.graph.tensor("pool", (1, self.graph.shape(source)[-1]))
        return self.graph.op("MEAN", [source, axes], output, options)

    def classifier(self, source: int) -> int:
        kernel, bias = self.weights["_fc.weight"], self.weights["_fc.bias"]
        options = schema.FullyConnectedOptionsT()
        options.fusedActivationFunction = flatbuffer.LINEAR
        weights = [self.graph.tensor("logits/kernel", kernel.shape, kernel)]
        weights.append(self.graph.tensor("logits/bias", bias.shape, bias))
        return self.graph.op("FULLY_CONNECTED", [source, *weights], self.graph.tensor("logits", (1, 1000)), options)

    def block(self, number: int, source: int, *, expand: bool, stride: int) -> int:
        """Add an inverted residual block: expand, depthwise, project, and the shortcut if the shapes agree."""
        name, layer = f"block{number}", f"_blocks.{number}."
        x = source
        if expand:
            x = self.conv(
                f"{name}/expand", x, f"{layer}_expand_conv", f"{layer}_bn0", stride=1, activation=flatbuffer.RELU6
            )
        x = self.conv(
            f"{name}/depthwise",
            x,
            f"{layer}_depthwise_conv",
            f"{layer}_bn1",
            stride=stride,
            activation=flatbuffer.RELU6,
        )
        x = self.conv(
            f"{name}/project", x, f"{layer}_project_conv", f"{layer}_bn2", stride=1, activation=flatbuffer.LINEAR
        )
        same = stride == 1 and self.graph.shape(source) == self.graph.shape(x)
        return self.add(f"{name}/add", source, x) if same else x

    def _folded(self, layer: str, norm: str) -> tuple[Array, Array]:
        """Fold the batch norm into kernel and bias, computed in float64 and rounded once."""
        kernel, gain, shift, mean, variance = (
            self.weights[name].astype(np.float64)
            for name in (
                f"{layer}.weight",
                f"{norm}.weight",
                f"{norm}.bias",
                f"{norm}.running_mean",
                f"{norm}.running_var",
            )
        )
        factor = gain / np.sqrt(variance + _EPSILON)
        folded = kernel * factor[:, None, None, None]
        return folded.astype(np.float32), (shift - mean * factor).astype(np.float32)


def build(weights: Mapping[str, Array]) -> bytes:
    """The ``.tflite`` file of EfficientNet-Lite0 in float32; the same weights give the same bytes."""
    writer = _Writer(weights)
    image = writer.graph.tensor("image", (1, SIDE, SIDE, 3))
    x = writer.conv("stem", image, "_conv_stem", "_bn0", stride=2, activation=flatbuffer.RELU6)
    number = 0
    for expand, first_stride, blocks in STAGES:
        for position in range(blocks):
            x = writer.block(number, x, expand=expand, stride=first_stride if position == 0 else 1)
            number += 1
    x = writer.conv("head", x, "_conv_head", "_bn1", stride=1, activation=flatbuffer.RELU6)
    return writer.graph.finish(image, writer.classifier(writer.pool(x)))
