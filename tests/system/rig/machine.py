"""One booted machine: a copy of a root file system, a systemd in it, a network namespace around it, OpenSSH to it.

There are two ways in. `Machine.run` enters as root past network and sshd, so it works with the link down.
`Machine.ssh` is what a user does: OpenSSH, with a config and a known_hosts file of the machine's own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.system.rig.network import run
from tests.system.rig.rootfs import USER

PATIENCE_S = 60.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: A container's systemd must not sit at the root of this machine's control groups.
_IN_OWN_CGROUP = """
for root in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
    [ -e "$root/cgroup.procs" ] || continue
    mkdir -p "$root/$1" && echo $$ > "$root/$1/cgroup.procs" || exit 9
done
shift
exec "$@"
"""


class Machine:
    """A machine in ``namespace`` at ``address``, made from ``layers``: root file systems, the uppermost first.

    ``proxy`` is the ssh config's ProxyCommand: how a workstation outside all namespaces gets there.
    """

    def __init__(
        self, name: str, *, layers: Sequence[Path], folder: Path, namespace: str, address: str, proxy: str
    ) -> None:
        self.name = name
        self.namespace = namespace
        self.address = address
        self.folder = folder.resolve() / f"{os.getpid()}-{uuid.uuid4().hex[:8]}-{name}"
        self.root = self.folder / "root"
        self.ssh_config = self.folder / "ssh_config"
        self._layers = tuple(layers)
        self._proxy = proxy
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def make(self) -> Machine:
        """Lay out its files; nothing runs yet."""
        self.folder.mkdir(parents=True)
        for part in ("upper", "work", "root"):
            (self.folder / part).mkdir()
        # Its permissions are the root folder's, and sshd refuses keys below a root that others may write to.
        (self.folder / "upper").chmod(0o755)
        lower = ":".join(map(str, self._layers))
        options = f"lowerdir={lower},upperdir={self.folder / 'upper'},workdir={self.folder / 'work'}"
        mounted = run("mount", "-t", "overlay", "overlay", "-o", options, self.root, check=False)
        if mounted.returncode:  # no overlay on this file system: copy
            for layer in reversed(self._layers):
                run("cp", "-a", "--reflink=auto", f"{layer}/.", self.root)
        (self.root / "etc/hostname").write_text(f"{self.name}\n")
        (self.root / "etc/hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n")
        (self.root / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
        self._make_ssh()
        return self

    def _make_ssh(self) -> None:
        key, host_key = self.folder / "id_ed25519", self.root / "etc/ssh/ssh_host_ed25519_key"
        host_key.unlink(missing_ok=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "rig", "-f", key)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "rig", "-f", host_key)
        for home, owner in ((self.root / "root", "0:0"), (self.root / "home" / USER, "1000:1000")):
            (home / ".ssh").mkdir(mode=0o700, exist_ok=True)
            shutil.copy(key.with_suffix(".pub"), home / ".ssh/authorized_keys")
            run("chown", "-R", owner, home / ".ssh")
        known = self.folder / "known_hosts"
        public = host_key.with_suffix(".pub").read_text().rsplit(" ", 1)[0]
        known.write_text(f"{self.address} {public}\n")
        self.ssh_config.write_text(
            f"Host {self.name}\n"
            f"    HostName {self.address}\n"
            f"    HostKeyAlias {self.address}\n"
            f"    User {USER}\n"
            f"    IdentityFile {key}\n"
            "    IdentitiesOnly yes\n"
            f"    UserKnownHostsFile {known}\n"
            "    StrictHostKeyChecking yes\n"
            f"    ProxyCommand {self._proxy}\n"
        )

    def boot(self, *options: str) -> Machine:
        """Start its systemd and wait until it is up and sshd listens; ``options`` are systemd-nspawn's."""
        inner = [
            "systemd-nspawn", "--quiet", f"--directory={self.root}", "--boot", "--register=no", "--keep-unit",
            f"--machine={self.name}", f"--network-namespace-path=/run/netns/{self.namespace}",
            "--resolv-conf=off", "--timezone=off", "--console=pipe", *options,
        ]  # fmt: skip
        command = ["sh", "-c", _IN_OWN_CGROUP, "sh", f"split-{self.folder.name}"]
        with (self.folder / "console.log").open("ab") as console:
            self._process = subprocess.Popen(
                [*command, "setpriv", "--pdeathsig", "KILL", *inner],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        try:
            self._leader = self.until(self._find_leader, "no first process")
            self.until(lambda: self.run("systemctl is-active ssh", check=False).returncode == 0, "sshd is not up")
        except BaseException:
            self.kill()
            raise
        return self

    def _find_leader(self) -> int:
        """The machine's process 1, as this machine numbers it; systemd-nspawn has other children before it."""
        assert self._process is not None
        assert self._process.poll() is None, self.console()
        pid = self._process.pid
        with contextlib.suppress(FileNotFoundError):
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                    return int(child)
        return 0

    @property
    def leader(self) -> int:
        """Its process 1, as seen from outside."""
        return self._leader

    def console(self) -> str:
        return (self.folder / "console.log").read_text(errors="replace")

    def inside(self, command: Sequence[str | Path]) -> list[str]:
        """A command line that runs ``command`` as root in the machine, past network and sshd."""
        enter = ["nsenter", "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd=/", "--target"]
        clean = ["env", "-i", f"PATH={_PATH}", "HOME=/root", "LANG=C.UTF-8", "TERM=dumb"]
        return [*enter, str(self._leader), *clean, *map(str, command)]

    def run(
        self, script: str, *, check: bool = True, stdin: str = "", timeout_s: float = PATIENCE_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell script as root, past network and sshd."""
        return self._run(self.inside(["sh", "-c", script]), script, check, stdin, timeout_s)

    def ssh(
        self,
        script: str,
        *,
        user: str = USER,
        check: bool = True,
        stdin: str = "",
        timeout_s: float = PATIENCE_S,
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell script over OpenSSH as a user would."""
        command = ["ssh", "-F", str(self.ssh_config), "-o", "BatchMode=yes", f"{user}@{self.name}", script]
        return self._run(command, script, check, stdin, timeout_s)

    def _run(
        self, command: list[str], script: str, check: bool, stdin: str, timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=timeout_s)
        assert not check or done.returncode == 0, (
            f"{self.name}: {script}\nexit {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done

    def path(self, inside: str) -> Path:
        """Where a file of the machine is on this one, but for what systemd mounts there (/run, /tmp)."""
        return self.root / inside.lstrip("/")

    def put(self, inside: str, text: str, mode: int = 0o644) -> None:
        """Write a file as root; ``/run`` and ``/tmp`` do too."""
        self.run(f"mkdir -p $(dirname '{inside}'); cat > '{inside}'; chmod {mode:o} '{inside}'", stdin=text)

    def state(self, unit: str, key: str = "ActiveState") -> str:
        """One property of a unit, as systemd tells it."""
        return self.run(f"systemctl show --value --property={key} {unit}").stdout.strip()

    def journal(self, unit: str = "") -> str:
        choice = f"--unit={unit}" if unit else ""
        return self.run(f"journalctl --no-pager --output=short-precise {choice}", check=False).stdout

    def until(self, holds: Callable[[], Any], what: str, *, timeout_s: float = PATIENCE_S) -> Any:
        """Poll until ``holds()`` is true and return what it gave; the failure shows the console."""
        until_s = time.monotonic() + timeout_s
        while not (value := holds()):
            assert time.monotonic() < until_s, f"{self.name}: {what}\n{self.console()[-2000:]}"
            time.sleep(0.05)
        return value

    def layer(self, to: Path) -> Path:
        """Shut it down and keep all that was changed in it as a layer for other machines; this one is gone then."""
        self.poweroff()
        run("umount", self.root)
        (self.folder / "upper").rename(to)
        self.close()
        return to

    def poweroff(self) -> None:
        """Shut down as by the power button."""
        if self._process is None:
            return
        self.run("systemctl --no-block poweroff", check=False)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(20)
        self.kill()

    def kill(self) -> None:
        """Pull its power cable."""
        if self._process is None:
            return
        if self._leader and self._process.poll() is None:
            # All at once: a process that saw the machine's systemd die first would still do something about it.
            for _ in range(2):
                _stop_all(f"/proc/{self._leader}/ns/pid")
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._leader, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
        self._process.kill()
        self._process.wait()
        self._process, self._leader = None, 0

    def close(self) -> None:
        """Pull the cable and delete its files."""
        self.kill()
        remove(self.folder)
        for hierarchy in ("systemd/", "unified/", ""):
            _remove_cgroup(Path(f"/sys/fs/cgroup/{hierarchy}split-{self.folder.name}"))


def _stop_all(namespace: str) -> None:
    """Stop every process of a process namespace."""
    with contextlib.suppress(FileNotFoundError):
        wanted = os.readlink(namespace)  # noqa: PTH115  a name that leads nowhere
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it is gone, or none of ours
                if os.readlink(process / "ns/pid") == wanted:  # noqa: PTH115
                    os.kill(int(process.name), signal.SIGSTOP)


def remove(folder: Path) -> None:
    """Delete a machine's files, its mount first."""
    for _ in range(100):
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        here = [mount for mount in mounts if mount.startswith(f"{folder}/")]
        if not here or run("umount", *reversed(here), check=False).returncode == 0:
            break
        time.sleep(0.05)  # the last processes are going
    run("rm", "-rf", "--one-file-system", folder)


def clear_left_over(folder: Path) -> None:
    """Delete what runs that no longer live have left in ``folder``."""
    for left in folder.resolve().glob("*-*-*"):
        if not Path(f"/proc/{left.name.split('-')[0]}").exists():
            remove(left)


def _remove_cgroup(folder: Path) -> None:
    for path in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        with contextlib.suppress(OSError):
            path.rmdir()
    with contextlib.suppress(OSError):
        folder.rmdir()
