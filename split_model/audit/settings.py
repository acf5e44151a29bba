"""What is attacked: a cut with one way to release its features, as the device has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from split_model.arrays import Array
from split_model.audit.likelihood import CodebookLikelihood, Likelihood, NoiseLikelihood
from split_model.bundle import Bundle, Cut
from split_model.features.preprocess import to_real
from split_model.privacy import (
    AllocationWish,
    CodebookPlan,
    CodebookRelease,
    CodebookSpec,
    NoisePlan,
    NoiseRelease,
    NoiseSpec,
    recover,
    recover_codebook,
    settle,
)
from split_model.privacy.codebook import codeword_bytes
from split_model.privacy.codebook_file import read_decoder, read_encoder
from split_model.privacy.packing import packed_bytes
from split_model.privacy.plan import default_bits
from split_model.privacy.release import channel_numbers

Floats = NDArray[np.float32]
Entropy = Callable[[int], bytes]


@dataclass(frozen=True)
class Setting:
    """One way to release one cut.

    Attributes:
        cut: Where.
        spec: Of the release; None without protection.
        mechanism: ``none``, ``noise`` or ``codebook``.
        name: For people, with the ε and its unit.
        per_value_epsilon: Of noise, the mean of the channels; None else.
        whole_input_epsilon: Infinite without protection.
        send: Features to a payload, with fresh randomness.
        read: A payload to features as the tail gets them.
        spread: By tensor, the scale of the noise of each value in real units; None where there is none.
        limits: By tensor, the clip range of each channel; None where nothing is clipped.
        likelihood: The exact likelihood of payloads for candidates; None without a mechanism.

    """

    cut: Cut
    spec: NoiseSpec | CodebookSpec | None
    mechanism: str
    name: str
    per_value_epsilon: float | None
    whole_input_epsilon: float
    send: Callable[[Sequence[Array]], Array]
    read: Callable[[Array], list[Array]]
    spread: tuple[Floats, ...] | None
    limits: tuple[tuple[Floats, Floats], ...] | None
    likelihood: Callable[[Sequence[Sequence[Array]]], Likelihood] | None

    @property
    def payload_bytes(self) -> int:
        """Bytes that leave for one frame."""
        if isinstance(self.spec, NoiseSpec):
            return packed_bytes(self.cut.values, self.spec.bits)
        if isinstance(self.spec, CodebookSpec):
            return self.spec.groups * codeword_bytes(self.spec.codewords)
        return self.cut.raw_bytes

    def arrive(self, features: Sequence[Array]) -> list[Floats]:
        """One release of one frame as the server has it, in real units."""
        taken = self.read(self.send([one.copy() for one in features]))
        return [to_real(one, spec) for one, spec in zip(taken, self.cut.tensors, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """Which settings to attack.

    Attributes:
        epsilons: Mean per-value ε of the noise release.
        allocations: How its budget is shared among the channels.
        bits: Of its grid; None takes the default of a config for each ε.
        codebook_epsilons: Whole-input ε of the codebook release.

    """

    epsilons: Sequence[float] = (4.0, 8.0, 16.0)
    allocations: Sequence[AllocationWish] = ("auto",)
    bits: int | None = None
    codebook_epsilons: Sequence[float] = (8.0,)


def settings(bundle: Bundle, cut: Cut, wishes: Wishes, entropy: Entropy) -> list[Setting]:
    """Every setting of a cut: without protection, with noise at each ε, and its codebooks."""
    found = [_plain(cut)]
    if cut.calibration is not None:
        found += [
            _noise(cut, epsilon, wishes.bits, allocation, entropy)
            for epsilon in wishes.epsilons
            for allocation in wishes.allocations
        ]
    for book in cut.codebooks:
        for epsilon in wishes.codebook_epsilons:
            spec = CodebookSpec(epsilon=epsilon, codewords=book.codewords, groups=book.groups)
            found.append(_codebook(bundle, cut, spec, entropy))
    return found


def describe(spec: NoiseSpec | CodebookSpec) -> str:
    """A release in words, with the unit of its ε."""
    if isinstance(spec, CodebookSpec):
        groups = f" in {spec.groups} groups" if spec.groups > 1 else ""
        return f"codebook of {spec.codewords}{groups}, {spec.epsilon:g} a frame"
    return f"noise, {spec.allocation}, {spec.epsilon:g} a value in {spec.bits} bits"


def _plain(cut: Cut) -> Setting:
    ends = np.cumsum([spec.nbytes for spec in cut.tensors])[:-1]

    def send(features: Sequence[Array]) -> Array:
        return np.concatenate([np.frombuffer(np.ascontiguousarray(one).tobytes(), np.uint8) for one in features])

    def read(payload: Array) -> list[Array]:
        parts = np.split(payload, ends)
        return [
            np.frombuffer(part.tobytes(), spec.dtype).reshape(spec.shape)
            for part, spec in zip(parts, cut.tensors, strict=True)
        ]

    return Setting(cut, None, "none", "unprotected", None, float("inf"), send, read, None, None, None)


def _noise(cut: Cut, epsilon: float, bits: int | None, allocation: AllocationWish, entropy: Entropy) -> Setting:
    bits = default_bits(epsilon) if bits is None else bits
    spec = NoiseSpec(epsilon=epsilon, bits=bits, allocation=settle(allocation, cut, epsilon))
    plan = NoisePlan.make(spec, cut.tensors, cut.calibration or ())
    return Setting(
        cut,
        spec,
        "noise",
        describe(spec),
        epsilon,
        plan.whole_input_epsilon,
        NoiseRelease(plan, entropy=entropy),
        lambda payload: list(recover(plan, payload)),
        _spread(plan),
        _limits(plan),
        partial(NoiseLikelihood, plan),
    )


def _spread(plan: NoisePlan) -> tuple[Floats, ...]:
    """The scale b of each value's Laplace noise in real units: the clip width over the channel's ε."""
    found = []
    for at, (tensor, classes) in enumerate(zip(plan.tensors, plan.class_of, strict=True)):
        _, width, _, _ = channel_numbers(plan, at)
        scale = width / np.array([plan.classes[index].epsilon for index in classes], np.float64)
        found.append(np.ascontiguousarray(np.broadcast_to(scale, tensor.shape), np.float32))
    return tuple(found)


def _limits(plan: NoisePlan) -> tuple[tuple[Floats, Floats], ...]:
    """The clip range of each channel in real units."""
    found = []
    for at in range(len(plan.tensors)):
        low, width, _, _ = channel_numbers(plan, at)
        found.append((np.asarray(low, np.float32), np.asarray(low + width, np.float32)))
    return tuple(found)


def _codebook(bundle: Bundle, cut: Cut, spec: CodebookSpec, entropy: Entropy) -> Setting:
    plan = CodebookPlan.make(spec, cut)
    path = bundle.path(plan.book.file)
    encoder, decoder = read_encoder(path, plan.book, cut.tensors), read_decoder(path, plan.book, cut.tensors)
    return Setting(
        cut,
        spec,
        "codebook",
        describe(spec),
        None,
        plan.whole_input_epsilon,
        CodebookRelease(plan, encoder, entropy=entropy),
        partial(recover_codebook, plan, decoder),
        None,
        None,
        partial(CodebookLikelihood, plan, encoder),
    )
