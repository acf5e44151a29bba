"""Measured figures are kept with their bundle, change nothing of its identity, and are never those of another."""

from __future__ import annotations

import os

import pytest
from msgspec.structs import replace

from split_model.bundle import Bundle, Manifest, evaluation
from split_model.bundle.evaluation import DataRecord, Evaluation, Mean, Row, Share
from split_model.errors import BadBundleError, OutputError
from split_model.privacy import NoiseSpec

SHARE = Share(value=0.9, low=0.8, high=0.95, samples=40)
MEAN = Mean(value=0.1, low=0.0, high=0.2, samples=40)


@pytest.fixture
def bundle(tmp_path):
    """Of a bundle only the folder and the identity matter here."""
    return Bundle(tmp_path, Manifest(format=1, name="m", ops=1, macs=1, model=None, inputs=(), outputs=(), cuts=()),
                  "a" * 64)  # fmt: skip


def row(cut, epsilon=8.0, share=SHARE, **fields):
    spec = None if epsilon is None else NoiseSpec(epsilon=epsilon)
    return Row(
        cut=cut, mechanism="clip" if spec is None else "noise", tensors=("x",), spec=spec, payload_bytes=8, draws=3,
        **({"agreement": share, "accuracy": None, "output_error": MEAN} | fields),
    )  # fmt: skip


def evaluated(bundle, *rows, data="d"):
    return Evaluation(
        format=1,
        bundle=bundle.identity,
        data=DataRecord(name="photos", sha256=data, samples=40, labelled=0),
        unprotected_accuracy=None,
        rows=rows,
    )


def test_what_is_stored_is_found_by_cut_and_release(bundle):
    assert evaluation.load(bundle) is None
    stored = evaluated(bundle, row(3), row(3, 16.0), row(3, None), row(7))
    assert evaluation.store(bundle, stored) == stored
    found = evaluation.load(bundle)
    assert found.find(3, NoiseSpec(epsilon=16.0)) == row(3, 16.0)
    assert found.find(3, NoiseSpec(epsilon=16.0, allocation="rank")) is None
    assert found.find(3, NoiseSpec(epsilon=16.0, bits=6)) is None
    assert found.find(4, NoiseSpec(epsilon=16.0)) is None


def test_measuring_again_on_the_same_data_replaces_and_keeps(bundle):
    evaluation.store(bundle, evaluated(bundle, row(3), row(7)))
    better = replace(SHARE, value=1.0)
    kept = evaluation.store(bundle, evaluated(bundle, row(9), row(3, share=better)))
    assert [each.cut for each in kept.rows] == [3, 7, 9]
    assert kept.rows[0].agreement == better
    assert evaluation.load(bundle) == kept


def test_figures_of_other_data_are_not_mixed(bundle):
    evaluation.store(bundle, evaluated(bundle, row(3), row(7)))
    kept = evaluation.store(bundle, evaluated(bundle, row(9), data="other"))
    assert [each.cut for each in kept.rows] == [9]


def test_figures_of_another_bundle_are_not_used(bundle):
    evaluation.store(bundle, evaluated(bundle, row(3)))
    bundle.identity = "b" * 64
    assert evaluation.load(bundle) is None
    assert [each.cut for each in evaluation.store(bundle, evaluated(bundle, row(9))).rows] == [9]


def test_the_floor_is_compared_with_labels_where_there_are_any():
    labelled = replace(SHARE, value=0.5)
    assert row(3).measured == ("agreement", SHARE)
    assert row(3, accuracy=labelled).measured == ("accuracy", labelled)
    assert row(3, agreement=None).measured is None


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b'{"format": 1}', b'{"format": 2}', b'{"format": 1, "x": "\xff"}']
)
def test_a_damaged_file_is_told_and_not_taken_for_none(bundle, raw):
    evaluation.path_of(bundle).write_bytes(raw)
    with pytest.raises(BadBundleError, match="evaluate again"):
        evaluation.load(bundle)


def test_a_folder_that_takes_nothing_is_told_and_keeps_what_it_had(bundle, monkeypatch):
    evaluation.store(bundle, evaluated(bundle, row(3)))

    def full(_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        evaluation.store(bundle, evaluated(bundle, row(7)))
    assert [each.cut for each in evaluation.load(bundle).rows] == [3]
    assert [path.name for path in bundle.root.iterdir()] == ["evaluation.json"]
