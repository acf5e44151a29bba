"""The codebook release: what it costs, which codebook is taken, and that no more leaves than codewords."""

from __future__ import annotations

import math
import os
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from split_model.bundle import Codebook, Cut, FileRef, TensorSpec
from split_model.errors import BadBundleError, ConfigError, ProtocolError
from split_model.privacy import (
    CodebookPlan,
    CodebookRelease,
    CodebookSpec,
    expected_share,
    recover_codebook,
    settle_codebook,
    whole_input,
)
from split_model.privacy.codebook import keep_probability
from split_model.privacy.codebook_file import Decoder, Encoder, Grouping, check_groups

TENSOR = TensorSpec(name="map", shape=(1, 2, 2, 4), dtype="float32")


def book(codewords, groups=1, lookup=0.9, chance=0.1):
    ref = FileRef(path=f"{codewords}x{groups}.npz", sha256="0" * 64, size_bytes=1)
    return Codebook(
        codewords=codewords, groups=groups, file=ref, lookup=lookup, chance=chance, samples=10, truth="labels"
    )


def cut(*books):
    tail = FileRef(path="tail.tflite", sha256="0" * 64, size_bytes=1)
    return Cut(index=3, head=tail, tail=tail, tensors=(TENSOR,), head_macs=1, tail_macs=1, codebooks=tuple(books))


def halves(codewords, groups=1):
    """A codebook that finds the codeword with the largest of its first features, and means its number."""
    grouping = Grouping((TENSOR,), (1,), check_groups(groups, (TENSOR,)))
    size = 16 // groups
    encoder = Encoder(
        grouping,
        (np.eye(codewords, size, dtype=np.float32),) * groups,
        (np.zeros(codewords, np.float32),) * groups,
    )
    table = np.broadcast_to(
        np.arange(codewords, dtype=np.float16).reshape(-1, 1, 1, 1, 1), (codewords, *TENSOR.shape)
    )
    return encoder, Decoder((TENSOR,), grouping.groups, (table,))


def frame(codeword):
    found = np.zeros(16, np.float32)
    found[codeword] = 5.0
    return [found.reshape(TENSOR.shape)]


@given(st.floats(1e-3, 64.0), st.integers(1, 4), st.integers(2, 300))
def test_the_groups_together_never_cost_more_than_was_asked_for(epsilon, groups, codewords):
    plan = CodebookPlan.make(
        CodebookSpec(epsilon=epsilon, codewords=codewords, groups=groups), cut(book(codewords, groups))
    )
    assert plan.whole_input_epsilon <= epsilon
    assert plan.whole_input_epsilon >= epsilon * (1 - 1e-12)
    event = plan.event()
    assert whole_input([event]).pure_epsilon == Fraction(event.epsilon) * groups <= Fraction(epsilon)
    assert plan.per_value_epsilon_max == plan.whole_input_epsilon
    assert plan.payload_bytes == groups * (1 if codewords <= 256 else 2)


@given(st.integers(2, 16), st.integers(0, 15), st.floats(0.1, 20.0), st.sampled_from([1, 2, 4]))
def test_whatever_the_frame_the_payload_has_one_length_and_holds_known_words(codewords, codeword, epsilon, groups):
    encoder, decoder = halves(codewords, groups)
    plan = CodebookPlan.make(
        CodebookSpec(epsilon=epsilon, codewords=codewords, groups=groups), cut(book(codewords, groups))
    )
    payload = CodebookRelease(plan, encoder, entropy=os.urandom)(frame(codeword))
    assert payload.dtype == np.uint8
    assert payload.size == plan.payload_bytes
    assert payload.max() < codewords
    assert recover_codebook(plan, decoder, payload)[0].shape == TENSOR.shape


@pytest.mark.parametrize("odd", [np.nan, np.inf, 0.0])
def test_a_frame_of_nothing_is_released_all_the_same(odd):
    encoder, _ = halves(4)
    plan = CodebookPlan.make(CodebookSpec(epsilon=1.0, codewords=4), cut(book(4)))
    features = [np.full(TENSOR.shape, odd, np.float32)]
    assert CodebookRelease(plan, encoder, entropy=os.urandom)(features).size == 1


