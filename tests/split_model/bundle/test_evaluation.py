"""Measured figures are kept with their bundle, change nothing of its identity, and are never those of another."""

from __future__ import annotations

import os

import msgspec
import pytest
from msgspec.structs import replace

from split_model.bundle import Bundle, Manifest, evaluation
from split_model.bundle.evaluation import DataRecord, Evaluation, Mean, Prepared, Row, Share
from split_model.bundle.floor import Floor, cheapest
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


def test_the_floor_is_compared_with_the_agreement_and_its_bound():
    share = replace(SHARE, value=0.9, low=0.7)
    for bound, passes in ((0.8, True), (0.79, False), (None, False)):  # format 1 has the wider interval alone
        assert Floor().admits(row(3, share=share, agreement_bound=bound)) is passes
    assert Floor().admits(row(3, share=replace(share, low=0.8)))
    assert not Floor().admits(row(3, share=replace(share, value=0.89), agreement_bound=0.85))
    assert not Floor().admits(row(3, share=None))  # format 1, of an answer that is no class
    assert Floor.at(0.05).bound == 0.0


def test_the_cheapest_release_that_passes_is_found():
    good = {"agreement_bound": 0.85}
    rows = [row(3, 32.0, **good), row(7, 16.0, **good), row(9, 8.0, agreement_bound=0.5), row(3, None, **good)]
    assert cheapest(rows, Floor()) == rows[1]
    assert cheapest(rows[2:], Floor()) is None


def test_the_nearest_release_is_the_same_one_else_a_weaker_one_else_a_stronger_one(bundle):
    found = evaluated(bundle, row(3, 8.0), row(3, 12.0), row(3, 32.0), row(7, 16.0))
    for epsilon, nearest in ((8.0, (8.0, "same")), (16.0, (12.0, "weaker")), (4.0, (8.0, "stronger"))):
        answer = found.nearest(3, NoiseSpec(epsilon=epsilon))
        assert (answer.row.spec.epsilon, answer.relation) == nearest
    assert found.nearest(3, NoiseSpec(epsilon=8.0, bits=6)) is None
    assert found.nearest(3, NoiseSpec(epsilon=8.0, allocation="rank")) is None
    aware = evaluated(bundle, row(3, 2.0, noise_aware=True))  # that tail is used at 2 alone
    assert aware.nearest(3, NoiseSpec(epsilon=4.0)) is None
    assert aware.nearest(3, NoiseSpec(epsilon=2.0)).relation == "same"


def test_figures_of_prepare_stay_when_the_users_own_are_stored(bundle):
    prepared = Prepared(measure="m", unit="pictures", available=9, rows=(row(3), row(7)))
    evaluation.store(bundle, replace(evaluated(bundle), prepared=prepared))
    own = row(3, share=replace(SHARE, value=0.5))
    kept = evaluation.store(bundle, evaluated(bundle, own, data="other"))
    assert kept.prepared == prepared
    assert kept.all_rows == (own, row(7))
    assert evaluation.load(bundle) == kept


def test_format_1_is_read(bundle):
    tree = msgspec.to_builtins(evaluated(bundle, row(3))) | {"format": 1}
    del tree["prepared"], tree["rows"][0]["agreement_bound"]
    evaluation.path_of(bundle).write_bytes(msgspec.json.encode(tree))
    assert evaluation.load(bundle).find(3, NoiseSpec(epsilon=8.0)).bound == SHARE.low


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b'{"format": 1}', b'{"format": 3}', b'{"format": 1, "x": "\xff"}']
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
