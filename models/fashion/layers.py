"""The layers of the network: 3 x 3 convolutions, two of them with stride 2, and residual steps.

Each residual step y = relu(x + conv(x)) is one convolution, so after each of them a single tensor is live; and all
of these tensors are after a ReLU, so no clip range needs a lower end. Padding is TFLite's SAME.
"""

from __future__ import annotations

from dataclasses import dataclass

SIDE = 28  # of the picture, pixels
CLASSES = 10


@dataclass(frozen=True)
class Layer:
    """One convolution with its batch norm and ReLU."""

    name: str
    inward: int
    outward: int
    stride: int = 1
    residual: bool = False


LAYERS = (
    Layer("stem", 1, 16),
    Layer("down1", 16, 32, stride=2),
    Layer("step1", 32, 32, residual=True),
    Layer("down2", 32, 64, stride=2),
    Layer("step2", 64, 64, residual=True),
    Layer("step3", 64, 64, residual=True),
    Layer("step4", 64, 64, residual=True),
    Layer("step5", 64, 64, residual=True),
)
NAMES = tuple(layer.name for layer in LAYERS)
WIDTH = LAYERS[-1].outward
#: The cuts that get noise-aware tails, by the layer before them; half of the multiply-adds come before ``middle``.
CUTS = {"early": "step1", "middle": "step2", "deep": "step4"}
#: After the last layer only the classifier is left: noise-aware tails there get an additional step.
LAST = "step5"
EXTRA = Layer("step6", 64, 64, residual=True)


def named(name: str) -> Layer:
    """The layer of this name."""
    return EXTRA if name == EXTRA.name else LAYERS[NAMES.index(name)]


def after(name: str, *, extra: bool = False) -> tuple[str, ...]:
    """The names of the layers after ``name``; with the step that only noise-aware tails have, or without."""
    return (*NAMES[NAMES.index(name) + 1 :], *((EXTRA.name,) if extra else ()))
