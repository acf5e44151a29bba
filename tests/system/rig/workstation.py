"""Where the user sits: this checkout's deploy scripts, and an ``ssh`` that knows the machines of the rig.

In front of the path stands an ``ssh`` that hands OpenSSH the config of the rig, as it would find the user's own
~/.ssh/config by itself.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.system.rig.machine import Machine

ROOT = Path(__file__).resolve().parents[3]
#: A command in a page of the documentation.
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Workstation:
    """Runs commands of this checkout; ``machines`` are the hosts that its ssh config knows."""

    def __init__(self, folder: Path, machines: Sequence[Machine]) -> None:
        self.folder = folder
        self._bin = folder / "bin"
        self._bin.mkdir(parents=True)
        self.ssh_config = folder / "ssh_config"
        self.ssh_config.write_text("".join(machine.ssh_config.read_text() for machine in machines))
        real = shutil.which("ssh")
        (self._bin / "ssh").write_text(f'#!/bin/sh\nexec {real} -F {self.ssh_config} "$@"\n')
        (self._bin / "ssh").chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": f"{self._bin}:{os.environ['PATH']}"}

    def start(self, *command: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=self.environment,
        )

    def run(self, *command: str | Path, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run a command in the checkout's root; ``code`` is the exit code it must have, None for any."""
        process = self.start(*command)
        stdout, stderr = process.communicate(timeout=400)
        done = subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
        assert code is None or done.returncode == code, f"exit {done.returncode}\n{stdout}\n{stderr}"
        return done

    def reaches(self, host: str) -> bool:
        """Whether SSH to a machine works now: after a link was down it takes a moment."""
        return self.run("ssh", "-o", "ConnectTimeout=2", host, "true", code=None).returncode == 0

    def deploy(self, *arguments: str | Path, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        return self.run("deploy/deploy.sh", *arguments, code=code)

    def deploy_server(self, *arguments: str | Path, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        return self.run("deploy/deploy-server.sh", *arguments, code=code)


def typed(block: str, desk: Workstation) -> str:
    """What a block prints; it must end well."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=ROOT, env=desk.environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    return done.stdout
