"""Whether this machine can run the system tests, and if not, why."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Iterable

PROGRAMS = ("ip", "tc", "mmdebstrap", "systemd-nspawn", "nsenter", "setpriv", "ssh", "ssh-keygen", "socat")


def why_not(programs: Iterable[str] = PROGRAMS) -> str:
    """The reason for skipping, or an empty text."""
    if os.geteuid() != 0:
        return "needs root: network namespaces, mounts and systemd-nspawn"
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        return f"not installed: {', '.join(missing)}; run tests/system/install-packages.sh as root"
    return _why_no_namespaces()


@functools.cache
def _why_no_namespaces() -> str:
    name = f"split-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces are not to be had: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""
