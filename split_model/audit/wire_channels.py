"""The channels of a noise plan, and frames made in the features' space: every value of a channel at one place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from split_model.arrays import Array
from split_model.features.preprocess import to_stored
from split_model.privacy import NoisePlan
from split_model.privacy.release import channel_numbers

#: A number for each channel.
Places = NDArray[np.float64]

#: The claim that a pair of frames is chosen for: ratios near e can be told from twice that with few trials.
_WANTED_CLAIM = 1.0


@dataclass
class Channels:
    """Every channel of a plan, tensor after tensor: its grid, and the columns of its values in a payload."""

    plan: NoisePlan
    columns: list[NDArray[np.intp]]
    epsilon: Places
    steps: Places
    tail: Places
    low: Places
    width: Places

    @classmethod
    def of(cls, plan: NoisePlan) -> Channels:
        """Of a plan; a channel without a range counts as one whose steps are all the same value."""
        columns: list[NDArray[np.intp]] = []
        numbers: list[list[float]] = [[], [], [], [], []]
        first = 0
        for at, (tensor, class_of) in enumerate(zip(plan.tensors, plan.class_of, strict=True)):
            low, width, steps, tail = channel_numbers(plan, at)
            count = len(class_of)
            columns += [first + np.arange(channel, tensor.size, count) for channel in range(count)]
            epsilons = [plan.classes[one].epsilon for one in class_of]
            for index, new in enumerate((epsilons, steps, tail, low, width)):
                numbers[index] += np.broadcast_to(np.asarray(new, np.float64), count).tolist()
            first += tensor.size
        epsilon, steps_of, tails, lows, widths = (np.array(one, np.float64) for one in numbers)
        return cls(plan, columns, epsilon, steps_of, tails, lows, widths)

    @property
    def count(self) -> int:
        """Number of channels."""
        return len(self.columns)

    @property
    def fewest(self) -> int:
        """Values of the channel that has the fewest."""
        return min(len(one) for one in self.columns)

    def grids(self) -> list[list[int]]:
        """Channels grouped by their ε, steps and tail."""
        found: dict[tuple[float, float, float], list[int]] = {}
        for channel in range(self.count):
            if self.width[channel] > 0:
                key = (self.epsilon[channel], self.steps[channel], self.tail[channel])
                found.setdefault(key, []).append(channel)
        return list(found.values())

    def pair(self) -> tuple[Places, Places]:
        """Two places on each channel's grid, apart by about `_WANTED_CLAIM`; the same one without a range."""
        wanted = np.rint(_WANTED_CLAIM * self.steps / self.epsilon)
        apart = np.where(self.width > 0, np.clip(wanted, 1, self.steps), 0)
        low = np.floor((self.steps - apart) / 2)
        return low, low + apart

    def real(self, places: Places) -> list[Array]:
        """Features whose values lie at these places [channels] of the grids."""
        return self._features(self.low + self.width * places / np.maximum(self.steps, 1))

    def beyond(self, widths: float) -> list[Array]:
        """Features that lie a number of clip widths above the clip range, or below."""
        rim = self.low + self.width if widths > 0 else self.low
        return self._features(rim + widths * self.width)

    def _features(self, values: Places) -> list[Array]:
        found, first = [], 0
        for tensor, class_of in zip(self.plan.tensors, self.plan.class_of, strict=True):
            part = values[first : first + len(class_of)]
            first += len(class_of)
            real = np.ascontiguousarray(np.broadcast_to(part, (tensor.size // len(class_of), len(class_of))))
            found.append(to_stored(real.reshape(tensor.shape).astype(np.float32), tensor))
        return found
