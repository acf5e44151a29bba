"""The codebook release: the index of a learned codeword is sent by randomised response.

The head's features are mapped to one of M codewords (each of several groups of channels to one of its own), and the
codeword goes out by k-ary randomised response. The encoder reads the whole frame, so the guarantee is in the
whole input: pure ε, shared evenly among the groups, whose codewords compose in sequence. Nothing else leaves: the
payload has one or two bytes per group, for any frame.

An ε-local release carries at most ε·log2(e) bits of a frame, so at small ε a tail has little left to compute:
the answer is a lookup that the device could do itself. This release is for answers that the *server* consumes.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import msgspec
import numpy as np
from numpy.typing import NDArray

from split_model.arrays import Array
from split_model.bundle.manifest import MAX_CODEWORDS, MAX_GROUPS, Codebook, Cut, TensorSpec
from split_model.errors import BadBundleError, ConfigError, ProtocolError
from split_model.privacy.accountant import round_down, round_up
from split_model.privacy.codebook_file import Decoder, Encoder
from split_model.privacy.events import ResponseEvent
from split_model.privacy.randomised_response import MAX_EPSILON, RandomisedResponse
from split_model.privacy.sampler import Entropy

_MECHANISM = b"codebook-response-1"


class CodebookSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The user's choice. ``epsilon``: pure, in the whole input, of all groups of a frame together.

    ``codewords`` and ``groups`` select one of a cut's codebooks. Raises `ConfigError` for a value out of range.
    """

    epsilon: float
    codewords: int = msgspec.field(name="words")  # the key on the wire, as in version 1 of the protocol
    groups: int = 1

    def __post_init__(self) -> None:
        if not 2 <= self.codewords <= MAX_CODEWORDS or not 1 <= self.groups <= MAX_GROUPS:
            raise ConfigError(
                f"codewords = {self.codewords}, groups = {self.groups}",
                remedy=f"a codebook takes 2 to {MAX_CODEWORDS} codewords and 1 to {MAX_GROUPS} groups",
            )
        if not 0 < self.epsilon <= MAX_EPSILON * self.groups:
            raise ConfigError(
                f"whole_input_epsilon = {self.epsilon:g}",
                remedy=f"a codebook takes more than 0 and at most {MAX_EPSILON:g} a group",
            )
        if self.group_epsilon <= 0:
            raise ConfigError(
                f"whole_input_epsilon = {self.epsilon:g} is too small to share", remedy="raise whole_input_epsilon"
            )

    @property
    def group_epsilon(self) -> float:
        """Each group's share: the largest float that, times the groups, is not above ``epsilon``."""
        return round_down(Fraction(self.epsilon) / self.groups)


@dataclass(frozen=True, slots=True)
class CodebookPlan:
    """The plan of a codebook release, the same on device and server; its digest proves that. Use `make`."""

    spec: CodebookSpec
    tensors: tuple[TensorSpec, ...]
    book: Codebook
    payload_bytes: int
    digest: str

    @classmethod
    def make(cls, spec: CodebookSpec, cut: Cut) -> CodebookPlan:
        """Make the plan for a codebook of some codewords and groups; `BadBundleError` if the cut has none."""
        book = next((b for b in cut.codebooks if (b.codewords, b.groups) == (spec.codewords, spec.groups)), None)
        if book is None:
            raise BadBundleError(
                f"cut {cut.index} has no codebook of {spec.codewords} codewords and {spec.groups} groups",
                remedy="prepare the bundle with --codebook",
            )
        known = hashlib.sha256(_MECHANISM + book.file.sha256.encode())
        known.update(struct.pack("<dII", spec.epsilon, spec.codewords, spec.groups))
        return cls(
            spec=spec,
            tensors=cut.tensors,
            book=book,
            payload_bytes=spec.groups * codeword_bytes(spec.codewords),
            digest=known.hexdigest()[:16],
        )

    @property
    def whole_input_epsilon(self) -> float:
        """Pure ε of one frame (one frame replaced by any other)."""
        return round_up(Fraction(self.spec.group_epsilon) * self.spec.groups)

    @property
    def per_value_epsilon_max(self) -> float:
        """Pure ε of one feature value: that of the frame, because every codeword may depend on any value."""
        return self.whole_input_epsilon

    @property
    def per_value_epsilon_mean(self) -> float:
        """The same for every value."""
        return self.whole_input_epsilon

    def event(self) -> ResponseEvent:
        """The event of one release of one frame, for the accountant."""
        return ResponseEvent(groups=self.spec.groups, epsilon=self.spec.group_epsilon)


