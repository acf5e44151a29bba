"""How hard an audit tries, and where its releases take their randomness from."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How hard the attackers try.

    Attributes:
        victims: Pictures attacked.
        steps: Of white-box gradient descent.
        network_s: About the seconds of one core to train each inverse network.
        prior_s: The same for the learned prior, which is trained once.
        averaged: Releases of one frame that the averaging attacker has.
        augmented: Pictures that the inverse network sees, variations included.

    """

    victims: int = 16
    steps: int = 1000
    network_s: float = 240.0
    prior_s: float = 120.0
    averaged: int = 16
    augmented: int = 2000


QUICK = Effort(victims=6, steps=150, network_s=10.0, prior_s=5.0, augmented=400)


class Randomness:
    """Random bytes that begin anew for every piece of work, so that a repeated audit finds the same.

    For the audit's own releases alone: a device draws from its operating system.
    """

    def __init__(self) -> None:
        self._source = random.Random()  # noqa: S311  no secret is protected here

    def restart(self, label: str) -> None:
        """Begin the bytes of one piece of work."""
        self._source = random.Random(hashlib.sha256(label.encode()).digest())  # noqa: S311

    def __call__(self, count: int) -> bytes:
        """See `os.urandom`."""
        return self._source.randbytes(count)
