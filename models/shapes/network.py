"""Two small networks as lists of layers, with code to run and train them in NumPy (NHWC, SAME padding).

Both share a form: 3 x 3 convolutions with ReLUs, some of stride 2, some residual; the segmenter also doubles the
sides of a map and adds an earlier one. Parameters are a dict of float32 arrays by ``LAYER/kernel`` [3, 3, in, out]
(or [1, 1, in, out]) and ``LAYER/bias``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Parameters = dict[str, Floats]


@dataclass(frozen=True)
class Layer:
    """One convolution of what ``source`` made (empty: the layer before).

    ``add``: an earlier map that is added before the ReLU. ``double``: the sides are doubled first, each value four
    times. ``relu``: off for outputs.
    """

    name: str
    inward: int
    outward: int
    stride: int = 1
    size: int = 3
    source: str = ""
    add: str = ""
    double: bool = False
    relu: bool = True


_ENCODER = (
    Layer("down1", 3, 16, stride=2),
    Layer("down2", 16, 24, stride=2),
    Layer("step2", 24, 24, add="down2"),
    Layer("down3", 24, 48, stride=2),
    Layer("step3", 48, 48, add="down3"),
    Layer("step4", 48, 48, add="step3"),
)
DETECTOR = (
    *_ENCODER,
    Layer("step5", 48, 48, add="step4"),
    Layer("boxes", 48, 4, size=1, source="step5", relu=False),
    Layer("classes", 48, 3, size=1, source="step5", relu=False),
)
SEGMENTER = (
    *_ENCODER,
    Layer("up1", 48, 24, double=True, add="step2"),
    Layer("up2", 24, 16, double=True, add="down1"),
    Layer("mask", 16, 4, size=1, relu=False),
)
OUTPUTS: dict[str, tuple[str, ...]] = {"detector": ("boxes", "classes"), "segmenter": ("mask",)}
NETWORKS: dict[str, tuple[Layer, ...]] = {"detector": DETECTOR, "segmenter": SEGMENTER}
Kind = Literal["detector", "segmenter"]


def initial(layers: Sequence[Layer], rng: np.random.Generator) -> Parameters:
    """Random kernels of He's size; those that are added to an earlier map start small."""
    found = {}
    for layer in layers:
        spread = np.sqrt(2 / (layer.inward * layer.size**2)) * (0.3 if layer.add or not layer.relu else 1.0)
        shape = (layer.size, layer.size, layer.inward, layer.outward)
        found[f"{layer.name}/kernel"] = rng.normal(0, spread, shape).astype(np.float32)
        found[f"{layer.name}/bias"] = np.zeros(layer.outward, np.float32)
    return found


class Pass:
    """One forward pass of a batch, and the gradients of it. ``maps``: what each layer made, by its name."""

    def __init__(self, layers: Sequence[Layer], parameters: Parameters, pictures: Floats) -> None:
        self._layers = layers
        self._parameters = parameters
        self.maps: dict[str, Floats] = {"": pictures}
        self._columns: dict[str, Floats] = {}
        self._sources: dict[str, str] = {}
        before = ""
        for layer in layers:
            source = layer.source or before
            self._sources[layer.name] = source
            x = self.maps[source]
            if layer.double:
                x = x.repeat(2, axis=1).repeat(2, axis=2)
            columns = _columns(x, layer)
            kernel = parameters[f"{layer.name}/kernel"]
            y = columns @ kernel.reshape(-1, layer.outward) + parameters[f"{layer.name}/bias"]
            if layer.add:
                y = y + self.maps[layer.add]
            self.maps[layer.name] = np.maximum(y, 0) if layer.relu else y
            self._columns[layer.name] = columns
            before = layer.name

    def gradients(self, of_outputs: dict[str, Floats]) -> Parameters:
        """Gradients of all parameters from those of the outputs."""
        of_maps: dict[str, Floats] = dict(of_outputs)
        found: Parameters = {}
        for layer in reversed(self._layers):
            dy = of_maps.pop(layer.name)
            if layer.relu:
                dy = dy * (self.maps[layer.name] > 0)
            if layer.add:
                _give(of_maps, layer.add, dy)
            columns, kernel = self._columns[layer.name], self._parameters[f"{layer.name}/kernel"]
            flat = dy.reshape(-1, layer.outward)
            found[f"{layer.name}/kernel"] = (columns.reshape(len(flat), -1).T @ flat).reshape(kernel.shape)
            found[f"{layer.name}/bias"] = flat.sum(axis=0)
            source = self._sources[layer.name]
            if not source:
                continue
            dx = _uncolumned(dy @ kernel.reshape(-1, layer.outward).T, layer)
            if layer.double:
                n, height, width, channels = dx.shape
                dx = dx.reshape(n, height // 2, 2, width // 2, 2, channels).sum(axis=(2, 4))
            _give(of_maps, source, dx)
        return found


def _give(of_maps: dict[str, Floats], name: str, gradient: Floats) -> None:
    of_maps[name] = of_maps[name] + gradient if name in of_maps else gradient


def _columns(x: Floats, layer: Layer) -> Floats:
    """What each output place sees: [n, height, width, size * size * in]."""
    if layer.size == 1:
        return x
    before = 0 if layer.stride == 2 else 1  # SAME of an even side: stride 2 pads behind only
    padded = np.pad(x, ((0, 0), (before, 1), (before, 1), (0, 0)))
    seen = sliding_window_view(padded, (3, 3), axis=(1, 2))[:, :: layer.stride, :: layer.stride]
    moved: Floats = np.ascontiguousarray(seen.transpose(0, 1, 2, 4, 5, 3))
    return moved.reshape(*moved.shape[:3], -1)


def _uncolumned(columns: Floats, layer: Layer) -> Floats:
    """The gradient of a map from that of its columns."""
    if layer.size == 1:
        return columns
    n, height, width = columns.shape[:3]
    parts = columns.reshape(n, height, width, 3, 3, layer.inward)
    stride = layer.stride
    whole = np.zeros((n, height * stride + 2, width * stride + 2, layer.inward), np.float32)
    for row in range(3):
        for column in range(3):
            whole[:, row : row + height * stride : stride, column : column + width * stride : stride] += parts[
                :, :, :, row, column
            ]
    first = 0 if stride == 2 else 1
    return whole[:, first : first + height * stride, first : first + width * stride]


class Adam:
    """Kingma and Ba's Adam over a dict of arrays."""

    def __init__(self, parameters: Parameters) -> None:
        self._first = {name: np.zeros_like(value) for name, value in parameters.items()}
        self._second = {name: np.zeros_like(value) for name, value in parameters.items()}
        self._steps = 0

    def step(self, parameters: Parameters, gradients: Parameters, rate: float) -> None:
        """Change the parameters in place."""
        self._steps += 1
        for name, gradient in gradients.items():
            self._first[name] = 0.9 * self._first[name] + 0.1 * gradient
            self._second[name] = 0.999 * self._second[name] + 0.001 * gradient**2
            mean = self._first[name] / (1 - 0.9**self._steps)
            size = np.sqrt(self._second[name] / (1 - 0.999**self._steps)) + 1e-8
            parameters[name] -= (rate * mean / size).astype(np.float32)
