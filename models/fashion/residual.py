"""The network in torch, for training: the layers of `layers`, each with a batch norm of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from models.fashion.layers import CLASSES, EXTRA, LAST, LAYERS, NAMES, WIDTH, after, named


def make() -> Any:
    """The network as a `torch.nn.ModuleDict`, with fresh weights."""
    modules: dict[str, Any] = {}
    for one in LAYERS:
        modules[one.name] = torch.nn.Conv2d(one.inward, one.outward, 3, bias=False)
        modules[f"{one.name}_norm"] = torch.nn.BatchNorm2d(one.outward)
    modules["logits"] = torch.nn.Linear(WIDTH, CLASSES)
    return torch.nn.ModuleDict(modules).to(memory_format=torch.channels_last)


def add_step(net: Any) -> None:
    """The further step of a noise-aware tail after the last layer, which begins as a weak copy of that layer."""
    net[EXTRA.name] = torch.nn.Conv2d(EXTRA.inward, EXTRA.outward, 3, bias=False).to(
        memory_format=torch.channels_last
    )
    net[f"{EXTRA.name}_norm"] = torch.nn.BatchNorm2d(EXTRA.outward)
    net[EXTRA.name].load_state_dict(net[LAST].state_dict())
    torch.nn.init.constant_(net[f"{EXTRA.name}_norm"].weight, 0.3)


def layer(net: Any, name: str, x: Any) -> Any:
    """One layer of the network. TFLite pads at the end only where the stride is 2 and the side is even."""
    one = named(name)
    low = 0 if one.stride == 2 else 1
    padded = functional.pad(x, (low, 1, low, 1))
    y = net[f"{name}_norm"](functional.conv2d(padded, net[name].weight, stride=one.stride))
    return functional.relu(x + y if one.residual else y)


def head(net: Any, x: Any, last: str) -> Any:
    """The features after the layer ``last``: float32 [n, channels, rows, columns]."""
    for name in NAMES[: NAMES.index(last) + 1]:
        x = layer(net, name, x)
    return x


def tail(net: Any, x: Any, last: str) -> Any:
    """The logits [n, 10] from the features after the layer ``last``."""
    for name in after(last, extra=EXTRA.name in net):
        x = layer(net, name, x)
    return net["logits"](x.mean((2, 3)))