def test_words_leave_with_the_probabilities_of_randomised_response():
    """Chi-square over what arrives, for two frames; and their ratio is that of epsilon, no more."""
    codewords, epsilon, draws = 4, 1.0, 20_000
    encoder, decoder = halves(codewords)
    plan = CodebookPlan.make(CodebookSpec(epsilon=epsilon, codewords=codewords), cut(book(codewords)))
    release = CodebookRelease(plan, encoder, entropy=np.random.default_rng(0).bytes)
    keep = keep_probability(codewords, epsilon)
    counts = []
    for sent in (0, 2):
        arrived = [int(recover_codebook(plan, decoder, release(frame(sent)))[0].flat[0]) for _ in range(draws)]
        found = np.bincount(arrived, minlength=codewords)
        expected = np.full(codewords, draws * (1 - keep) / (codewords - 1))
        expected[sent] = draws * keep
        assert ((found - expected) ** 2 / expected).sum() < 27  # beyond that with a chance of 6e-6
        counts.append(found)
    assert counts[0][0] / counts[1][0] == pytest.approx(math.exp(epsilon), rel=0.1)


def test_more_than_256_words_take_two_bytes():
    encoder, decoder = halves(300)
    plan = CodebookPlan.make(CodebookSpec(epsilon=60.0, codewords=300), cut(book(300)))
    payload = CodebookRelease(plan, encoder, entropy=os.urandom)(frame(7))
    assert payload.size == 2
    assert recover_codebook(plan, decoder, payload)[0].flat[0] == 7


@pytest.mark.parametrize("payload", [b"", b"\0\0", b"\4", b"\xff"])
def test_what_is_no_word_of_the_codebook_is_refused(payload):
    _, decoder = halves(4)
    plan = CodebookPlan.make(CodebookSpec(epsilon=1.0, codewords=4), cut(book(4)))
    with pytest.raises(ProtocolError):
        recover_codebook(plan, decoder, payload)


def test_the_digest_tells_epsilons_and_files_apart():
    def digest(epsilon, sha):
        ref = FileRef(path="a", sha256=sha * 64, size_bytes=1)
        one = Codebook(codewords=4, groups=1, file=ref, lookup=1, chance=0, samples=1, truth="labels")
        return CodebookPlan.make(CodebookSpec(epsilon=epsilon, codewords=4), cut(one)).digest

    assert len({digest(1.0, "a"), digest(1.0, "b"), digest(math.nextafter(1.0, 2), "a")}) == 3


def test_small_epsilons_take_few_words_and_large_ones_many():
    books = cut(book(10, lookup=0.91), book(32, lookup=0.925), book(256, lookup=0.93))
    assert settle_codebook(books, 5.0) == CodebookSpec(epsilon=5.0, codewords=10)
    assert settle_codebook(books, 9.0) == CodebookSpec(epsilon=9.0, codewords=32)
    assert settle_codebook(books, 16.0) == CodebookSpec(epsilon=16.0, codewords=256)
    assert settle_codebook(books, 16.0, codewords=10) == CodebookSpec(epsilon=16.0, codewords=10)
    assert settle_codebook(books, 16.0, groups=4) is None
    assert settle_codebook(cut(), 16.0) is None


def test_what_is_expected_is_exact_for_one_group():
    one = book(16, lookup=0.9, chance=0.1)
    keep = math.exp(3) / (math.exp(3) + 15)
    assert expected_share(one, 3.0) == pytest.approx(0.9 * keep + 0.1 * (1 - keep))


@pytest.mark.parametrize(
    "wrong",
    [
        {"epsilon": 0.0},
        {"epsilon": math.nan},
        {"epsilon": 64.5},
        {"epsilon": math.inf},
        {"epsilon": 1.0, "codewords": 1},
        {"epsilon": 1.0, "codewords": 1 << 17},
        {"epsilon": 1.0, "groups": 0},
        {"epsilon": 5e-324, "groups": 2},
    ],
)
def test_what_no_codebook_can_be_is_refused(wrong):
    with pytest.raises(ConfigError):
        CodebookSpec(**({"codewords": 4} | wrong))


def test_a_cut_without_that_codebook_has_no_plan():
    with pytest.raises(BadBundleError, match="no codebook of 8 codewords"):
        CodebookPlan.make(CodebookSpec(epsilon=1.0, codewords=8), cut(book(4)))
