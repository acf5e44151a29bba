"""A network from what arrives to the picture, trained on released features of public pictures.

He, Zhang and Lee, "Model inversion attacks against collaborative inference" (ACSAC 2019), "inverse network",
trained on what the mechanism lets out, with fresh noise at every step: it knows the noise as well as the head. The
loss is in pixels and, where the head has a gradient, in the head's own features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from split_model.audit.attackers.decoder import Decoder, Shape, torch_forward, weight_shapes
from split_model.audit.pictures import Floats

_BATCH = 16
_RATE = 2e-3
_LEAST_STEPS = 10
_MOST_STEPS = 20_000
#: Maps of more cells a side are trained on quarters of a picture.
_WHOLE_CELLS = 24
#: Multiply-adds of training that one core does in a second, about: a budget is counted in them, not by a clock, so
#: that the same audit trains the same network.
_MACS_A_SECOND = 50e9
#: What one released value costs besides, in multiply-adds: the head's copy, the noise, the way to the network.
_MACS_A_VALUE = 1500
#: Heads have small layers: a multiply-add takes longer there. The loss runs one twice.
_HEAD_COST = 8
_FEATURE_WEIGHT = 0.05
_SMALL = 1e-6

#: Releases of the public pictures with these numbers, new at every call: by picture, the live tensors [1, ...].
Releases = Callable[[Sequence[int]], list[list[Floats]]]
#: Torch pictures [n, height, width, channels] to the head's features, with a gradient.
Features = Callable[[Any], Sequence[Any]]


class InverseNetwork:
    """Learns for a fixed amount of work.

    Args:
        releases: Draws what arrives of public pictures.
        pictures: The public pictures [n, height, width, channels].
        budget_s: About the seconds that one core trains.
        features: The head with a gradient; None for a loss in pixels alone.
        features_macs: Multiply-adds of that head for one picture.
        seed: Of weights and order.

    Attributes:
        epochs: How often it saw every picture.
        decoder: The trained network.

    """

    def __init__(
        self,
        releases: Releases,
        pictures: Floats,
        *,
        budget_s: float,
        features: Features | None = None,
        features_macs: int = 0,
        seed: int = 0,
    ) -> None:
        import torch

        first = releases([0])[0]
        self._shape = Shape.of(first, (pictures.shape[1], pictures.shape[2], pictures.shape[3]))
        self._steps = self._shape.steps()
        self._patch = self._patch_cells()
        # Where pictures are cut in quarters the head would see other rims than it does in a whole one.
        self._features = features if self._patch is None else None
        torch.manual_seed(seed)
        weights = [_initial(shape) for name, sizes in self._steps for shape in weight_shapes(name, sizes)]
        batch = min(_BATCH, len(pictures))
        share = 1.0 if self._patch is None else self._patch[0] * self._patch[1] / np.prod(self._shape.cells)
        values = sum(one.size for one in first)
        head = _HEAD_COST * features_macs if self._features else 0
        macs = 3 * (self._shape.macs * share + head) + _MACS_A_VALUE * values
        steps = int(np.clip(budget_s * _MACS_A_SECOND / (macs * batch), _LEAST_STEPS, _MOST_STEPS))
        generator = np.random.default_rng(seed)
        repeats = -(-steps * batch // len(pictures))
        order = np.concatenate([generator.permutation(len(pictures)) for _ in range(repeats)])
        batches = order[: steps * batch].reshape(steps, batch)
        self._train(weights, lambda chosen: (releases(chosen), pictures[chosen]), batches, generator)
        self.epochs = steps * batch / len(pictures)
        self.decoder = Decoder(self._shape, tuple(one.detach().numpy().copy() for one in weights))
        self._weights = weights

    def __call__(self, arrived: Sequence[Sequence[Floats]]) -> Floats:
        """Pictures [n, ...] of one release each."""
        import torch

        height, width, _ = self._shape.picture
        with torch.no_grad():
            found = [
                torch.sigmoid(torch_forward(self._steps, self._weights, torch.from_numpy(self._shape.maps([one]))))
                for one in arrived
            ]
        pictures: Floats = torch.cat(found)[:, :, :height, :width].permute(0, 2, 3, 1).numpy()
        return pictures

    def _patch_cells(self) -> tuple[int, int] | None:
        """Half of the map a side, where that is a whole number of pixels; None where whole pictures are taken."""
        shape = self._shape
        if shape.dense or min(shape.cells) <= _WHOLE_CELLS:
            return None
        whole = all(pixels % cells == 0 for pixels, cells in zip(shape.picture, shape.cells, strict=False))
        return (shape.cells[0] // 2, shape.cells[1] // 2) if whole else None

    def _train(
        self,
        weights: list[Any],
        draw: Callable[[list[int]], tuple[list[list[Floats]], Floats]],
        batches: NDArray[np.int64],
        generator: np.random.Generator,
    ) -> None:
        import torch
        from torch.nn import functional

        optimizer = torch.optim.Adam(weights, _RATE)
        height, width, _ = self._shape.picture
        for step, numbers in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = _RATE * min(1.0, (step + 1) / 20) * (1 - 0.97 * step / len(batches))
            released, wanted = draw(numbers.tolist())
            maps = self._shape.maps(released)
            if self._patch is not None:
                maps, wanted = self._cut_out(maps, wanted, generator)
            drawn = torch.sigmoid(torch_forward(self._steps, weights, torch.from_numpy(np.ascontiguousarray(maps))))
            drawn = drawn[:, :, :height, :width].permute(0, 2, 3, 1)
            truth = torch.from_numpy(np.ascontiguousarray(wanted))
            loss = functional.l1_loss(drawn, truth) + 2 * functional.mse_loss(drawn, truth)
            if self._features is not None:
                with torch.no_grad():
                    theirs = self._features(truth)
                for ours, one in zip(self._features(drawn), theirs, strict=True):
                    loss = loss + _FEATURE_WEIGHT * ((ours - one) ** 2).mean() / (one.var() + _SMALL)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def _cut_out(self, maps: Floats, pictures: Floats, generator: np.random.Generator) -> tuple[Floats, Floats]:
        """The same quarter of features and pictures, another one for every frame."""
        assert self._patch is not None
        cells, (down, across) = self._shape.cells, self._patch
        pixels = (self._shape.picture[0] // cells[0], self._shape.picture[1] // cells[1])
        tops = generator.integers(0, cells[0] - down + 1, len(maps))
        lefts = generator.integers(0, cells[1] - across + 1, len(maps))
        places = list(zip(tops.tolist(), lefts.tolist(), strict=True))
        parts = [
            one[:, top : top + down, left : left + across] for one, (top, left) in zip(maps, places, strict=True)
        ]
        shown = [
            one[top * pixels[0] : (top + down) * pixels[0], left * pixels[1] : (left + across) * pixels[1]]
            for one, (top, left) in zip(pictures, places, strict=True)
        ]
        return np.stack(parts), np.stack(shown)


def _initial(shape: tuple[int, ...]) -> Any:
    """He et al. (2015), halved as residual blocks want it; biases begin at zero."""
    import torch

    if len(shape) == 1:
        return torch.zeros(shape, requires_grad=True)
    inputs = int(np.prod(shape[1:]))
    return (torch.randn(shape) * (2 / inputs) ** 0.5 * 0.7).requires_grad_(True)
