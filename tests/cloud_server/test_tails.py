"""Which requests fit what the server hosts, and what it does with folders that are not bundles."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from cloud_server.decoder_cache import DecoderCache
from cloud_server.tails import Tail, TailSet, UnknownReleaseError, find_bundles
from split_model.bundle import Bundle
from split_model.errors import BadBundleError, ConfigError, MissingInputError, ProtocolError
from split_model.prepare.calibrate.allocators import TrialOptions
from split_model.prepare.calibrate.calibration import CalibrationOptions
from split_model.prepare.codebook.codebooks import CodebookWish
from split_model.prepare.pipeline import PrepareOptions, prepare
from split_model.privacy import CodebookPlan, CodebookSpec, NoisePlan, NoiseSpec
from split_model.privacy.codebook_file import read_decoder
from split_model.protocol import messages as wire

DEVICE = "the key of some device"


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
        tails.features(tail, other, bytearray(payload), device=DEVICE)
    assert code(tails, mistaken) == "unknown_release"
    assert code(tails, request) is None
    assert tails.features(tail, release, bytearray(payload), device=DEVICE)[0].shape == (1, 2048)


def test_a_cut_that_no_noise_fits_is_refused_by_the_workers_and_then_at_the_door(model):
    tails = TailSet([model.bundle])
    tail = tails.tails[model.bundle.identity, 1]
    counts = msgspec.structs.replace(tail.cut.tensors[0], dtype="int32")
    odd = Tail(tail.bundle, msgspec.structs.replace(tail.cut, tensors=(counts,)))
    release, payload = model.noise(model.features(model.frame(0)), epsilon=8.0)
    with pytest.raises(UnknownReleaseError, match="int32"):
        tails.features(odd, release, bytearray(payload), device=DEVICE)
    assert code(tails, model.request(1, release=release, total_bytes=payload.nbytes)) == "unknown_release"


def knows(tails, model, spec):
    """Whether the plan is in memory: then a digest that differs is refused at the door."""
    made_up = wire.Noise(spec=spec, digest="0" * 16)
    plan = NoisePlan.make(spec, model.bundle.cut(1).tensors, model.bundle.cut(1).calibration)
    return code(tails, model.request(1, release=made_up, total_bytes=plan.payload_bytes)) == "unknown_release"


def make_up(tails, model, spec, *, device):
    """Have a plan made by asking with a digest that cannot be right."""
    tail = tails.tails[model.bundle.identity, 1]
    with pytest.raises(UnknownReleaseError):
        tails.features(tail, wire.Noise(spec=spec, digest="0" * 16), bytearray(), device=device)


def test_plans_are_kept_but_not_without_bound(model):
    tails = TailSet([model.bundle], plans=3)
    specs = [NoiseSpec(epsilon=100.0 + number, allocation="uniform") for number in range(5)]
    for spec in specs:
        make_up(tails, model, spec, device=DEVICE)
    assert [knows(tails, model, spec) for spec in specs] == [False, False, True, True, True]


def test_made_up_epsilons_push_only_the_plans_of_who_makes_them_up_out(model):
    """A device that asks for another epsilon with every request would cost the others their plans each time."""
    tails = TailSet([model.bundle], plans=8)
    tail = tails.tails[model.bundle.identity, 1]
    features = model.features(model.frame(0))
    decent = [
        tuple(model.noise(features, epsilon=epsilon) for epsilon in epsilons)
        for epsilons in ((8.0,), (8.0, 10.0), (12.0, 14.0))
    ]
    for number, releases in enumerate(decent):
        for release, payload in releases:
            tails.features(tail, release, bytearray(payload), device=f"decent {number}")
    made_up = [NoiseSpec(epsilon=100.0 + number, allocation="uniform") for number in range(20)]
    for spec in made_up:
        make_up(tails, model, spec, device="mad")
    for release, _ in itertools.chain(*decent):
        assert knows(tails, model, release.spec)
    # Five plans of the decent devices, and the last of the others, until the next.
    assert [knows(tails, model, spec) for spec in made_up] == [False] * 16 + [True] * 4


def test_a_plan_of_a_noise_aware_tail_that_differs_is_refused_at_the_door(fashion):
    tails = TailSet([fashion])
    spec = NoiseSpec(epsilon=2.0, allocation="uniform")
    plan = NoisePlan.make(spec, fashion.cut(11).tensors, fashion.cut(11).calibration)
    request = request_for(fashion, wire.Noise(spec=spec, digest="0" * 16), plan.payload_bytes)
    tail = tails.tail_for(request)
    assert tail.epsilon == 2.0
    with pytest.raises(UnknownReleaseError, match="differs"):
        tails.features(tail, request.release, bytearray(plan.payload_bytes), device=DEVICE)
    assert code(tails, request) == "unknown_release"


def test_the_offers_name_every_bundle_and_cut(tails, model):
    assert tails.offers == (wire.Offer(identity=model.bundle.identity, name="two-layers-1", cuts=(0, 1)),)


def test_more_bundles_than_a_welcome_can_name_are_refused(model):
    """A device would refuse the welcome, connect again, and so on, and nobody would know why."""
    many = [Bundle(model.bundle.root, model.bundle.manifest, f"{number:064x}") for number in range(1000)]
    assert len(TailSet(many[:500]).offers) == 500
    with pytest.raises(ConfigError, match="1000 bundles"):
        TailSet(many)


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


FASHION = Path(__file__).resolve().parents[2] / "models" / "fashion"


@pytest.fixture(scope="module")
def fashion(tmp_path_factory):
    """A bundle with a codebook and a noise-aware tail, which is a copy of the plain one."""
    root = tmp_path_factory.mktemp("fashion")
    with np.load(FASHION / "public.npz") as public:
        np.savez(root / "public.npz", pictures=public["pictures"][:60], labels=public["labels"][:60])
    plain = PrepareOptions(model=FASHION / "fashion_f32.tflite", output=root / "plain", cuts=(11,))
    first = prepare(plain, lambda *_: None)
    (root / "tails.json").write_text(
        json.dumps([{"cut": 11, "epsilon": 2.0, "tail": str(first.path(first.cut(11).tail))}])
    )
    options = replace(
        plain,
        output=root / "bundle",
        preprocess=FASHION / "preprocess.json",
        labels=FASHION / "labels.txt",
        calibration=root / "public.npz",
        calibration_options=CalibrationOptions(samples=4, weight_samples=1, tail_runs=1),
        trial_options=TrialOptions(samples=2, draws=1),
        codebooks=(CodebookWish(11, 10),),
        noise_tails=root / "tails.json",
    )
    return prepare(options, lambda *_: None)


def request_for(bundle, release, total_bytes):
    return wire.Request(
        request_id=1, boot_id="boot", version=1, bundle=bundle.identity, cut=11, release=release,
        total_bytes=total_bytes, due_in_s=1.0,
    )  # fmt: skip


def test_a_codeword_is_welcome_with_the_same_plan_and_becomes_features(fashion):
    tails = TailSet([fashion])
    plan = CodebookPlan.make(CodebookSpec(epsilon=6.0, codewords=10), fashion.cut(11))
    release = wire.Codebook(spec=plan.spec, digest=plan.digest)
    request = request_for(fashion, release, 1)
    assert code(tails, request) is None
    assert code(tails, msgspec.structs.replace(request, total_bytes=2)) == "size"
    other = msgspec.structs.replace(request, release=wire.Codebook(spec=plan.spec, digest="0" * 16))
    assert code(tails, other) == "unknown_release"
    missing = CodebookSpec(epsilon=6.0, codewords=12)
    assert code(tails, msgspec.structs.replace(request, release=wire.Codebook(spec=missing, digest="0"))) == (
        "unknown_release"
    )
    tail = tails.tail_for(request)
    assert tail.epsilon is None
    (features,) = tails.features(tail, release, bytearray(b"\x03"), device=DEVICE)
    assert features.shape == (1, 7, 7, 64)
    with pytest.raises(ProtocolError, match="codeword 10 of 10"):
        tails.features(tail, release, bytearray(b"\x0a"), device=DEVICE)


def test_made_up_codebooks_push_no_noise_plan_out(fashion):
    tails = TailSet([fashion], plans=2)
    tail = tails.tails[fashion.identity, 11]
    noise = wire.Noise(spec=NoiseSpec(epsilon=2.0, allocation="uniform"), digest="0" * 16)
    noisy = NoisePlan.make(noise.spec, fashion.cut(11).tensors, fashion.cut(11).calibration)
    with pytest.raises(UnknownReleaseError):
        tails.features(tail, noise, bytearray(), device=DEVICE)
    for number in range(5):
        spec = CodebookSpec(epsilon=1.0 + number / 8, codewords=10)
        made_up = request_for(fashion, wire.Codebook(spec=spec, digest="0" * 16), 1)
        assert code(tails, made_up) == "unknown_release"
        plan = CodebookPlan.make(spec, fashion.cut(11))
        release = wire.Codebook(spec=spec, digest=plan.digest)
        tails.features(tail, release, bytearray(b"\x03"), device=DEVICE)
    # Still in memory: the digest that differs is refused at the door.
    assert code(tails, request_for(fashion, noise, noisy.payload_bytes)) == "unknown_release"


def test_codebooks_in_memory_are_bounded_in_bytes(fashion):
    plan = CodebookPlan.make(CodebookSpec(epsilon=6.0, codewords=10), fashion.cut(11))
    reads = []

    def get(cache, number):
        """The same codebook, as that of several tails."""

        def read():
            reads.append(number)
            return read_decoder(fashion.path(plan.book.file), plan.book, plan.tensors)

        cache.get(number, read, device="some device")

    table_bytes = 10 * 7 * 7 * 64 * 2
    cache = DecoderCache(2 * table_bytes)
    for number in (0, 1, 2, 3, 3, 2, 3):
        get(cache, number)
    assert reads == [0, 1, 2, 3]  # the last two are in memory
    get(cache, 1)
    get(cache, 2)
    assert reads[4:] == [1, 2]
    reads.clear()
    small = DecoderCache(1)
    for number in (8, 9, 9):
        get(small, number)
    assert reads == [8, 9]  # the one that is needed is kept


def test_the_tail_for_a_noise_is_the_one_trained_for_exactly_this_epsilon(fashion):
    tails = TailSet([fashion])

    def chosen(epsilon, **changes):
        spec = NoiseSpec(epsilon=epsilon, **changes)
        return tails.tail_for(request_for(fashion, wire.Noise(spec=spec, digest="d"), 1))

    assert chosen(2.0).epsilon == 2.0
    assert chosen(2.0, allocation="rank", bits=6).path == fashion.path(fashion.cut(11).noise_tails[0].tail)
    assert chosen(2.0000001).epsilon is None
    assert chosen(1.0).path == fashion.path(fashion.cut(11).tail)
    assert tails.tail_for(request_for(fashion, wire.NoRelease(), 1)).epsilon is None
    assert len({tail.id for tail in tails.every()}) == 2
    assert all(tail.load(tail.read(), threads=1).outputs[0].shape == (1, 10) for tail in tails.every())
