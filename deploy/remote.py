"""Runs steps on another machine over the user's OpenSSH, with the user's config, agent and known_hosts.

One master connection for each host carries every step; host keys are checked by the user's config. If the
connection breaks, the step under way goes on there or can be repeated.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from deploy.errors import BadBundleError, DeployError, NotAllowedError, RolledBackError, UnreachableError

_HERE = Path(__file__).parent
#: SSH options: a link that is silent for half a minute counts as broken.
_ALIVE = ("-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3")
_CONNECT_S = 20
_SSH_FAILED = 255
_AS_ROOT = 'if [ "$(id -u)" -eq 0 ]; then exec "$@"; else exec sudo -n "$@"; fi'
_EVALUATE = 'text=$1; shift; eval "$text"'
_ERRORS: dict[int, type[DeployError]] = {65: BadBundleError, 70: RolledBackError, 77: NotAllowedError}


class Remote:
    """One machine. ``options``: passed to every ssh; ``scratch``: a folder for the connection's socket."""

    def __init__(self, destination: str, *, options: Sequence[str], scratch: Path, batch: bool) -> None:
        self.destination = destination
        self._options = (*options, *_ALIVE, *(("-o", "BatchMode=yes") if batch else ()))
        self._socket = Path(tempfile.mkdtemp(dir=scratch)) / "s"
        self._master: subprocess.Popen[bytes] | None = None
        self._said = scratch / f"{self._socket.parent.name}.log"

    def connect(self) -> None:
        """Open the connection; ssh may ask for a passphrase on the terminal. May raise `UnreachableError`."""
        command = ["ssh", *self._options, "-o", f"ConnectTimeout={_CONNECT_S}", "-o", "ControlMaster=yes",
                   "-o", f"ControlPath={self._socket}", "-o", "ControlPersist=no", "-N",
                   self.destination]  # fmt: skip
        with self._said.open("wb") as said:
            self._master = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        while not self._socket.exists():
            if self._master.poll() is not None:
                raise UnreachableError(f"no SSH connection: {self._reason()}")
            time.sleep(0.02)

    def _reason(self) -> str:
        lines = [line for line in self._said.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip() if lines else "ssh gives no reason"

    def close(self) -> None:
        """Close the connection."""
        if self._master is not None and self._master.poll() is None:
            self._master.terminate()
            self._master.wait()

    def hostname(self) -> str:
        """The name or address that ssh would connect to, after aliases."""
        done = subprocess.run(
            ["ssh", *self._options, "-G", self.destination], capture_output=True, text=True, check=True
        )
        return next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("hostname "))

    def step(
        self,
        script: str,
        *arguments: str,
        root: bool = True,
        text: str = "",
        files: Iterable[tuple[str, Path]] | None = None,
    ) -> str:
        """Run one step of a script of ours there and return its output.

        ``arguments``: for ``on_board.sh`` the program, the step, and the step's own. ``text`` or a tar of ``files``
        (name, path) is its standard input. Raises `UnreachableError` if the connection breaks, and the error of the
        step's exit code.
        """
        evaluate = ["sh", "-c", _EVALUATE, "deploy", (_HERE / script).read_text(), *arguments]
        remote = ["sh", "-c", _AS_ROOT, "deploy", *evaluate] if root else evaluate
        command = ["ssh", *self._options, "-o", "ControlMaster=no", "-o", f"ControlPath={self._socket}",
                   self.destination, shlex.join(remote)]  # fmt: skip
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said)
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                _send(process.stdin, text, files)
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.stdin = None
            printed, _ = process.communicate()
            said.seek(0)
            complaint = said.read().decode(errors="replace")
        if process.returncode:
            raise _error(process.returncode, complaint, arguments[1 if script == "on_board.sh" else 0])
        return printed.decode(errors="replace")


def _send(stdin: IO[bytes], text: str, files: Iterable[tuple[str, Path]] | None) -> None:
    if files is None:
        stdin.write(text.encode())
        return
    with tarfile.open(fileobj=stdin, mode="w|", format=tarfile.USTAR_FORMAT) as tar:
        for name, path in files:
            entry = tarfile.TarInfo(name)
            entry.size = path.stat().st_size
            with path.open("rb") as file:
                tar.addfile(entry, file)


def _error(code: int, complaint: str, step: str) -> DeployError:
    lines = [line.removeprefix("error: ").strip() for line in complaint.splitlines() if line.strip()]
    # OpenSSH's own messages, if any, come after the output of the step.
    what = " ".join(lines[-3:]) or "no reason given"
    if code == _SSH_FAILED:
        return UnreachableError(
            f"the connection broke during '{step}' ({what})",
            remedy="run the same command again: finished steps are kept",
        )
    return _ERRORS.get(code, DeployError)(what if code in _ERRORS else f"step '{step}' failed ({code}): {what}")
