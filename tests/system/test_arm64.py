"""What a deployment puts onto a 64-bit ARM board runs there: the board's own script, its wheels, every head.

An arm64 root file system under qemu-user, without systemd and ssh: the steps of ``on_board.sh`` up to the trial,
which loads and runs every head of a bundle. Marked ``arm64``: it takes minutes.
"""

from __future__ import annotations

import shlex
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.bundles import read_bundle
from deploy.release import Release, bundle_parts, make_release
from deploy.target import Facts, Target, _choose_python, read_facts
from deploy.wheelhouse import wheels_for
from tests.system.rig import why_not
from tests.system.rig.bundles import tiny_bundle
from tests.system.rig.emulation import PROGRAMS, register_aarch64
from tests.system.rig.network import run
from tests.system.rig.rootfs import base

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "system"
pytestmark = [pytest.mark.arm64, pytest.mark.timeout(1800)]


class ArmBoard:
    """An arm64 root file system with an overlay of its own, and the script that runs on boards."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *command: str, stdin: bytes = b"") -> str:
        done = subprocess.run(
            ["chroot", str(self.root), *command], input=stdin, capture_output=True, check=False, timeout=900
        )
        assert done.returncode == 0, f"{shlex.join(command)[-200:]}\n{done.stdout.decode()}{done.stderr.decode()}"
        return done.stdout.decode()

    def step(self, *arguments: str, stdin: bytes = b"") -> str:
        script = (ROOT / "deploy/on_board.sh").read_text()
        return self.run("sh", "-c", 'text=$1; shift; eval "$text"', "deploy", script, *arguments, stdin=stdin)


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArmBoard]:
    reason = why_not(PROGRAMS) or register_aarch64()
    if reason:
        pytest.skip(f"{reason} (with --arm64)")
    rootfs = base(CACHE, architecture="arm64", packages=("python3",))
    folder = tmp_path_factory.mktemp("arm")
    for part in ("upper", "work", "root"):
        (folder / part).mkdir()
    root = folder / "root"
    run("mount", "-t", "overlay", "overlay", "-o",
        f"lowerdir={rootfs},upperdir={folder / 'upper'},workdir={folder / 'work'}", root)  # fmt: skip
    run("mount", "-t", "proc", "proc", root / "proc")
    run("mount", "--bind", "/dev", root / "dev")
    yield ArmBoard(root)
    run("umount", root / "proc", root / "dev", root)


@pytest.fixture(scope="module")
def facts(arm: ArmBoard) -> Facts:
    return read_facts(arm.step("edge-runtime", "facts"))


@pytest.fixture(scope="module", params=["litert", "legacy"])
def installed(arm: ArmBoard, facts: Facts, request: pytest.FixtureRequest, tmp_path_factory) -> Release:
    assert facts.glibc is not None
    target = Target(facts.machine, _choose_python(facts.pythons), facts.glibc)
    bundle = read_bundle(tiny_bundle(tmp_path_factory.mktemp("bundle")))
    release = make_release(
        "edge-runtime", target, wheels_for(target, request.param), bundle_parts([bundle], one=True)
    )
    sent = arm.root / "sent.tar"
    with tarfile.open(sent, "w") as tar:
        for part in release.missing(stored=facts.stored, environments=facts.environments):
            tar.add(part.source, part.sha256)
    arm.step("edge-runtime", "receive", stdin=sent.read_bytes())
    arm.step("edge-runtime", "install", release.name, stdin=release.manifest.encode())
    return release


def test_the_board_knows_what_it_is(facts: Facts) -> None:
    assert facts.machine == "aarch64"
    assert {python.bits for python in facts.pythons} == {64}


def test_every_head_of_a_bundle_runs_on_its_wheels(arm: ArmBoard, installed: Release) -> None:
    arm.step("edge-runtime", "trial", installed.name)
    journal = (arm.root / "opt/edge-runtime/journal").read_text()
    assert f"trial {installed.name} good" in journal


def test_keys_are_made_there(arm: ArmBoard, installed: Release) -> None:
    key = arm.step("edge-runtime", "keys", installed.name, "/etc/edge-runtime/device.key").strip()
    assert len(key) == 40
    assert (arm.root / "etc/edge-runtime/device.key").stat().st_mode & 0o777 == 0o600
