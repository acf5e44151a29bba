"""White-box maximum likelihood: the picture whose features make what arrived most likely, smoothed.

He, Zhang and Lee, "Model inversion attacks against collaborative inference" (ACSAC 2019), section "white-box":
gradient descent on the picture, with total variation as the prior. Here the distance is the log-likelihood of the
mechanism: Laplace noise of the channel's scale, and squared error without noise. It begins at the picture of the
inverse network, and the weight of the prior is chosen on public pictures, which the attacker releases himself.
Another prior, as the learned one, takes the place of total variation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from split_model.audit.pictures import Floats, PictureSpace
from split_model.audit.quality import similarity

#: Weights of the prior that are tried, relative to the likelihood of one value.
_PRIORS = (0.0, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
_RATE = 0.1
_SMALL = 1e-6
#: The slope beyond the clip range.
_BACK = 0.1
#: Frames that are inverted at once: a head's gradient takes memory.
_AT_ONCE = 8
#: The part of the steps that choosing the prior takes.
_TUNING = 0.2

#: Torch inputs to the live tensors, with a gradient.
Head = Callable[[Sequence[Any]], Sequence[Any]]
#: Torch pictures [n, height, width, channels] and the step, to how unlikely they are as pictures, over the frames.
Penalty = Callable[[Any, int], Any]


def total_variation(pictures: Any, _step: int) -> Any:
    """Mean difference of neighbouring pixels, summed over the frames."""
    down = (pictures[:, 1:] - pictures[:, :-1]).abs().mean(dim=(1, 2, 3))
    across = (pictures[:, :, 1:] - pictures[:, :, :-1]).abs().mean(dim=(1, 2, 3))
    return (down + across).sum()


@dataclass(frozen=True)
class Noise:
    """What a release does to features, for the likelihood.

    Attributes:
        spread: The noise's scale of each value, by tensor; None without noise.
        limits: The lowest and highest value that each channel is clipped to, by tensor; None without.

    """

    spread: Sequence[Floats] | None = None
    limits: Sequence[tuple[Floats, Floats]] | None = None


class WhiteBox:
    """Inverts releases of one cut.

    Args:
        head: The head with a gradient.
        space: Between pictures and the model's input.
        noise: What the release does to the features.
        steps: Of gradient descent.
        penalty: The prior; total variation unless given.

    Attributes:
        prior: The weight of the prior.
        helps: Whether following the gradient made the public pictures better than the start was; if not, the
            start is all that a call returns.

    """

    def __init__(
        self,
        head: Head,
        space: PictureSpace,
        noise: Noise,
        *,
        steps: int,
        penalty: Penalty = total_variation,
    ) -> None:
        self.prior, self.helps = _PRIORS[0], True
        self._head, self._space, self._noise, self._steps = head, space, noise, steps
        self._penalty = penalty

    def tune(self, pictures: Floats, arrived: Sequence[Sequence[Floats]], start: Floats) -> None:
        """Choose the prior on public pictures [n, ...] and one release of each; ``start`` as in a call."""
        scores = []
        for prior in _PRIORS:
            self.prior = prior
            found = self._invert(arrived, start, max(1, round(_TUNING * self._steps)))
            scores.append(float(np.mean(similarity(found, pictures))))
        self.prior = _PRIORS[int(np.argmax(scores))]
        self.helps = max(scores) > float(np.mean(similarity(start, pictures)))

    def __call__(self, arrived: Sequence[Sequence[Floats]], start: Floats) -> Floats:
        """Invert one release each of some frames.

        Args:
            arrived: By frame, the live tensors [1, ...] in real units.
            start: Pictures to begin from [n, height, width, channels].

        Returns:
            Pictures [n, height, width, channels].

        """
        if not self.helps:
            return start
        parts = [
            self._invert(arrived[at : at + _AT_ONCE], start[at : at + _AT_ONCE], self._steps)
            for at in range(0, len(arrived), _AT_ONCE)
        ]
        return np.concatenate(parts)

    def _invert(self, arrived: Sequence[Sequence[Floats]], start: Floats, steps: int) -> Floats:
        import torch

        wanted = [torch.from_numpy(np.concatenate(parts)) for parts in zip(*arrived, strict=True)]
        scales = None if self._noise.spread is None else [torch.from_numpy(one) for one in self._noise.spread]
        begin = np.clip(start, 0.02, 0.98).astype(np.float32)
        logits = torch.from_numpy(np.log(begin / (1 - begin))).requires_grad_(True)
        optimizer = torch.optim.Adam([logits], _RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps):
            pictures = torch.sigmoid(logits)
            features = self._clipped(self._head([self._space.torch_inputs(pictures)]))
            loss = _distance(features, wanted, scales)
            if self.prior:
                loss = loss + self.prior * self._penalty(pictures, step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        found: Floats = torch.sigmoid(logits).detach().numpy()
        return found

    def _clipped(self, features: Sequence[Any]) -> Sequence[Any]:
        """The features as they are before the noise. A little gradient leads back from beyond the clip range."""
        import torch

        if self._noise.limits is None:
            return features
        found = []
        for one, (low, high) in zip(features, self._noise.limits, strict=True):
            inside = torch.minimum(torch.maximum(one, torch.from_numpy(low)), torch.from_numpy(high))
            outside = (one != inside).float()
            found.append(inside + _BACK * outside * (one - one.detach()))
        return found


def _distance(features: Sequence[Any], wanted: Sequence[Any], scales: Sequence[Any] | None) -> Any:
    """Negative log-likelihood a value, summed over the frames."""
    total, values = 0.0, 0
    for at, (ours, theirs) in enumerate(zip(features, wanted, strict=True)):
        difference = ours - theirs
        if scales is None:
            total = total + (difference**2 / (theirs.var() + _SMALL)).sum()
        else:
            # Smooth near zero, for the gradient; the noise is discrete there anyway.
            scaled = difference / (scales[at] + _SMALL)
            total = total + ((scaled**2 + 0.01).sqrt() * (scales[at] > 0)).sum()
        values += ours[0].numel()
    return total / values
