"""A Debian root file system as a board has it, built once with mmdebstrap and kept under ``build/system``.

In it is what a fresh 64-bit Raspberry Pi OS Lite has and we rely on: systemd, OpenSSH, Python with venv, and a user
``pi`` who may use sudo without a password. Nothing of ours.
"""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
import time
from pathlib import Path

from tests.system.rig.network import run

SUITE = "bookworm"
PACKAGES = (
    "ca-certificates", "dbus", "iproute2", "iputils-ping", "kmod", "openssh-server", "procps", "python3",
    "python3-venv", "sudo", "systemd", "systemd-sysv", "udev",
)  # fmt: skip
USER = "pi"
#: Raise it when `_furnish` changes.
REVISION = 1


def base(cache: Path, *, architecture: str = "amd64", packages: tuple[str, ...] = PACKAGES) -> Path:
    """The root file system, built now if it is not there. Never write into it: machines lay an overlay over it.

    It takes about 35 s and 320 MB the first time. ``cache`` is made. Without systemd among the packages it gets no
    user and is there to run programs in; see `emulation` for other architectures than this machine's.
    """
    wanted = repr((SUITE, packages, REVISION))
    root = cache / f"rootfs-{architecture}-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "rootfs.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            partial = root.with_suffix(".partial")
            run("rm", "-rf", "--one-file-system", partial)
            _build(partial, architecture, packages)
            if "systemd" in packages:
                _furnish(partial)
            partial.rename(root)
    return root


def _build(root: Path, architecture: str, packages: tuple[str, ...]) -> None:
    started_s = time.monotonic()
    print(f"building a {architecture} root file system of Debian {SUITE}", file=sys.stderr, flush=True)
    log = root.with_suffix(".log")
    with log.open("wb") as output:
        done = subprocess.run(
            [
                "mmdebstrap",
                "--variant=minbase",
                f"--architectures={architecture}",
                f"--include={','.join(packages)}",
                "--dpkgopt=path-exclude=/usr/share/man/*",
                "--dpkgopt=path-exclude=/usr/share/doc/*",
                "--dpkgopt=path-exclude=/usr/share/locale/*",
                SUITE,
                str(root),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            check=False,
        )
    assert done.returncode == 0, f"mmdebstrap failed; {log}:\n{log.read_text(errors='replace')[-2000:]}"
    print(f"built in {time.monotonic() - started_s:.0f} s", file=sys.stderr, flush=True)


def _furnish(root: Path) -> None:
    """The user, and nothing that works in the background while a test runs."""
    run("chroot", root, "useradd", "--create-home", "--shell", "/bin/bash", "--groups", "dialout,video", USER)
    sudoers = root / "etc/sudoers.d/010_pi-nopasswd"
    sudoers.write_text(f"{USER} ALL=(ALL) NOPASSWD: ALL\n")
    sudoers.chmod(0o440)
    for unit in ("apt-daily.timer", "apt-daily-upgrade.timer", "fstrim.timer", "e2scrub_all.timer"):
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
