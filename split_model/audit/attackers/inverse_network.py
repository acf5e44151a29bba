"""A network from what arrives to the picture, trained on released features of public pictures.

He, Zhang and Lee, "Model inversion attacks against collaborative inference" (ACSAC 2019), "inverse network",
trained on what the mechanism lets out, with fresh noise in every epoch: it knows the noise as well as the head.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from split_model.audit.pictures import Floats

_WIDTH = 48
_BATCH = 16
_RATE = 2e-3

#: Releases of the public pictures with these numbers, new at every call: by picture, the live tensors [1, ...].
Releases = Callable[[Sequence[int]], list[list[Floats]]]


class InverseNetwork:
    """Learns until its time is up.

    Args:
        releases: Draws what arrives of public pictures.
        pictures: The public pictures [n, height, width, channels].
        budget_s: Wall-clock time to train.
        seed: Of weights and order.

    Attributes:
        epochs: How often it saw every picture.

    """

    def __init__(self, releases: Releases, pictures: Floats, *, budget_s: float, seed: int = 0) -> None:
        import torch

        torch.manual_seed(seed)
        self.epochs = 0.0
        self._side = (pictures.shape[1], pictures.shape[2])
        first = releases([0])[0]
        self._scales = [float(np.std(one)) or 1.0 for one in first]
        self._dense = all(_flat(one) for one in first)
        self._network = self._make(first, pictures.shape[3])
        self._train(releases, pictures, budget_s, np.random.default_rng(seed))

    def __call__(self, arrived: Sequence[Sequence[Floats]]) -> Floats:
        """Pictures [n, ...] of one release each."""
        import torch

        with torch.no_grad():
            found = [self._network(self._maps(arrived[at : at + _BATCH])) for at in range(0, len(arrived), _BATCH)]
        pictures: Floats = torch.cat(found).permute(0, 2, 3, 1).numpy()
        return np.clip(pictures, 0, 1)

    def _make(self, first: Sequence[Floats], channels: int) -> Any:
        from torch import nn

        inputs = int(self._maps([first]).shape[1])
        if self._dense:
            side = tuple(max(1, one // 8) for one in self._side)
            layers: list[Any] = [
                nn.Flatten(),
                nn.Linear(inputs, 256),
                nn.ReLU(),
                nn.Linear(256, _WIDTH * side[0] * side[1]),
                nn.ReLU(),
                nn.Unflatten(1, (_WIDTH, *side)),
            ]
        else:
            side = (int(self._maps([first]).shape[2]), int(self._maps([first]).shape[3]))
            layers = [nn.Conv2d(inputs, _WIDTH, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1), nn.ReLU()]
        while side[0] * 2 <= self._side[0]:
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1), nn.ReLU()]
            side = (side[0] * 2, side[1] * 2)
        layers += [
            nn.Upsample(size=self._side),
            nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(_WIDTH, channels, 3, padding=1),
            nn.Sigmoid(),
        ]
        return nn.Sequential(*layers)

    def _maps(self, arrived: Sequence[Sequence[Floats]]) -> Any:
        """Live tensors as one map [n, channels, height, width]: smaller ones are scaled up, vectors repeated."""
        import torch
        from torch.nn import functional

        parts = [
            torch.from_numpy(np.concatenate(one) / scale)
            for one, scale in zip(zip(*arrived, strict=True), self._scales, strict=True)
        ]
        if self._dense:
            return torch.cat([part.reshape(len(part), -1) for part in parts], dim=1)[:, :, None, None]
        maps = [part.permute(0, 3, 1, 2) if part.ndim == 4 else part.reshape(len(part), -1, 1, 1) for part in parts]
        size = max((tuple(part.shape[2:]) for part in maps), key=lambda sides: sides[0] * sides[1])
        return torch.cat([functional.interpolate(part, size) for part in maps], dim=1)

    def _train(self, releases: Releases, pictures: Floats, budget_s: float, generator: np.random.Generator) -> None:
        import torch
        from torch.nn import functional

        began_s = time.process_time()
        optimizer = torch.optim.Adam(self._network.parameters(), _RATE)
        order = generator.permutation(len(pictures))
        steps = 0
        while (used := (time.process_time() - began_s) / budget_s) < 1:
            for group in optimizer.param_groups:
                group["lr"] = _RATE * (1 - 0.95 * used)
            at = steps * _BATCH % len(order)
            chosen = [int(number) for number in np.resize(np.roll(order, -at), min(_BATCH, len(order)))]
            flipped = torch.from_numpy(pictures[chosen]).permute(0, 3, 1, 2)
            loss = functional.mse_loss(self._network(self._maps(releases(chosen))), flipped)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
        self.epochs = steps * min(_BATCH, len(order)) / len(order)
        self._network.eval()


def _flat(features: Floats) -> bool:
    """Whether a live tensor is no map."""
    return features.ndim != 4 or features.shape[1] * features.shape[2] == 1
