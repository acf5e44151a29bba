"""Programs of a 64-bit ARM board on this machine, by qemu-user: slow, and it says nothing about a board's speed."""

from __future__ import annotations

from pathlib import Path

from tests.system.rig.network import run

PROGRAMS = ("mmdebstrap", "arch-test", "qemu-aarch64-static")
_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_RULE = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")


def register_aarch64() -> str:
    """Let the kernel start aarch64 programs (and no others) with qemu; why it cannot, or an empty text."""
    if not (_BINFMT / "register").exists():
        mounted = run("mount", "-t", "binfmt_misc", "binfmt_misc", _BINFMT, check=False)
        if mounted.returncode:
            return f"binfmt_misc is not to be had: {mounted.stderr.strip()}"
    if not (_BINFMT / "qemu-aarch64").exists():
        try:
            (_BINFMT / "register").write_text(_RULE.read_text().splitlines()[-1])
        except OSError as error:
            return f"qemu-aarch64 is not registered: {error}"
    return ""
