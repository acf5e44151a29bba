"""A network that inverts a release, trained on public pictures and their released features ("inverse network").

As in He, Zhang and Lee, "Model inversion attacks against collaborative inference" (ACSAC 2019), but trained on what
the mechanism lets out. It needs torch, the extra ``audit``. One thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_BATCH = 128
_WIDTH = 32


@dataclass(frozen=True)
class InverseNetwork:
    """A trained one."""

    network: Any

    def __call__(self, released: Floats) -> Floats:
        """float32 [n, H, W, C] to pictures [n, side, side] in 0 to 1."""
        import torch

        with torch.no_grad():
            found = [
                self.network(_maps(part)) for part in np.array_split(released, max(1, len(released) // _BATCH))
            ]
        pictures: Floats = torch.cat(found)[:, 0].numpy()
        return pictures


def train(released: Floats, pictures: Floats, *, epochs: int, seed: int = 0) -> InverseNetwork:
    """Train on released features [n, H, W, C] and their pictures [n, side, side] in 0 to 1; side is H times 2^k."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    layers: list[Any] = [nn.Conv2d(released.shape[3], _WIDTH, 3, padding=1), nn.ReLU()]
    side = released.shape[1]
    while side < pictures.shape[1]:
        layers += [nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1), nn.ReLU()]
        layers += [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1), nn.ReLU()]
        side *= 2
    layers += [nn.Conv2d(_WIDTH, 1, 3, padding=1), nn.Sigmoid()]
    network = nn.Sequential(*layers)
    # The input's scale is the noise's as much as the features'.
    scale = float(released.std()) or 1.0
    with torch.no_grad():
        network[0].weight /= scale
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    steps = epochs * (len(released) // _BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    generator = np.random.default_rng(seed)
    for _ in range(epochs):
        order = generator.permutation(len(released))
        for start in range(0, len(order) - _BATCH + 1, _BATCH):
            chosen = np.sort(order[start : start + _BATCH])
            loss = nn.functional.mse_loss(
                network(_maps(released[chosen]))[:, 0], torch.from_numpy(pictures[chosen])
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    return InverseNetwork(network)


def _maps(released: Floats) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(released.transpose(0, 3, 1, 2)))
