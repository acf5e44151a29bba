"""The file of a codebook: what finds a frame's codewords, what codewords stand for, and files that lie."""

from __future__ import annotations

import hashlib
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from split_model.bundle import Codebook, FileRef, TensorSpec
from split_model.errors import BadBundleError, BadInputError
from split_model.privacy.codebook_file import (
    Decoder,
    Encoder,
    Grouping,
    check_groups,
    read_decoder,
    read_encoder,
    stored_dtype,
    write,
)

MAP = TensorSpec(name="map", shape=(1, 5, 4, 6), dtype="float32")
VECTOR = TensorSpec(name="vector", shape=(1, 3), dtype="int8", scale=0.5, zero_point=-4)


def codebook(path, codewords=5, groups=2, seed=0):
    """A random codebook over both tensors, written; and the manifest's record of it."""
    rng = np.random.default_rng(seed)
    tensors = (MAP, VECTOR)
    grouping = Grouping(tensors, (2, 1), check_groups(groups, tensors))
    sizes = [one.size for one in grouping.inputs([np.zeros(spec.shape, spec.dtype) for spec in tensors])]
    encoder = Encoder(
        grouping,
        tuple(rng.normal(size=(codewords, size)).astype(np.float32) for size in sizes),
        tuple(rng.normal(size=codewords).astype(np.float32) for _ in sizes),
    )
    tables = (
        rng.normal(size=(codewords, *MAP.shape)).astype(np.float16),
        rng.integers(-128, 128, (codewords, *VECTOR.shape), np.int8),
    )
    write(path, encoder, Decoder(tensors, grouping.groups, tables))
    raw = path.read_bytes()
    ref = FileRef(path=path.name, sha256=hashlib.sha256(raw).hexdigest(), size_bytes=len(raw))
    return (
        Codebook(codewords=codewords, groups=groups, file=ref, lookup=0.9, chance=0.1, samples=10, truth="labels"),
        encoder,
        tables,
    )


def features(seed):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=MAP.shape).astype(np.float32), rng.integers(-128, 128, VECTOR.shape, np.int8)]


def test_what_was_written_finds_the_same_words_and_means_the_same(tmp_path):
    book, encoder, _ = codebook(tmp_path / "book.npz")
    read = read_encoder(tmp_path / "book.npz", book, (MAP, VECTOR))
    for seed in range(20):
        assert read(features(seed)) == encoder(features(seed))
    assert codebook(tmp_path / "again.npz")[0].file.sha256 == book.file.sha256


def test_each_group_reads_its_own_channels_only(tmp_path):
    _, encoder, _ = codebook(tmp_path / "book.npz", groups=3)  # of 9 channels: 0..2, 3..5, and the vector's 3
    before = encoder.grouping.inputs(features(0))
    changed = features(0)
    changed[0][..., 4] += 1
    after = encoder.grouping.inputs(changed)
    assert [np.array_equal(one, other) for one, other in zip(before, after, strict=True)] == [True, False, True]


def test_maps_are_averaged_over_blocks_and_smaller_ones_at_the_rim():
    grouping = Grouping((MAP,), (2,), (0, 6))
    (found,) = grouping.inputs(features(0)[:1])
    image = features(0)[0][0]
    expected = [image[top : top + 2, left : left + 2].mean((0, 1)) for top in (0, 2, 4) for left in (0, 2)]
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-5)


def test_quantised_tensors_are_read_in_real_units():
    (found,) = Grouping((VECTOR,), (1,), (0, 3)).inputs([np.array([[-4, -2, 6]], np.int8)])
    np.testing.assert_array_equal(found, [0.0, 1.0, 5.0])


