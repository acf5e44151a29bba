"""A prior learned from public pictures: a denoiser that says what a picture looks like.

Venkatakrishnan, Bouman and Wohlberg, "Plug-and-play priors for model based reconstruction" (GlobalSIP 2013), in the
form of Romano, Elad and Milanfar, "The little engine that could" (SIAM J. Imaging Sciences 2017): the penalty of a
picture is its distance from the same picture denoised, and the white-box attacker adds it to the likelihood of what
arrived. The denoiser is small, and trained on patches of public pictures at noise of every strength.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from split_model.audit.pictures import Floats

_WIDTH = 32
_LAYERS = 4
_PATCH = 40
_BATCH = 32
_RATE = 2e-3
_WEAKEST, _STRONGEST = 0.02, 0.25
#: The strength of noise that the penalty takes out.
_AT = 0.08
#: Steps of the white box between two looks of the denoiser, which costs more than an early head.
_EVERY = 5
_MACS_A_SECOND = 30e9
_LEAST_STEPS, _MOST_STEPS = 60, 5000


class LearnedPrior:
    """A denoiser of pictures.

    Args:
        weights: Kernel and bias of each layer.
        gain_db: By how much it raises the PSNR of public pictures with noise of the strength that the penalty uses.

    """

    def __init__(self, weights: Sequence[Floats], gain_db: float) -> None:
        import torch

        self.gain_db = gain_db
        self._weights = [torch.from_numpy(np.ascontiguousarray(one)) for one in weights]
        self._target: Any = None

    @classmethod
    def train(cls, pictures: Floats, *, budget_s: float, seed: int = 0) -> LearnedPrior:
        """Train on public pictures [n, height, width, channels].

        Args:
            pictures: What it learns from.
            budget_s: About the seconds that one core trains; counted in work, so that it comes out the same again.
            seed: Of weights and noise.

        """
        import torch
        from torch.nn import functional

        torch.manual_seed(seed)
        generator = np.random.default_rng(seed)
        weights = _layers(pictures.shape[3])
        side = min(_PATCH, pictures.shape[1], pictures.shape[2])
        macs = 3 * _BATCH * side**2 * sum(one.numel() for one in weights)
        steps = int(np.clip(budget_s * _MACS_A_SECOND / macs, _LEAST_STEPS, _MOST_STEPS))
        optimizer = torch.optim.Adam(weights, _RATE)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = _RATE * (1 - 0.95 * step / steps)
            clean = _patches(pictures, side, generator)
            strength = torch.exp(torch.empty(len(clean), 1, 1, 1).uniform_(np.log(_WEAKEST), np.log(_STRONGEST)))
            noisy = clean + strength * torch.randn_like(clean)
            loss = functional.mse_loss(_denoised(weights, noisy, strength), clean)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return cls(
            [one.detach().numpy() for one in weights], _gain_db(weights, _patches(pictures, side, generator))
        )

    def save(self, path: Path) -> None:
        """Write it where `load` finds it."""
        with path.with_suffix(".part").open("wb") as file:
            np.savez(
                file, gain_db=self.gain_db, **{f"w{at:03}": one.numpy() for at, one in enumerate(self._weights)}
            )
        path.with_suffix(".part").replace(path)

    @classmethod
    def load(cls, path: Path) -> LearnedPrior:
        """Read what `save` wrote."""
        with np.load(path) as file:
            return cls([file[name] for name in sorted(file.files) if name != "gain_db"], float(file["gain_db"]))

    def __call__(self, pictures: Any, step: int) -> Any:
        """The penalty, see `white_box.Penalty`."""
        import torch

        if step % _EVERY == 0 or self._target is None or self._target.shape != pictures.shape:
            with torch.no_grad():
                maps = pictures.permute(0, 3, 1, 2)
                strength = torch.full((len(maps), 1, 1, 1), _AT)
                self._target = _denoised(self._weights, maps, strength).permute(0, 2, 3, 1)
        return ((pictures - self._target) ** 2).mean(dim=(1, 2, 3)).sum() / _AT


def _denoised(weights: Sequence[Any], noisy: Any, strength: Any) -> Any:
    """The picture less the noise that the network finds in it."""
    import torch
    from torch.nn import functional

    values = torch.cat([noisy, strength.expand(len(noisy), 1, *noisy.shape[2:])], dim=1)
    last = len(weights) // 2 - 1
    for at in range(last + 1):
        values = functional.conv2d(values, weights[2 * at], weights[2 * at + 1], padding=1)
        if at < last:
            values = functional.relu(values)
    return noisy - values


def _gain_db(weights: Sequence[Any], clean: Any) -> float:
    import torch

    with torch.no_grad():
        noisy = clean + _AT * torch.randn_like(clean)
        strength = torch.full((len(clean), 1, 1, 1), _AT)
        after = ((_denoised(weights, noisy, strength) - clean) ** 2).mean()
        return float(10 * torch.log10(((noisy - clean) ** 2).mean() / after))


def _layers(channels: int) -> list[Any]:
    import torch

    widths = [channels + 1, *[_WIDTH] * (_LAYERS - 1), channels]
    found: list[Any] = []
    for before, after in pairwise(widths):
        found.append((torch.randn(after, before, 3, 3) * (1 / (9 * before)) ** 0.5).requires_grad_(True))
        found.append(torch.zeros(after, requires_grad=True))
    return found


def _patches(pictures: Floats, side: int, generator: np.random.Generator) -> Any:
    """A batch of patches [batch, channels, side, side] as a torch tensor."""
    import torch

    chosen = generator.integers(len(pictures), size=_BATCH)
    tops = generator.integers(pictures.shape[1] - side + 1, size=_BATCH)
    lefts = generator.integers(pictures.shape[2] - side + 1, size=_BATCH)
    parts = [
        pictures[one, top : top + side, left : left + side].transpose(2, 0, 1)
        for one, top, left in zip(chosen.tolist(), tops.tolist(), lefts.tolist(), strict=True)
    ]
    return torch.from_numpy(np.stack(parts))
