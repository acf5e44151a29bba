"""The plan of a noise release: every integer that device and server must agree on.

Both sides make it from the same manifest and the same `NoiseSpec`; the digest tells whether they did.
The mechanism, per value of channel c with the public clip range [lo, hi]: NaN counts as lo; round onto
the integers 0..L_c and clip; add discrete Laplace noise with P(x) ∝ exp(-abs(x)·ε_c/L_c); clamp to the
wire range. One value replaced by any other moves the integer by at most L_c, so each value has pure
ε_c-DP; one frame replaced by any other frame may move them all, so the frame has pure Σ n_c·ε_c.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import msgspec

from split_model.bundle.manifest import Allocation, ChannelCalibration, TensorSpec
from split_model.errors import BadBundleError, BadInputError, ConfigError
from split_model.privacy import accountant
from split_model.privacy.allocation import Channel, Sharing
from split_model.privacy.events import ChannelNoise, LaplaceEvent
from split_model.privacy.grid import MAX_BITS, MIN_BITS, Grid, least_epsilon, make_grid
from split_model.privacy.layout import channels_of
from split_model.privacy.packing import packed_bytes

QUANTISED = ("int8", "uint8", "int16")
FLOATS = ("float32", "float16")
MAX_EPSILON = float(1 << 20)
#: The default release of a device: mean per-value epsilon, and bits per value (see `default_bits`).
DEFAULT_EPSILON, DEFAULT_BITS = 16.0, 4
_MECHANISM = b"discrete-laplace-1"
MAX_BOUND = 1e30  # keeps every product of the hot path inside float32


class NoiseSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The user's choice of a noise release.

    ``epsilon``: mean per-value ε over all values of the cut; the whole-input budget of a frame is values × epsilon.
    ``allocation``: how it is shared among channels. ``bits``: 4 to 8 bits a value on the wire.
    Raises `ConfigError` for a value that is out of range.
    """

    epsilon: float
    allocation: Allocation = "optimal"
    bits: int = 8

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= MAX_EPSILON:  # refuses NaN too
            raise ConfigError(
                f"epsilon = {self.epsilon:g}",
                remedy=f"per-value epsilon must be above 0 and at most {MAX_EPSILON:g}",
            )
        if self.allocation not in ("uniform", "rank", "optimal"):
            raise ConfigError(f"allocation = {self.allocation!r}", remedy="choose uniform, rank or optimal")
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise ConfigError(
                f"bits = {self.bits}", remedy=f"a value takes {MIN_BITS} to {MAX_BITS} bits on the wire"
            )
        if self.epsilon < least_epsilon(self.bits):
            raise ConfigError(
                f"epsilon = {self.epsilon:g} is too small for {self.bits} bits a value, whose least per-value "
                f"epsilon is {least_epsilon(self.bits):.3g}",
                remedy="raise epsilon or bits",
            )


def default_bits(epsilon: float) -> int:
    """The default bits per value for an epsilon.

    It is the smallest number, from `DEFAULT_BITS` on, that can carry noise of a per-value ``epsilon`` and whose
    rounding adds at most half of the noise's energy: rounding to L steps has the variance 1/12, the noise 2·(L/ε)².
    """
    for bits in range(DEFAULT_BITS, MAX_BITS):
        if epsilon >= least_epsilon(bits) and epsilon**2 <= 12 * make_grid(epsilon, bits).steps ** 2:
            return bits
    return MAX_BITS


