"""A release is named by its content, and only what a machine lacks is sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy.bundles import read_bundle
from deploy.errors import BadBundleError, MissingError, UnfitError, UsageError
from deploy.release import bundle_parts, extras_of, hosted_parts, make_release
from deploy.target import Python, Target
from deploy.wheelhouse import sha256_of

TARGET = Target("aarch64", Python("/usr/bin/python3.11", (3, 11), 64, venv=True), (2, 28))


@pytest.fixture
def wheels(tmp_path: Path) -> list[Path]:
    names = ("ours-1-py3-none-any.whl", "fast-1-cp311-cp311-manylinux_2_17_aarch64.manylinux2014_aarch64.whl")
    for name in names:
        (tmp_path / name).write_text(name)
    return [tmp_path / name for name in names]


def bundle(root: Path, text: str = "head") -> Path:
    (root / "cut-001").mkdir(parents=True)
    (root / "cut-001/head.tflite").write_text(text)
    (root / "scratch.txt").write_text("not of the bundle")
    head = {"path": "cut-001/head.tflite", "sha256": sha256_of(root / "cut-001/head.tflite"), "size_bytes": 4}
    (root / "manifest.json").write_text(json.dumps({"name": "tiny", "cuts": [{"head": head}]}))
    return root


def test_equal_content_is_the_same_release_wherever_it_lies(tmp_path: Path, wheels: list[Path]) -> None:
    made = [
        make_release("edge-runtime", TARGET, order, bundle_parts([read_bundle(bundle(tmp_path / name))], one=True))
        for name, order in (("a", wheels), ("b", wheels[::-1]))
    ]
    assert made[0].name == made[1].name
    assert "scratch.txt" not in made[0].manifest


def test_another_bundle_keeps_the_environment_and_sends_two_files(tmp_path: Path, wheels: list[Path]) -> None:
    old, new = (
        make_release("edge-runtime", TARGET, wheels, bundle_parts([read_bundle(root)], one=True))
        for root in (bundle(tmp_path / "old"), bundle(tmp_path / "new", "HEAD"))
    )
    assert old.name != new.name
    assert old.environment == new.environment
    stored = frozenset(part.sha256 for part in old.parts)
    sent = new.missing(stored=stored, environments=frozenset())
    assert {part.path for part in sent} == {"bundle/cut-001/head.tflite", "bundle/manifest.json"}
    assert new.missing(stored=frozenset(), environments=frozenset([new.environment])) == sorted(
        part for part in new.parts if part.kind != "wheel"
    )


def test_what_a_server_hosts_is_read_back_from_its_manifest(tmp_path: Path, wheels: list[Path]) -> None:
    root = bundle(tmp_path / "a")
    first = make_release("cloud-server", TARGET, wheels, bundle_parts([read_bundle(root)], one=False))
    again = make_release("cloud-server", TARGET, wheels, hosted_parts(first.manifest))
    assert again.name == first.name
    assert again.missing(stored=frozenset(p.sha256 for p in first.parts), environments=frozenset()) == []


def test_the_extras_of_a_machine_are_read_back_from_its_manifest(wheels: list[Path]) -> None:
    plain = make_release("edge-runtime", TARGET, wheels, [])
    first = make_release("edge-runtime", TARGET, wheels, [], extras=["camera"])
    assert extras_of(plain.manifest) == frozenset()
    assert extras_of(first.manifest) == {"camera"}
    assert make_release("edge-runtime", TARGET, wheels, [], extras=extras_of(first.manifest)).name == first.name


def test_a_wheel_that_is_too_new_for_the_board_is_named(tmp_path: Path) -> None:
    wheel = tmp_path / "late-1-cp311-cp311-manylinux_2_34_aarch64.whl"
    wheel.write_text("x")
    with pytest.raises(UnfitError, match=r"glibc is 2\.28, and late-1"):
        make_release("edge-runtime", TARGET, [wheel], [])


def test_a_damaged_bundle_does_not_get_as_far_as_a_board(tmp_path: Path) -> None:
    root = bundle(tmp_path / "a")
    (root / "cut-001/head.tflite").write_text("HEAD")
    with pytest.raises(BadBundleError, match="does not have the hash in the manifest"):
        read_bundle(root)
    (root / "cut-001/head.tflite").unlink()
    with pytest.raises(BadBundleError, match="missing, but the manifest names it"):
        read_bundle(root)
    (root / "manifest.json").write_text("{")
    with pytest.raises(BadBundleError, match="not a bundle's manifest"):
        read_bundle(root)
    with pytest.raises(MissingError, match="give --bundle a folder"):
        read_bundle(tmp_path / "nowhere")


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd"])
def test_a_bundle_does_not_reach_outside_itself(tmp_path: Path, path: str) -> None:
    root = bundle(tmp_path / "a")
    (root / "manifest.json").write_text(json.dumps({"name": "tiny", "x": {"path": path, "sha256": "0" * 64}}))
    with pytest.raises(BadBundleError, match="outside the bundle"):
        read_bundle(root)


def test_a_name_that_a_shell_could_trip_over_is_refused(tmp_path: Path, wheels: list[Path]) -> None:
    root = bundle(tmp_path / "a")
    manifest = json.loads((root / "manifest.json").read_text())
    (root / "manifest.json").write_text(json.dumps({**manifest, "name": "two words"}))
    with pytest.raises(UsageError, match="two words"):
        make_release("cloud-server", TARGET, wheels, bundle_parts([read_bundle(root)], one=False))