@given(st.lists(st.integers(0, 4), min_size=2, max_size=2))
def test_every_channel_is_as_the_word_of_its_group_has_it(tmp_path_factory, codewords):
    path = tmp_path_factory.mktemp("book") / "book.npz"
    book, _, tables = codebook(path)
    found = read_decoder(path, book, (MAP, VECTOR))(codewords)
    assert [(one.shape, one.dtype.name) for one in found] == [(MAP.shape, "float32"), (VECTOR.shape, "int8")]
    first, second = codewords  # nine channels: four of the map belong to the first group
    np.testing.assert_array_equal(found[0][..., :4], tables[0][first][..., :4].astype(np.float32))
    np.testing.assert_array_equal(found[0][..., 4:], tables[0][second][..., 4:].astype(np.float32))
    np.testing.assert_array_equal(found[1], tables[1][second])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_still_give_words(tmp_path, value):
    _, encoder, _ = codebook(tmp_path / "book.npz")
    odd = features(0)
    odd[0][:] = value
    assert all(0 <= codeword < 5 for codeword in encoder(odd))


def test_a_file_that_changed_is_refused_by_both_sides(tmp_path):
    path = tmp_path / "book.npz"
    book, *_ = codebook(path)
    codebook(path, seed=1)
    for read in (read_encoder, read_decoder):
        with pytest.raises(BadBundleError, match="changed since"):
            read(path, book, (MAP, VECTOR))


@pytest.mark.parametrize(
    "change",
    [
        {"groups": np.array([0, 5, 4, 9], np.int32)},
        {"groups": np.array([0, 3, 6, 8], np.int32)},
        {"pool": np.array([2, 2], np.int32)},
        {"pool": np.array([0, 1], np.int32)},
        {"weights_1": np.zeros((5, 2), np.float32)},
        {"meaning_0": np.zeros((5, 1, 5, 4, 5), np.float16)},
        {"bias_0": np.zeros(5)},
        {"bias_0": np.array([None] * 5)},
    ],
)
def test_a_file_that_does_not_fit_the_cut_is_refused_in_one_line(tmp_path, change):
    path = tmp_path / "book.npz"
    book, *_ = codebook(path, groups=3)
    with np.load(path) as archive:
        np.savez(path, **(dict(archive) | change))
    raw = path.read_bytes()
    book = Codebook(
        codewords=5, groups=3, lookup=0.9, chance=0.1, samples=10, truth="model",
        file=FileRef(path="book.npz", sha256=hashlib.sha256(raw).hexdigest(), size_bytes=len(raw)),
    )  # fmt: skip
    with pytest.raises(BadBundleError) as caught:  # noqa: PT012  # each side reads its own half
        read_encoder(path, book, (MAP, VECTOR))
        read_decoder(path, book, (MAP, VECTOR))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("claim", ["a shape", "zeros that take no room"])
def test_a_file_that_would_fill_the_memory_is_refused(tmp_path, claim):
    path = tmp_path / "book.npz"
    codebook(path)
    with np.load(path) as archive:
        arrays = dict(archive)
    if claim == "a shape":
        np.savez(path, **arrays)
        with zipfile.ZipFile(path, "a") as archive, archive.open("weights_7.npy", "w") as file:
            head = {"descr": "<f4", "fortran_order": False, "shape": (1 << 20, 1 << 20)}
            np.lib.format.write_array_header_1_0(file, head)
    else:
        np.savez_compressed(path, **arrays, weights_7=np.zeros((1 << 20, 64), np.float32))
    raw = path.read_bytes()
    book = Codebook(
        codewords=5, groups=2, lookup=0.9, chance=0.1, samples=10, truth="model",
        file=FileRef(path="book.npz", sha256=hashlib.sha256(raw).hexdigest(), size_bytes=len(raw)),
    )  # fmt: skip
    tracemalloc.start()
    try:
        with pytest.raises(BadBundleError, match=r"not a codebook .*bytes in all"):
            read_encoder(path, book, (MAP, VECTOR))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_there_are_no_more_groups_than_channels():
    assert check_groups(4, (MAP, VECTOR)) == (0, 2, 4, 6, 9)
    with pytest.raises(BadInputError, match="1 to 9"):
        check_groups(10, (MAP, VECTOR))


def test_floats_are_kept_in_half_precision_and_codes_as_they_are():
    assert stored_dtype(MAP) is np.float16
    assert stored_dtype(VECTOR) is np.int8