@dataclass(frozen=True, slots=True)
class NoisePlan:
    """The plan of a noise release, see `make`. ``classes``: distinct grids; ``class_of``: each channel's."""

    spec: NoiseSpec
    tensors: tuple[TensorSpec, ...]
    calibration: tuple[ChannelCalibration, ...]
    classes: tuple[Grid, ...]
    class_of: tuple[tuple[int, ...], ...]
    payload_bytes: int
    digest: str

    @classmethod
    def make(
        cls, spec: NoiseSpec, tensors: Sequence[TensorSpec], calibration: Sequence[ChannelCalibration]
    ) -> NoisePlan:
        """Share the budget and choose the grids.

        ``calibration`` has one entry a tensor. Raises `BadInputError` for a tensor that cannot be
        released and `BadBundleError` for a calibration that does not fit its tensor.
        """
        return PlanMaker(tensors, calibration).make(spec)

    @property
    def values(self) -> int:
        """Feature values of one frame."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def per_value_epsilon_max(self) -> float:
        """Pure ε of the least protected feature value (one feature value replaced by any other)."""
        return accountant.per_value_epsilon_max(self.event())

    @property
    def per_value_epsilon_mean(self) -> float:
        """Mean over all values of the pure per-value ε; never above ``spec.epsilon``."""
        return accountant.per_value_epsilon_mean(self.event())

    @property
    def whole_input_epsilon(self) -> float:
        """Pure ε of one frame (one frame replaced by any other): the sum over all its values."""
        return accountant.whole_input_epsilon(self.event())

    def event(self) -> LaplaceEvent:
        """What one release of one frame does, for the accountant."""
        return LaplaceEvent(
            channels=tuple(
                ChannelNoise(values=tensor.size // len(class_of), epsilon=self.classes[index].epsilon)
                for tensor, class_of in zip(self.tensors, self.class_of, strict=True)
                for index in class_of
            )
        )


class PlanMaker:
    """Makes the plans of one cut; computes the parts independent of the spec once.

    Safe for several threads: at worst one of them computes what another has just computed.
    """

    def __init__(self, tensors: Sequence[TensorSpec], calibration: Sequence[ChannelCalibration]) -> None:
        """See `NoisePlan.make`."""
        self._tensors, self._calibration = tuple(tensors), tuple(calibration)
        self._channels = cut_channels(tensors, calibration)
        self._sharing: dict[Allocation, Sharing] = {}
        self._ranges = [_range_bytes(*pair) for pair in zip(tensors, calibration, strict=True)]

    def make(self, spec: NoiseSpec) -> NoisePlan:
        """Share the budget and choose the grids."""
        sharing = self._sharing.get(spec.allocation)
        if sharing is None:
            sharing = self._sharing[spec.allocation] = Sharing(spec.allocation, self._channels)
        epsilons = sharing.allocate(spec.epsilon, least=least_epsilon(spec.bits))
        distinct = sorted(set(epsilons))
        index = {epsilon: at for at, epsilon in enumerate(distinct)}
        classes = tuple(make_grid(epsilon, spec.bits) for epsilon in distinct)
        class_of = []
        first = 0
        for tensor in self._tensors:
            last = first + channels_of(tensor)
            class_of.append(tuple([index[epsilon] for epsilon in epsilons[first:last]]))
            first = last
        return NoisePlan(
            spec=spec,
            tensors=self._tensors,
            calibration=self._calibration,
            classes=classes,
            class_of=tuple(class_of),
            payload_bytes=packed_bytes(sum(tensor.size for tensor in self._tensors), spec.bits),
            digest=_digest(spec.bits, self._ranges, classes, class_of),
        )


def cut_channels(tensors: Sequence[TensorSpec], calibration: Sequence[ChannelCalibration]) -> list[Channel]:
    """All channels of a cut in tensor order, as input of the allocators; errors as in `NoisePlan.make`."""
    if len(tensors) != len(calibration) or not tensors:
        raise BadBundleError(
            f"{len(calibration)} calibrations for {len(tensors)} tensors", remedy="prepare the bundle again"
        )
    channels = []
    for tensor, known in zip(tensors, calibration, strict=True):
        _check_tensor(tensor)
        _check_calibration(tensor, known)
        count = channels_of(tensor)
        channels += [
            Channel(values=tensor.size // count, width=Fraction(high) - Fraction(low), rank=rank, weight=weight)
            for low, high, rank, weight in zip(
                known.clip_low, known.clip_high, known.rank, known.weight, strict=True
            )
        ]
    return channels


def why_unreleasable(tensor: TensorSpec) -> str | None:
    """Why noise cannot be added to a tensor; None if it can."""
    if tensor.dtype not in FLOATS + QUANTISED:
        return f"tensor {tensor.name!r} of dtype {tensor.dtype} cannot be released with noise"
    if tensor.dtype in QUANTISED and not (math.isfinite(tensor.scale) and tensor.scale > 0):
        return f"tensor {tensor.name!r} of dtype {tensor.dtype} has no scale and cannot be released"
    if tensor.size < 1 or tensor.open_axes:
        return f"tensor {tensor.name!r} of shape {list(tensor.shape)} has no fixed number of values to release"
    return None


def _check_tensor(tensor: TensorSpec) -> None:
    reason = why_unreleasable(tensor)
    if reason is not None:
        raise BadInputError(reason, remedy="cut elsewhere")


def _check_calibration(tensor: TensorSpec, known: ChannelCalibration) -> None:
    columns = (known.clip_low, known.clip_high, known.rank, known.weight)
    if any(len(column) != channels_of(tensor) for column in columns):
        raise BadBundleError(
            f"tensor {tensor.name!r} and its calibration differ in channels", remedy="prepare the bundle again"
        )
    for low, high, rank, weight in zip(*columns, strict=True):
        if not (-MAX_BOUND <= low <= high <= MAX_BOUND and 0 <= rank < math.inf and 0 <= weight < math.inf):
            raise BadBundleError(
                f"tensor {tensor.name!r} has a calibration that is not finite and ordered",
                remedy="prepare the bundle again",
            )


def _range_bytes(tensor: TensorSpec, ranges: ChannelCalibration) -> bytes:
    """The part of the digest for one tensor that is independent of its classes."""
    channels = channels_of(tensor)
    return b"".join(
        [
            repr((tensor.shape, tensor.dtype)).encode(),
            struct.pack("<dq", tensor.scale, tensor.zero_point),
            struct.pack(f"<{channels}d", *ranges.clip_low),
            struct.pack(f"<{channels}d", *ranges.clip_high),
        ]
    )


def _digest(bits: int, ranges: Sequence[bytes], classes: Sequence[Grid], class_of: Sequence[Sequence[int]]) -> str:
    """16 hex digits over the mechanism and every number the receiver computes with; floats by their bits."""
    known = hashlib.sha256(_MECHANISM)
    known.update(struct.pack("<II", bits, len(ranges)))
    for grid in classes:
        known.update(struct.pack("<dIII", grid.epsilon, grid.steps, grid.tail, grid.wire_max))
    for tensor_bytes, indices in zip(ranges, class_of, strict=True):
        known.update(tensor_bytes)
        known.update(bytes(indices))
    return known.hexdigest()[:16]