def codeword_bytes(codewords: int) -> int:
    """Bytes that one codeword takes on the wire."""
    return 1 if codewords <= 1 << 8 else 2


def keep_probability(codewords: int, epsilon: float) -> float:
    """The probability that randomised response sends the true codeword: e^ε/(e^ε + k - 1)."""
    return 1.0 / (1.0 + (codewords - 1) * math.exp(-epsilon))


def expected_share(book: Codebook, epsilon: float) -> float:
    """The expected share of right answers at whole-input ``epsilon``, from measurements without noise.

    Exact for one group; for several it assumes that one wrong codeword makes the answer wrong.
    """
    kept = float(keep_probability(book.codewords, epsilon / book.groups) ** book.groups)
    return kept * book.lookup + (1.0 - kept) * book.chance


def settle_codebook(
    cut: Cut, epsilon: float, *, codewords: int | None = None, groups: int | None = None
) -> CodebookSpec | None:
    """Choose the codebook with the best expected accuracy at a cut, among ``codewords`` and ``groups``.

    None if the cut has none. Raises `ConfigError` for an epsilon out of range.
    """
    fitting = [
        book
        for book in cut.codebooks
        if codewords in (None, book.codewords)
        and groups in (None, book.groups)
        and epsilon <= MAX_EPSILON * book.groups
    ]
    if not fitting:
        return None
    best = max(fitting, key=lambda book: (expected_share(book, epsilon), -book.groups, -book.codewords))
    return CodebookSpec(epsilon=epsilon, codewords=best.codewords, groups=best.groups)


class CodebookRelease:
    """The device's side: features to a payload, each frame with fresh randomness. One thread at a time.

    ``entropy(n)`` gives n fresh bytes from a source fit for cryptography, such as `os.urandom`.
    """

    def __init__(self, plan: CodebookPlan, encoder: Encoder, *, entropy: Entropy) -> None:
        self.plan = plan
        self._encoder = encoder
        self._response = RandomisedResponse(plan.spec.codewords, plan.spec.group_epsilon, entropy=entropy)
        self._dtype = np.dtype(f"<u{codeword_bytes(plan.spec.codewords)}")

    def __call__(self, features: Sequence[Array]) -> NDArray[np.uint8]:
        """Release one frame: arrays of the plan's shapes and dtypes to a new uint8 array [payload_bytes]."""
        sent = [self._response(codeword) for codeword in self._encoder(features)]
        return np.array(sent, self._dtype).view(np.uint8)


def recover_codebook(
    plan: CodebookPlan, decoder: Decoder, payload: bytes | bytearray | memoryview | NDArray[np.uint8]
) -> list[Array]:
    """Recover features from a payload, on the server; `ProtocolError`: wrong length or unknown codeword."""
    raw = np.frombuffer(payload, np.uint8)
    if raw.size != plan.payload_bytes:
        raise ProtocolError(
            f"{raw.size} bytes of codewords where the plan has {plan.payload_bytes}", remedy="make the same plan"
        )
    codewords = raw.view(np.dtype(f"<u{codeword_bytes(plan.spec.codewords)}")).tolist()
    if max(codewords) >= plan.spec.codewords:
        raise ProtocolError(
            f"codeword {max(codewords)} of {plan.spec.codewords}: the codebooks differ",
            remedy="copy the same bundle to both sides",
        )
    return decoder(codewords)
