"""Implements TFLite's ops in torch, on tensors in TFLite's layout, to compute the gradient of a head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812  torch's own name for it

from split_model.errors import BadModelError

#: An op's options, its inputs as torch tensors (None where absent) -> its output
Run = Callable[[Any, list[Any]], Any]

_VALID = 1


def _activated(options: Any, x: Any) -> Any:
    kind = getattr(options, "fusedActivationFunction", 0)
    if kind not in (0, 1, 2, 3, 4):
        raise BadModelError(f"fused activation {kind} cannot be followed backwards", remedy="audit another cut")
    return {0: lambda v: v, 1: F.relu, 2: lambda v: v.clamp(-1, 1), 3: lambda v: v.clamp(0, 6), 4: torch.tanh}[
        kind
    ](x)


def _channels_first(x: Any) -> Any:
    return x.permute(0, 3, 1, 2)


def _channels_last(x: Any) -> Any:
    return x.permute(0, 2, 3, 1)


def _padded(options: Any, x: Any, kernel: tuple[int, int], value: float = 0.0) -> Any:
    """Pad NCHW as TFLite's SAME does: an odd pixel goes to the end."""
    if options.padding == _VALID:
        return x
    sides: list[int] = []
    for size, k, stride, dilation in (
        (x.shape[3], kernel[1], options.strideW, getattr(options, "dilationWFactor", 1)),
        (x.shape[2], kernel[0], options.strideH, getattr(options, "dilationHFactor", 1)),
    ):
        total = max(0, (-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size)
        sides += [total // 2, total - total // 2]
    return F.pad(x, sides, value=value)


def _convolve(options: Any, ins: list[Any]) -> Any:
    x, weights, bias = ins[0], ins[1], ins[2] if len(ins) > 2 else None
    weights = weights.float()
    out = F.conv2d(
        _padded(options, _channels_first(x), (weights.shape[1], weights.shape[2])),
        weights.permute(0, 3, 1, 2),
        None if bias is None else bias.float(),
        stride=(options.strideH, options.strideW),
        dilation=(options.dilationHFactor, options.dilationWFactor),
        groups=x.shape[3] // weights.shape[3],
    )
    return _activated(options, _channels_last(out))


def _depthwise(options: Any, ins: list[Any]) -> Any:
    x, weights, bias = ins[0], ins[1].float(), ins[2] if len(ins) > 2 else None
    out = F.conv2d(
        _padded(options, _channels_first(x), (weights.shape[1], weights.shape[2])),
        weights[0].permute(2, 0, 1)[:, None],
        None if bias is None else bias.float(),
        stride=(options.strideH, options.strideW),
        dilation=(options.dilationHFactor, options.dilationWFactor),
        groups=x.shape[3],
    )
    return _activated(options, _channels_last(out))


def _max_pool(options: Any, ins: list[Any]) -> Any:
    kernel = (options.filterHeight, options.filterWidth)
    x = _padded(options, _channels_first(ins[0]), kernel, float("-inf"))
    return _activated(options, _channels_last(F.max_pool2d(x, kernel, (options.strideH, options.strideW))))


def _average_pool(options: Any, ins: list[Any]) -> Any:
    kernel, stride = (options.filterHeight, options.filterWidth), (options.strideH, options.strideW)
    x = _channels_first(ins[0])
    total = F.avg_pool2d(_padded(options, x, kernel), kernel, stride)
    counted = F.avg_pool2d(_padded(options, torch.ones_like(x), kernel), kernel, stride)
    return _activated(options, _channels_last(total / counted))


def _dense(options: Any, ins: list[Any]) -> Any:
    x, weights, bias = ins[0], ins[1].float(), ins[2] if len(ins) > 2 else None
    return _activated(options, F.linear(x.reshape(x.shape[0], -1), weights, bias))


def _pad(_options: Any, ins: list[Any]) -> Any:
    sides = [int(side) for row in reversed(ins[1].tolist()) for side in row]
    return F.pad(ins[0], sides, value=float(ins[2]) if len(ins) > 2 and ins[2] is not None else 0.0)


def _prelu(_options: Any, ins: list[Any]) -> Any:
    return ins[0].clamp(min=0) + ins[1].float() * ins[0].clamp(max=0)


def _reshape(_options: Any, ins: list[Any]) -> Any:
    shape = [int(side) for side in ins[1].tolist()]
    return ins[0].reshape(ins[0].shape[0], *shape[1:])


def _mean(options: Any, ins: list[Any]) -> Any:
    axes = [int(axis) for axis in np.atleast_1d(ins[1].numpy())]
    return ins[0].mean(dim=axes, keepdim=bool(options.keepDims))


def _concatenate(options: Any, ins: list[Any]) -> Any:
    return _activated(options, torch.cat(ins, dim=options.axis))


def _resize(options: Any, ins: list[Any]) -> Any:
    size = [int(side) for side in ins[1].tolist()]
    if options.alignCorners or not options.halfPixelCenters:
        raise BadModelError("RESIZE_BILINEAR with these corners has no equal in torch", remedy="audit another cut")
    return _channels_last(F.interpolate(_channels_first(ins[0]), size, mode="bilinear", align_corners=False))


def _two(combine: Callable[[Any, Any], Any]) -> Run:
    return lambda options, ins: _activated(options, combine(ins[0], ins[1]))


def _one(apply: Callable[[Any], Any]) -> Run:
    return lambda _options, ins: apply(ins[0])


#: By the names that TFLite gives them.
RUNS: dict[str, Run] = {
    "ADD": _two(lambda a, b: a + b),
    "AVERAGE_POOL_2D": _average_pool,
    "CONCATENATION": _concatenate,
    "CONV_2D": _convolve,
    "DEPTHWISE_CONV_2D": _depthwise,
    "DEQUANTIZE": _one(lambda x: x.float()),
    "FULLY_CONNECTED": _dense,
    "HARD_SWISH": _one(F.hardswish),
    "LEAKY_RELU": lambda options, ins: F.leaky_relu(ins[0], options.alpha),
    "LOGISTIC": _one(torch.sigmoid),
    "MAX_POOL_2D": _max_pool,
    "MEAN": _mean,
    "MUL": _two(lambda a, b: a * b),
    "PAD": _pad,
    "PADV2": _pad,
    "PRELU": _prelu,
    "RELU": _one(F.relu),
    "RELU6": _one(lambda x: x.clamp(0, 6)),
    "RESHAPE": _reshape,
    "RESIZE_BILINEAR": _resize,
    "SOFTMAX": lambda options, ins: torch.softmax(options.beta * ins[0], dim=-1),
    "SUB": _two(lambda a, b: a - b),
    "TANH": _one(torch.tanh),
}
