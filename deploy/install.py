"""Deploys to one host: finds the necessary steps, and does them in order."""

# Over 300 lines: the steps of one deployment, in their order, each with its messages.

from __future__ import annotations

import hashlib
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from deploy import configs, enrol
from deploy.errors import DeployError, UnfitError, UsageError
from deploy.folding import fold
from deploy.locks import SYSTEM_PACKAGES
from deploy.release import Part, Release, extras_of, hosted_parts, make_release
from deploy.remote import Remote
from deploy.target import Facts, choose_target, clock_warning, read_facts
from deploy.wheelhouse import wheels_for

SERVER_CONFIG = configs.config_path("cloud-server")
_SCRIPT = "on_board.sh"
#: Where the words of a message begin: behind the host, a colon, a blank, and the step's name.
_TEXT_AT = 11
_printing = threading.Lock()


@dataclass
class Outcome:
    """A line of the summary and its exit code. ``pending``: commands for the user to run elsewhere."""

    host: str
    result: str = ""
    release: str = ""
    sent_bytes: int = 0
    took_s: float = 0.0
    exit_code: int = 0
    pending: list[str] = field(default_factory=list)
    doctor: str = ""


@dataclass(frozen=True)
class Job:
    """The wanted state of every host.

    ``parts``: the bundles. ``first_config``: for a machine without a config. ``configs``: texts by path, for every
    machine. ``keep_hosted``: a server keeps the bundles it has. ``servers``: the servers of a board.
    ``server_config``: path of the config on a server that is not named. ``name``, ``replace``: the board's name at
    the server, and whether to take it from another board. ``readmit``: whether to admit a board again whose key was
    revoked there. ``extras``: to add; ``without``: to remove; a board keeps its other extras.
    """

    program: str
    backend: str
    parts: tuple[Part, ...]
    first_config: str
    configs: dict[str, str]
    servers: tuple[enrol.Server, ...] = ()
    server_config: str = SERVER_CONFIG
    name: str = ""
    replace: bool = False
    readmit: bool = False
    keep_hosted: bool = False
    dry_run: bool = False
    extras: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()


