"""Query-free: a substitute for a head that the attacker does not have.

He, Zhang and Lee, "Model inversion attacks against collaborative inference" (ACSAC 2019), "query-free attack": who
runs the server has the tail, and knows what kind of pictures the answers stand for. A small network is trained in
the head's place, until the real tail answers as the whole model does on public pictures; the white box then inverts
that network. A server of ours has the whole bundle, so this attacker is weaker than ours: he shows what keeping the
head secret would be worth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from split_model.audit.pictures import Floats, PictureSpace

_WIDTH = 32
_BATCH = 16
_RATE = 2e-3
_MACS_A_SECOND = 30e9
_LEAST_STEPS, _MOST_STEPS = 60, 5000
_SMALL = 1e-6

#: The live tensors to the model's outputs, with a gradient.
Tail = Callable[[Sequence[Any]], Sequence[Any]]


class Substitute:
    """Stands for a head of one live map.

    Args:
        space: Between pictures and inputs.
        shape: Of the live map [1, height, width, channels].
        positive: The map has no values below zero, as the clip range in the manifest tells everybody.
        seed: Of the weights.

    Attributes:
        error: How far the tail's answers are from the model's at the end: squared, over their variance.

    """

    def __init__(self, space: PictureSpace, shape: Sequence[int], *, positive: bool, seed: int = 0) -> None:
        import torch

        self.error = 1.0
        self._space, self._cells, self._positive = space, (shape[1], shape[2]), positive
        torch.manual_seed(seed)
        halvings = 0
        while (space.shape[0] >> (halvings + 1)) >= shape[1] and (space.shape[1] >> (halvings + 1)) >= shape[2]:
            halvings += 1
        widths = [space.shape[2], *[_WIDTH] * max(1, halvings), shape[3]]
        self._strides = [2] * halvings + [1] * (len(widths) - 1 - halvings)
        self._weights: list[Any] = []
        for before, after in pairwise(widths):
            scale = (2 / (9 * before)) ** 0.5
            self._weights += [(torch.randn(after, before, 3, 3) * scale).requires_grad_(True)]
            self._weights += [torch.zeros(after, requires_grad=True)]

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        """Torch inputs of the model [n, ...] to the live map [n, height, width, channels]."""
        from torch.nn import functional

        values = inputs[0] if self._space.nchw else inputs[0].permute(0, 3, 1, 2)
        for at, stride in enumerate(self._strides):
            kernel, bias = self._weights[2 * at : 2 * at + 2]
            values = functional.conv2d(values, kernel, bias, stride=stride, padding=1)
            if self._positive or at + 1 < len(self._strides):
                values = functional.relu(values)
        if tuple(values.shape[2:]) != self._cells:
            values = functional.interpolate(values, self._cells, mode="bilinear", align_corners=False)
        return [values.permute(0, 2, 3, 1)]

    def train(
        self, tail: Tail, tail_macs: int, pictures: Floats, answers: Sequence[Floats], *, budget_s: float
    ) -> None:
        """Train until the tail answers as the whole model does.

        Args:
            tail: The real one.
            tail_macs: Its multiply-adds for one picture.
            pictures: Public ones [n, ...].
            answers: What the whole model answers to them: by output, [n, ...].
            budget_s: About the seconds that one core trains; counted in work.

        """
        import torch

        own = sum(one.numel() for one in self._weights) * self._cells[0] * self._cells[1] * 4
        steps = int(
            np.clip(budget_s * _MACS_A_SECOND / (3 * _BATCH * (tail_macs + own)), _LEAST_STEPS, _MOST_STEPS)
        )
        wanted = [torch.from_numpy(np.ascontiguousarray(one)) for one in answers]
        scales = [one.var() + _SMALL for one in wanted]
        optimizer = torch.optim.Adam(self._weights, _RATE)
        generator = np.random.default_rng(0)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = _RATE * (1 - 0.95 * step / steps)
            chosen = generator.integers(len(pictures), size=_BATCH)
            shown = self._space.torch_inputs(torch.from_numpy(pictures[chosen]))
            given = tail(self([shown]))
            errors = [
                ((ours - theirs[chosen].reshape(ours.shape)) ** 2).mean() / scale
                for ours, theirs, scale in zip(given, wanted, scales, strict=True)
            ]
            loss = torch.stack(errors).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            self.error = 0.95 * self.error + 0.05 * float(loss.detach())
