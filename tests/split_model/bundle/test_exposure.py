"""An audit's verdicts are kept with their bundle, not in its identity, and are never those of another."""

from __future__ import annotations

import os

import pytest
from msgspec.structs import replace

from split_model.bundle import Bundle, FileRef, Manifest, exposure
from split_model.bundle.exposure import Exposure, Exposures
from split_model.errors import BadBundleError, OutputError
from split_model.privacy import CodebookSpec, NoiseSpec


@pytest.fixture
def bundle(tmp_path):
    """Of a bundle only the folder and the identity matter here."""
    return Bundle(tmp_path, Manifest(format=1, name="m", ops=1, macs=1, model=None, inputs=(), outputs=(), cuts=()),
                  "a" * 64)  # fmt: skip


def row(cut, spec=None, *, quick=False, **fields):
    usual = {"reveals": "layout", "attacker": "white box", "ssim": 0.4, "ssim_low": 0.3, "ssim_high": 0.5}
    known = {
        "spec": spec if isinstance(spec, NoiseSpec) else None,
        "codebook": spec if isinstance(spec, CodebookSpec) else None,
    }
    return Exposure(cut=cut, pictures=16, quick=quick, **known, **(usual | fields))


def audited(bundle, *rows):
    return Exposures(format=exposure.FORMAT, bundle=bundle.identity, rows=rows)


def with_network(one, content):
    import hashlib

    digest = hashlib.sha256(content).hexdigest()
    path = f"{exposure.FOLDER}/{digest[:8]}.npz"
    return replace(one, network=FileRef(path=path, sha256=digest, size_bytes=len(content))), {path: content}


def test_verdicts_are_found_by_cut_and_release(bundle):
    assert exposure.load(bundle) is None
    noise, book = NoiseSpec(epsilon=8.0, bits=4), CodebookSpec(epsilon=8.0, codewords=16, groups=1)
    exposure.store(bundle, audited(bundle, row(3), row(3, noise), row(3, book), row(7)), {})
    found = exposure.load(bundle)
    assert (found.find(3, None), found.find(3, noise), found.find(3, book)) == (row(3), row(3, noise), row(3, book))
    for other in (replace(noise, epsilon=9.0), replace(noise, bits=5), replace(noise, allocation="rank")):
        assert found.find(3, other) is None
    assert found.find(7, noise) is None


def test_the_same_audit_gives_the_same_bytes(bundle):
    content = audited(bundle, row(3), row(7))
    exposure.store(bundle, content, {})
    before = exposure.path_of(bundle).read_bytes()
    exposure.store(bundle, content, {})
    assert exposure.path_of(bundle).read_bytes() == before


def test_a_quick_verdict_never_replaces_a_full_one(bundle):
    full, quick = row(3, ssim=0.5), row(3, quick=True, ssim=0.2)
    exposure.store(bundle, audited(bundle, quick, row(7, quick=True)), {})
    exposure.store(bundle, audited(bundle, full), {})
    kept = exposure.store(bundle, audited(bundle, quick), {})
    assert kept.rows == (full, row(7, quick=True)) == exposure.load(bundle).rows


def test_networks_are_checked_and_old_ones_go(bundle):
    first, files = with_network(row(3), b"one")
    exposure.store(bundle, audited(bundle, first), files)
    assert exposure.network_of(bundle, first) == b"one"
    second, more = with_network(row(3), b"two")
    exposure.store(bundle, audited(bundle, second), more)
    assert [path.name for path in (bundle.root / exposure.FOLDER).iterdir()] == [os.path.basename(*more)]
    bundle.path(second.network).write_bytes(b"not")
    with pytest.raises(BadBundleError, match="differs from the manifest"):
        exposure.network_of(bundle, second)
    assert exposure.network_of(bundle, row(3)) is None


def test_verdicts_of_another_bundle_are_none(bundle):
    exposure.store(bundle, replace(audited(bundle, row(3)), bundle="b" * 64), {})
    assert exposure.load(bundle) is None


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format": 9}', b"\xff", b'{"format": 1, "rows": []}'])
def test_a_damaged_file_is_told_in_one_line(bundle, content):
    exposure.path_of(bundle).write_bytes(content)
    with pytest.raises(BadBundleError, match="audit") as caught:
        exposure.load(bundle)
    assert "\n" not in str(caught.value)


def test_a_folder_that_takes_nothing_is_told(bundle):
    (bundle.root / exposure.FOLDER).write_text("in the way")
    with pytest.raises(OutputError):
        exposure.store(bundle, audited(bundle, row(3)), {})


def test_levels_are_ordered():
    least_first = ["answer", "traces", "layout", "picture"]
    for at, one in enumerate(least_first):
        assert [exposure.at_most(other, one) for other in least_first] == [n <= at for n in range(4)]
