"""Turns the features of one cut into the bytes of a release, the only content that leaves the device.

A release is built once per cut, before its first frame; the hot path is one call. Only the program's ``main``
passes in the entropy source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from edge_runtime.config.release import ReleaseTable
from split_model.arrays import Array
from split_model.bundle import Cut
from split_model.errors import ConfigError
from split_model.privacy import CodebookPlan, CodebookRelease, CodebookSpec, NoisePlan, NoiseRelease, NoiseSpec
from split_model.privacy.codebook_file import read_encoder
from split_model.protocol import messages as wire

Entropy = Callable[[int], bytes]
#: Release plans by the cuts' op index; None: the features leave unprotected.
ReleasePlans = dict[int, NoisePlan | CodebookPlan | None]


def plan_for(cut: Cut, spec: NoiseSpec | CodebookSpec | None) -> NoisePlan | CodebookPlan | None:
    """Plan a cut's release; None if features leave unprotected. `ConfigError` without calibration."""
    if spec is None:
        return None
    if isinstance(spec, CodebookSpec):
        return CodebookPlan.make(spec, cut)
    if cut.calibration is None:
        raise ConfigError(
            f"cut {cut.index} has no calibration, so nothing may leave at it",
            remedy="prepare the bundle with --calibration, or set release.mechanism = 'none' if the features need "
            "no protection",
        )
    return NoisePlan.make(spec, cut.tensors, cut.calibration)


def plans_for(cuts: Iterable[Cut], release: ReleaseTable) -> ReleasePlans:
    """Plan the release of every cut once: a head that is loaded again needs it again. Raises as `plan_for`."""
    return {cut.index: plan_for(cut, release.spec_at(cut)) for cut in cuts}


class Release:
    """The release of one cut by its plan; without a plan, features leave unprotected.

    ``whole_input_epsilon``: the cost of one frame; only valid if ``protected``. ``root``: the bundle's folder, from
    which a codebook is read.
    """

    def __init__(
        self, cut: Cut, plan: NoisePlan | CodebookPlan | None, *, entropy: Entropy, root: Path | None = None
    ) -> None:
        self.protected = plan is not None
        self.per_value_epsilon_max = 0.0
        self.whole_input_epsilon = 0.0
        self.descriptor: wire.Release = wire.NoRelease()
        self.payload_bytes = cut.raw_bytes
        self._mechanism: NoiseRelease | CodebookRelease | None = None
        if isinstance(plan, NoisePlan):
            self._mechanism = NoiseRelease(plan, entropy=entropy)
            self.descriptor = wire.Noise(spec=plan.spec, digest=plan.digest)
        elif plan is not None:
            assert root is not None  # a codebook always comes with a bundle
            encoder = read_encoder(root / plan.book.file.path, plan.book, cut.tensors)
            self._mechanism = CodebookRelease(plan, encoder, entropy=entropy)
            self.descriptor = wire.Codebook(spec=plan.spec, digest=plan.digest)
        if plan is not None:
            self.payload_bytes = plan.payload_bytes
            self.per_value_epsilon_max = plan.per_value_epsilon_max
            self.whole_input_epsilon = plan.whole_input_epsilon

    def __call__(self, features: Sequence[Array]) -> memoryview:
        """Return the payload of one frame, always ``payload_bytes`` long. Overwrites the features' arrays."""
        if self._mechanism is not None:
            return self._mechanism(features).data
        flat = [np.ascontiguousarray(tensor).view(np.uint8).reshape(-1) for tensor in features]
        return (flat[0] if len(flat) == 1 else np.concatenate(flat)).data
