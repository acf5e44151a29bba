"""One workload: a cut of EfficientNet-Lite0, the noise release, and one frame's payload."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.demo.prepared import BUNDLE, prepare_all
from split_model.arrays import Array
from split_model.bundle import Bundle, Cut
from split_model.privacy import NoisePlan, NoiseRelease, NoiseSpec
from split_model.protocol import messages as wire

#: Per-value epsilon and bits a value: 640 B at cut 59 and 7.8 kB at cut 20.
EPSILON, BITS = 16.0, 4
#: The cuts by what they stand for: a tail of 0.1 ms, of about 2 ms, and of about 4 to 10 ms, as the machine is.
SMALL, MIDDLE, LARGE = 59, 42, 20


@dataclass(frozen=True, kw_only=True)
class Case:
    """A cut with everything that a device sends for one frame."""

    bundle: Bundle
    cut: Cut
    plan: NoisePlan
    features: tuple[Array, ...]
    payload: bytes

    @property
    def tail(self) -> Path:
        """Path of the tail's file."""
        return self.bundle.path(self.cut.tail)

    def request(self) -> wire.Request:
        """A request for this tail; the device writes its number, boot id and due time."""
        return wire.Request(
            request_id=0,
            boot_id="boot",
            version=1,
            bundle=self.bundle.identity,
            cut=self.cut.index,
            release=wire.Noise(spec=self.plan.spec, digest=self.plan.digest),
            total_bytes=len(self.payload),
            due_in_s=0.0,
        )


def open_case(cut_index: int, *, epsilon: float = EPSILON, bits: int = BITS) -> Case:
    """Make a case: random features at a cut, released with noise as on a device."""
    bundle = _bundle()
    cut = bundle.cut(cut_index)
    rng = np.random.default_rng(0)
    features = tuple(rng.random(tensor.shape).astype(tensor.dtype) for tensor in cut.tensors)
    plan = NoisePlan.make(NoiseSpec(epsilon=epsilon, bits=bits), cut.tensors, cut.calibration or ())
    payload = bytes(NoiseRelease(plan, entropy=os.urandom)(features))
    return Case(bundle=bundle, cut=cut, plan=plan, features=features, payload=payload)


@functools.cache
def _bundle() -> Bundle:
    return prepare_all()


def peer_case(cut_index: int) -> Case:
    """`open_case` for a child process, which prepares the bundle only if it is absent."""
    if not (BUNDLE / "manifest.json").is_file():
        prepare_all()
    return open_case(cut_index)
