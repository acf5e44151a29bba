"""Which requests fit what the server hosts, and what it does with folders that are not bundles."""

from __future__ import annotations

import shutil

import msgspec
import pytest

from cloud_server.tails import Tail, TailSet, UnknownReleaseError, find_bundles
from split_model.errors import BadBundleError, MissingInputError
from split_model.privacy import NoiseSpec
from split_model.protocol import messages as wire


@pytest.fixture(scope="module")
def tails(model):
    return TailSet([model.bundle])


def code(tails, request):
    reason = tails.admit(request)
    return reason and reason[0]


def test_a_fitting_request_is_welcome(tails, model):
    assert tails.admit(model.request(1)) is None
    assert tails.admit(model.request(1, cut=0, total_bytes=64)) is None


def test_what_does_not_fit_is_refused_by_its_own_code(tails, model):
    assert code(tails, model.request(1, bundle="0" * 64)) == "unknown_bundle"
    assert code(tails, model.request(1, cut=2)) == "unknown_cut"
    assert code(tails, model.request(1, total_bytes=4 * 2048 - 1)) == "size"
    assert code(tails, model.request(1, total_bytes=0)) == "size"


def test_a_noise_release_is_welcome_only_with_the_same_plan(model):
    tails = TailSet([model.bundle])
    tail = tails.tails[model.bundle.identity, 1]
    release, payload = model.noise(model.features(model.frame(0)), epsilon=8.0)
    other = wire.Noise(spec=release.spec, digest="0" * 16)
    request = model.request(1, release=release, total_bytes=payload.nbytes)
    mistaken = msgspec.structs.replace(request, release=other)
    assert code(tails, msgspec.structs.replace(request, total_bytes=4 * 2048)) == "size"
    # cut 0 has no calibration, so nothing can be released there
    assert code(tails, msgspec.structs.replace(request, cut=0)) == "unknown_release"
    # nobody has asked for this plan yet: whether it is the same shows when a worker has made it
    assert code(tails, mistaken) is None
    with pytest.raises(UnknownReleaseError, match="differs"):
        tails.features(tail, other, bytearray(payload))
    assert code(tails, mistaken) == "unknown_release"
    assert code(tails, request) is None
    assert tails.features(tail, release, bytearray(payload))[0].shape == (1, 2048)


def test_a_cut_that_no_noise_fits_is_refused_by_the_workers_and_then_at_the_door(model):
    tails = TailSet([model.bundle])
    tail = tails.tails[model.bundle.identity, 1]
    counts = msgspec.structs.replace(tail.cut.tensors[0], dtype="int32")
    odd = Tail(tail.bundle, msgspec.structs.replace(tail.cut, tensors=(counts,)))
    release, payload = model.noise(model.features(model.frame(0)), epsilon=8.0)
    with pytest.raises(UnknownReleaseError, match="int32"):
        tails.features(odd, release, bytearray(payload))
    assert code(tails, model.request(1, release=release, total_bytes=payload.nbytes)) == "unknown_release"


def test_plans_are_kept_but_not_without_bound(model, monkeypatch):
    monkeypatch.setattr("cloud_server.tails._PLANS", 3)
    tails = TailSet([model.bundle])
    tail = tails.tails[model.bundle.identity, 1]
    for number in range(5):
        tails._plan(tail, NoiseSpec(epsilon=100.0 + number, allocation="uniform"))
    assert len(tails._plans) == 3
    assert tails._known_plan(tail, NoiseSpec(epsilon=104.0, allocation="uniform")) is not None


def test_the_offers_name_every_bundle_and_cut(tails, model):
    assert tails.offers == (wire.Offer(identity=model.bundle.identity, name="two-layers-1", cuts=(0, 1)),)


def test_bundles_are_found_in_a_folder_of_them(model, tmp_path):
    shutil.copytree(model.bundle.root, tmp_path / "b")
    shutil.copytree(model.bundle.root, tmp_path / "a")
    (tmp_path / "notes").mkdir()
    assert find_bundles(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert find_bundles(tmp_path / "a") == [tmp_path / "a"]
    with pytest.raises(MissingInputError, match="neither a bundle nor"):
        find_bundles(tmp_path / "notes")
    with pytest.raises(MissingInputError):
        find_bundles(tmp_path / "gone")


def test_one_flipped_byte_keeps_a_bundle_from_being_hosted(model, tmp_path):
    root = shutil.copytree(model.bundle.root, tmp_path / "b")
    tail = root / "cut-001" / "tail.tflite"
    damaged = bytearray(tail.read_bytes())
    damaged[1000] ^= 1
    tail.write_bytes(damaged)
    with pytest.raises(BadBundleError, match="SHA-256"):
        TailSet.open([root])
