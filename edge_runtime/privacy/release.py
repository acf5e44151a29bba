"""What leaves the device: the features of one cut, turned into the bytes of a release.

Built once per cut, before the first frame at it; the hot path is one call. The entropy source is handed in by
the program's ``main`` and by nothing else.
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
#: Every cut's release plan, by the cut's op index; None where features leave unprotected.
ReleasePlans = dict[int, NoisePlan | CodebookPlan | None]


def plan_for(cut: Cut, spec: NoiseSpec | CodebookSpec | None) -> NoisePlan | CodebookPlan | None:
    """The plan of a cut's release, None where features go out unprotected. `ConfigError` without calibration."""
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
    """Every cut's plan, made once: a head that comes back after a while needs it again. Raises as `plan_for`."""
    return {cut.index: plan_for(cut, release.spec_at(cut)) for cut in cuts}


class Release:
    """One cut's way out, by its plan or, without one, as it is.

    ``whole_input_epsilon`` is what one frame costs; it says nothing unless ``protected``. ``root``: the bundle's
    folder, where a codebook is read from.
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
            assert root is not None  # who has a codebook has a bundle
            encoder = read_encoder(root / plan.book.file.path, plan.book, cut.tensors)
            self._mechanism = CodebookRelease(plan, encoder, entropy=entropy)
            self.descriptor = wire.Codebook(spec=plan.spec, digest=plan.digest)
        if plan is not None:
            self.payload_bytes = plan.payload_bytes
            self.per_value_epsilon_max = plan.per_value_epsilon_max
            self.whole_input_epsilon = plan.whole_input_epsilon

    def __call__(self, features: Sequence[Array]) -> memoryview:
        """The payload of one frame, ``payload_bytes`` long whatever the content. Spends the features' arrays."""
        if self._mechanism is not None:
            return self._mechanism(features).data
        flat = [np.ascontiguousarray(tensor).view(np.uint8).reshape(-1) for tensor in features]
        return (flat[0] if len(flat) == 1 else np.concatenate(flat)).data