class Installation:
    """A job on one host. Every method is a step of `run`, and can be repeated."""

    def __init__(self, job: Job, remote: Remote, *, now: Callable[[], float] = time.time) -> None:
        self.outcome = Outcome(remote.destination)
        self._job = job
        self._remote = remote
        self._now = now

    def run(self) -> Outcome:
        """Run the necessary steps; a `DeployError` becomes the outcome's result."""
        started_s = time.monotonic()
        try:
            self._run()
        except DeployError as error:
            self.outcome.result = f"error: {error}"
            self.outcome.exit_code = error.exit_code
        self.outcome.took_s = time.monotonic() - started_s
        return self.outcome

    def _run(self) -> None:
        job = self._job
        facts = self._facts()
        if facts.unfinished and facts.root and not job.dry_run:
            self._begin()
            facts = self._facts()
        self._refuse_revoked(facts)
        warning = clock_warning(facts, now_s=self._now())
        if warning:
            self._say(f"warning: {warning}")
        release = self._release(facts)
        self.outcome.release = release.name
        offers = self._offers(facts)
        fresh = facts.release == release.name and all(facts.offered.get(path) == sha for sha, path, _ in offers)
        missing = release.missing(stored=facts.stored, environments=facts.environments)
        if job.extras and not job.dry_run:
            self._packages(job.extras)
        if fresh and facts.active == "active" and not facts.unfinished:
            self._settled(facts)
            return
        self._check_disk(facts, release, missing)
        if job.dry_run:
            self._tell_plan(facts, release, missing, offers)
            return
        self._begin()
        if not fresh:
            self._send(release, missing)
        self._step("install", release.name, text=release.manifest)
        key = self._step("keys", release.name).strip()
        if not fresh:
            self._say(
                "trial    the new release, beside the one in use" if facts.release else "trial    of the release"
            )
            for line in self._step("trial", release.name).splitlines():
                self._say(line)
        self._enrol(facts, key)
        self._say(f"switch   to release {release.name}")
        for line in self._activate(release, offers).splitlines():
            self._say(line)
        self.outcome.result = "deployed" if not self.outcome.pending else "deployed, not enrolled"
        self.outcome.doctor = self._step("doctor")

    def _refuse_revoked(self, facts: Facts) -> None:
        for server in () if self._job.readmit else self._job.servers:
            enrol.refuse_revoked(server, (facts.public_key, facts.earlier_key, facts.next_key))

    def _packages(self, extras: Iterable[str]) -> None:
        """Install packages of the machine's own system. Without them an extra does less, which is reported."""
        for extra in sorted(SYSTEM_PACKAGES.keys() & set(extras)):
            for line in self._step("packages", *SYSTEM_PACKAGES[extra]).splitlines():
                self._say(line)

    def _begin(self) -> None:
        for line in self._step("begin").splitlines():
            self._say(line)

    def _offers(self, facts: Facts) -> list[tuple[str, str, str]]:
        """The configs for this machine: SHA-256, path and text of each."""
        job = self._job
        main = configs.config_path(job.program)
        texts = dict(job.configs)
        if not facts.configured:
            texts.setdefault(main, job.first_config)
            if job.program == "edge-runtime" and configs.SERVER_PATH not in texts and "[server]" not in texts[main]:
                raise UsageError("this board has no config yet", remedy="give --server (and --server-key)")
        return [(hashlib.sha256(text.encode()).hexdigest(), path, text) for path, text in sorted(texts.items())]

    def _activate(self, release: Release, offers: list[tuple[str, str, str]]) -> str:
        with tempfile.TemporaryDirectory() as scratch:
            files = []
            for sha256, _, text in offers:
                path = Path(scratch) / sha256
                path.write_bytes(text.encode())
                files.append((sha256, path))
            arguments = [word for sha256, path, _ in offers for word in (sha256, path)]
            return self._remote.step(_SCRIPT, release.program, "activate", release.name, *arguments, files=files)

    def _facts(self) -> Facts:
        return read_facts(self._remote.step(_SCRIPT, self._job.program, "facts", root=False))

    def _release(self, facts: Facts) -> Release:
        job = self._job
        target = choose_target(facts)
        self._say(f"check    {facts.machine}, Python {'.'.join(map(str, target.python.version))}, "
                  f"glibc {'.'.join(map(str, target.glibc))}: fits")  # fmt: skip
        hosted = hosted_parts(facts.manifest) if job.keep_hosted else ()
        extras = (job.extras | extras_of(facts.manifest)) - job.without
        wheels = wheels_for(target, job.backend, extras)
        return make_release(job.program, target, wheels, [*hosted, *job.parts], extras=extras)

    def _settled(self, facts: Facts) -> None:
        """Finish if the release is in use and the service runs; only the server's part may be missing."""
        self._enrol(facts, facts.public_key, dry_run=self._job.dry_run)
        self.outcome.result = "unchanged" if not self.outcome.pending else "unchanged, not enrolled"

    def _check_disk(self, facts: Facts, release: Release, missing: Iterable[Part]) -> None:
        needed_kib = release.disk_kib(missing)
        if facts.disk_kib < needed_kib:
            raise UnfitError(
                f"it needs {needed_kib // 1024} MiB under /opt and has {facts.disk_kib // 1024} MiB",
                remedy="make room",
            )

    def _tell_plan(
        self, facts: Facts, release: Release, missing: list[Part], offers: list[tuple[str, str, str]]
    ) -> None:
        size_mb = sum(part.size_bytes for part in missing) / 1e6
        if facts.unfinished:
            self._say("would first end a switch that is under way or was interrupted")
        self._say(f"would send {len(missing)} files, {size_mb:.1f} MB")
        for part in missing:
            self._say(f"    {part.kind} {part.path}, {part.size_bytes / 1e6:.2f} MB")
        self._say(f"would switch from {facts.release or 'nothing'} to release {release.name}")
        for sha256, path, _ in offers:
            if facts.offered.get(path) != sha256:
                self._say(f"would write {path}, unless it was edited there")
        if not facts.public_key:
            where = " and ".join(server.destination for server in self._job.servers)
            self._say("would make its keys there" + (f" and enrol them at {where}" if where else ""))
        self.outcome.result = "dry run: would deploy"

    def _send(self, release: Release, missing: list[Part]) -> None:
        sources = [(part.sha256, part.source) for part in missing if part.source is not None]
        if len(sources) < len(missing):
            raise DeployError("a bundle that it hosts is damaged there", remedy="name it with --bundle again")
        if not sources:
            return
        self.outcome.sent_bytes = sum(part.size_bytes for part in missing)
        self._say(f"receive  {self.outcome.sent_bytes / 1e6:.1f} MB in {len(sources)} files")
        self._remote.step(_SCRIPT, release.program, "receive", files=sources)

    def _enrol(self, facts: Facts, key: str, *, dry_run: bool = False) -> None:
        """Enrol the board at every server."""
        for server in self._job.servers:
            self._enrol_at(server, facts, key, dry_run=dry_run)

    def _enrol_at(self, server: enrol.Server, facts: Facts, key: str, *, dry_run: bool) -> None:
        if not key or server.enrolled(key):
            return
        name = self._name(facts)
        earlier, replace = facts.earlier_key, self._job.replace
        if dry_run:
            free = enrol.free_name(server, name, key, earlier=earlier, replace=replace)
            self._say(f"would enrol {free} at {server.destination}")
            return
        try:
            with _printing:  # one at a time at the server, too
                said = enrol.enrol(server, name, key, earlier=earlier, replace=replace)
            at = f" at {server.destination}" if len(self._job.servers) > 1 else ""
            self._say(f"enrol    {said}{at}" if said else f"enrol    its key is allowed already{at}")
        except DeployError as error:
            self._say(f"enrol    not done: {error}")
            free = enrol.free_name(server, name, key, earlier=earlier)
            self._leave(server, enrol.allow_command(server.config, free, key))

    def _leave(self, server: enrol.Server, command: str) -> None:
        """Note a command that the user has to run on a server; with several servers it names the server."""
        self.outcome.pending.append(f"{command}  # {server.destination}" if len(self._job.servers) > 1 else command)

    def _name(self, facts: Facts) -> str:
        return self._job.name or enrol.device_name(facts.hostname)

    def uninstall(self, *, purge: bool) -> Outcome:
        """Remove everything that `run` has made."""
        started_s = time.monotonic()
        try:
            facts = self._facts()
            if self._job.dry_run:
                self._say(
                    f"would remove release {facts.release or '(none)'}, its service and /opt/{self._job.program}"
                )
                self.outcome.result = "dry run: would uninstall"
            else:
                self._revoke(facts)  # first: after that the board's key is gone
                for line in self._step("uninstall", *(["purge"] if purge else [])).splitlines():
                    self._say(line)
                self.outcome.result = "uninstalled"
        except DeployError as error:
            self.outcome.result = f"error: {error}"
            self.outcome.exit_code = error.exit_code
        self.outcome.took_s = time.monotonic() - started_s
        return self.outcome

    def _revoke(self, facts: Facts) -> None:
        """Remove every key of this board from the servers' lists.

        What cannot be done now is added to ``outcome.pending`` as a command for the user to run on the server.
        """
        keys = {facts.public_key, facts.earlier_key, facts.next_key} - {""}
        if self._job.program != "edge-runtime" or not (keys or facts.release):
            return
        if not self._job.servers:
            self.outcome.pending.append(enrol.revoke_command(self._job.server_config, self._name(facts)))
        for server in self._job.servers:
            self._revoke_at(server, facts, keys)

    def _revoke_at(self, server: enrol.Server, facts: Facts, keys: set[str]) -> None:
        if server.reached is None:
            self._leave(server, enrol.revoke_command(server.config, self._name(facts)))
            return
        names = [name for name, key in server.devices.items() if key in keys]
        if not names:
            why = "no entry has its key" if keys else "its key is unknown"
            board, command = self._remote.destination, enrol.revoke_command(server.config)
            self.outcome.pending.append(f"{command}  # {board}: {why}; revoke it if it is listed")
        for name in names:
            self._revoke_one(server, server.reached, name)

    def _revoke_one(self, server: enrol.Server, reached: Remote, name: str) -> None:
        try:
            reached.step("on_server.sh", "revoke", server.config, name)
            del server.devices[name]
            self._say(f"revoked {name} at {server.destination}")
        except DeployError as error:
            self._say(f"revoke   not done: {error}")
            self._leave(server, enrol.revoke_command(server.config, name))

    def _step(self, step: str, *arguments: str, text: str = "") -> str:
        return self._remote.step(_SCRIPT, self._job.program, step, *arguments, text=text)

    def _say(self, text: str) -> None:
        with _printing:
            line = f"{self._remote.destination}: {text}"
            print(
                fold(line, sys.stderr, indent=len(self._remote.destination) + _TEXT_AT), file=sys.stderr, flush=True
            )


def summary(outcomes: list[Outcome]) -> str:
    """The table at the end, with one line for each host."""
    rows = [("host", "release", "sent", "took", "result")]
    rows += [
        (o.host, o.release or "-", f"{o.sent_bytes / 1e6:.1f} MB", f"{o.took_s:.0f} s", o.result) for o in outcomes
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]) for row in rows
    ]
    return "\n".join(fold(line, sys.stdout, indent=4) for line in lines)
