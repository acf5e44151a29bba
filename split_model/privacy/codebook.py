"""The codebook release: of a frame leaves which of a few learned words it is, by randomised response.

The head's features are mapped to one of M words (each of several groups of channels to one of its own), and the
word goes out by k-ary randomised response. Whatever finds the word reads the whole frame, so the guarantee is in
the whole input: pure ε, shared evenly among the groups, whose words compose in sequence. Nothing else leaves: the
payload has one or two bytes a group, whatever the frame.

An ε-local release lets at most ε·log2(e) bits of a frame through, so at small ε a tail has little left to compute:
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
from split_model.bundle.manifest import MAX_GROUPS, MAX_WORDS, Codebook, Cut, TensorSpec
from split_model.errors import BadBundleError, ConfigError, ProtocolError
from split_model.privacy.accountant import round_down, round_up
from split_model.privacy.codebook_file import Finder, Meanings
from split_model.privacy.events import ResponseEvent
from split_model.privacy.randomised_response import MAX_EPSILON, RandomisedResponse
from split_model.privacy.sampler import Entropy

_MECHANISM = b"codebook-response-1"


class CodebookSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the user asks for. ``epsilon``: pure, in the whole input, of all groups of a frame together.

    ``words`` and ``groups`` say which of a cut's codebooks. Raises `ConfigError` for a value out of range.
    """

    epsilon: float
    words: int
    groups: int = 1

    def __post_init__(self) -> None:
        if not 2 <= self.words <= MAX_WORDS or not 1 <= self.groups <= MAX_GROUPS:
            raise ConfigError(
                f"words = {self.words}, groups = {self.groups}",
                remedy=f"a codebook takes 2 to {MAX_WORDS} words and 1 to {MAX_GROUPS} groups",
            )
        if not 0 < self.epsilon <= MAX_EPSILON * self.groups:
            raise ConfigError(
                f"whole_input_epsilon = {self.epsilon:g}",
                remedy=f"a codebook takes more than 0 and at most {MAX_EPSILON:g} a group",
            )
        if self.group_epsilon <= 0:
            raise ConfigError(f"whole_input_epsilon = {self.epsilon:g} is too small to share", remedy="raise it")

    @property
    def group_epsilon(self) -> float:
        """Each group's share: the largest float that, times the groups, is not above ``epsilon``."""
        return round_down(Fraction(self.epsilon) / self.groups)


@dataclass(frozen=True, slots=True)
class CodebookPlan:
    """Made by `make`: what device and server must agree on; the digest tells whether they do."""

    spec: CodebookSpec
    tensors: tuple[TensorSpec, ...]
    book: Codebook
    payload_bytes: int
    digest: str

    @classmethod
    def make(cls, spec: CodebookSpec, cut: Cut) -> CodebookPlan:
        """The plan for the codebook of this many words and groups; `BadBundleError` where the cut has none."""
        book = next((b for b in cut.codebooks if (b.words, b.groups) == (spec.words, spec.groups)), None)
        if book is None:
            raise BadBundleError(
                f"cut {cut.index} has no codebook of {spec.words} words and {spec.groups} groups",
                remedy="prepare the bundle with --codebook",
            )
        known = hashlib.sha256(_MECHANISM + book.file.sha256.encode())
        known.update(struct.pack("<dII", spec.epsilon, spec.words, spec.groups))
        return cls(
            spec=spec,
            tensors=cut.tensors,
            book=book,
            payload_bytes=spec.groups * word_bytes(spec.words),
            digest=known.hexdigest()[:16],
        )

    @property
    def whole_input_epsilon(self) -> float:
        """Pure ε of one frame (one frame replaced by any other)."""
        return round_up(Fraction(self.spec.group_epsilon) * self.spec.groups)

    @property
    def per_value_epsilon_max(self) -> float:
        """Pure ε of one feature value: that of the frame, because every word may depend on any value."""
        return self.whole_input_epsilon

    @property
    def per_value_epsilon_mean(self) -> float:
        """The same for every value."""
        return self.whole_input_epsilon

    def event(self) -> ResponseEvent:
        """What one release of one frame does, for the accountant."""
        return ResponseEvent(groups=self.spec.groups, epsilon=self.spec.group_epsilon)


def word_bytes(words: int) -> int:
    """Bytes that one word takes on the wire."""
    return 1 if words <= 1 << 8 else 2


def keep_probability(words: int, epsilon: float) -> float:
    """How likely randomised response sends the word it was given: e^ε/(e^ε + k - 1)."""
    return 1.0 / (1.0 + (words - 1) * math.exp(-epsilon))


def expected_share(book: Codebook, epsilon: float) -> float:
    """How often the answer should be right at whole-input ``epsilon``, by what was measured without noise.

    Exact for one group; for several, as if one wrong word spoiled the answer.
    """
    kept = float(keep_probability(book.words, epsilon / book.groups) ** book.groups)
    return kept * book.lookup + (1.0 - kept) * book.chance


def settle_codebook(
    cut: Cut, epsilon: float, *, words: int | None = None, groups: int | None = None
) -> CodebookSpec | None:
    """The codebook to use at a cut: of those that fit ``words`` and ``groups`` the one expected to be right most.

    None where the cut has none. Raises `ConfigError` for an epsilon out of range.
    """
    fitting = [
        book
        for book in cut.codebooks
        if words in (None, book.words) and groups in (None, book.groups) and epsilon <= MAX_EPSILON * book.groups
    ]
    if not fitting:
        return None
    best = max(fitting, key=lambda book: (expected_share(book, epsilon), -book.groups, -book.words))
    return CodebookSpec(epsilon=epsilon, words=best.words, groups=best.groups)


class CodebookRelease:
    """The device's side: features to a payload, each frame with fresh randomness. One thread at a time.

    ``entropy(n)`` gives n fresh bytes from a source fit for cryptography, such as `os.urandom`.
    """

    def __init__(self, plan: CodebookPlan, finder: Finder, *, entropy: Entropy) -> None:
        self.plan = plan
        self._finder = finder
        self._response = RandomisedResponse(plan.spec.words, plan.spec.group_epsilon, entropy=entropy)
        self._dtype = np.dtype(f"<u{word_bytes(plan.spec.words)}")

    def __call__(self, features: Sequence[Array]) -> NDArray[np.uint8]:
        """One frame: arrays of the plan's shapes and dtypes to uint8 [payload_bytes], a fresh array per call."""
        sent = [self._response(word) for word in self._finder(features)]
        return np.array(sent, self._dtype).view(np.uint8)


def recover_codebook(
    plan: CodebookPlan, meanings: Meanings, payload: bytes | bytearray | memoryview | NDArray[np.uint8]
) -> list[Array]:
    """The server's side: a payload to features. Raises `ProtocolError` on a wrong length or an unknown word."""
    raw = np.frombuffer(payload, np.uint8)
    if raw.size != plan.payload_bytes:
        raise ProtocolError(
            f"{raw.size} bytes of words where the plan has {plan.payload_bytes}", remedy="make the same plan"
        )
    words = raw.view(np.dtype(f"<u{word_bytes(plan.spec.words)}")).tolist()
    if max(words) >= plan.spec.words:
        raise ProtocolError(
            f"word {max(words)} of {plan.spec.words}: the codebooks differ",
            remedy="copy the same bundle to both sides",
        )
    return meanings(words)
