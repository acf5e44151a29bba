"""Our programs installed in a machine without a deployment: a layer to lay over the root file system.

It has both programs where a deployment has them, ``/opt/edge-runtime/current/bin`` and
``/opt/cloud-server/current/bin``, and on the path. No units, no config, no keys: a test brings those itself.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from deploy.target import Python, Target
from deploy.wheelhouse import wheels_for
from tests.system.rig.network import run

PROGRAMS = ("edge-runtime", "cloud-server")
#: What the root file system has.
TARGET = Target("x86_64", Python("/usr/bin/python3.11", (3, 11), 64, venv=True), (2, 36))


def product_layer(cache: Path, rootfs: Path) -> Path:
    """Make the layer for this checkout, or take the one that is there; about 10 s after a change."""
    wheels = wheels_for(TARGET, "litert")
    names = "\n".join([rootfs.name, *(f"{path.parent.name}/{path.name}" for path in wheels)])
    layer = cache / f"product-{hashlib.sha256(names.encode()).hexdigest()[:12]}"
    if not layer.exists():
        for old in cache.glob("product-*"):
            run("rm", "-rf", "--one-file-system", old)
        partial = cache / "product-partial"
        upper, work, root = (partial / part for part in ("upper", "work", "root"))
        for folder in (upper, work, root):
            folder.mkdir(parents=True)
        upper.chmod(0o755)
        run("mount", "-t", "overlay", "overlay", "-o",
            f"lowerdir={rootfs},upperdir={upper},workdir={work}", root)  # fmt: skip
        try:
            _install(root, wheels)
        finally:
            run("umount", root)
        upper.rename(layer)
        shutil.rmtree(partial)
    return layer


def _install(root: Path, wheels: list[Path]) -> None:
    wheelhouse = root / "wheels"
    wheelhouse.mkdir()
    for wheel in wheels:
        shutil.copy(wheel, wheelhouse)
    venv = "/opt/edge-runtime/releases/test/venv"
    (root / venv[1:]).parent.mkdir(parents=True)
    names = [f"/wheels/{wheel.name}" for wheel in wheels]
    pip = next(name for name in names if name.startswith("/wheels/pip-"))
    run("chroot", root, "python3", "-m", "venv", "--without-pip", venv)
    run("chroot", root, f"{venv}/bin/python", f"{pip}/pip", "install", "--quiet", "--no-index", "--no-deps",
        "--no-cache-dir", *(name for name in names if name != pip))  # fmt: skip
    shutil.rmtree(wheelhouse)
    for program in PROGRAMS:
        home = root / "opt" / program
        home.mkdir(exist_ok=True)
        (home / "current").symlink_to("/opt/edge-runtime/releases/test")
    (root / "opt/edge-runtime/releases/test/bin").symlink_to("venv/bin")
    for program in PROGRAMS:
        (root / "usr/local/bin" / program).symlink_to(f"/opt/{program}/current/bin/{program}")
