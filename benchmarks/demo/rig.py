"""The pieces of a run with real processes on this machine: one server, and devices behind emulated links.

Used by the demonstration and by the benchmarks that need the real programs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from split_model.errors import SplitModelError


class RigError(SplitModelError, RuntimeError):
    """A program of the run did not start, or ended with an error; the text has the end of its log."""

    exit_code = os.EX_SOFTWARE


@dataclass
class Program:
    """A child process with its log in a file."""

    name: str
    process: subprocess.Popen[str]
    log: Path

    def check(self) -> None:
        """Raise `RigError` if it has ended with an error."""
        if (code := self.process.poll()) not in (None, 0):
            raise RigError(f"{self.name} ended with exit code {code}: {self.tail()}")

    def tail(self) -> str:
        """The last line of its log."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "nothing logged"

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the program with SIGTERM, and with SIGKILL if it goes on."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@dataclass
class Rig:
    """A folder and the programs that run in it; a context manager that leaves none of them behind."""

    folder: Path
    programs: list[Program] = field(default_factory=list)

    def __enter__(self) -> Rig:  # noqa: PYI034  nobody subclasses it
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        for program in reversed(self.programs):
            program.stop()

    def start(
        self, name: str, *arguments: str, wait_json: bool = False, prefix: Sequence[str] = ()
    ) -> tuple[Program, dict[str, Any]]:
        """Start a Python program; with ``wait_json``, read its first line of standard output as JSON.

        ``prefix``: a command to run it by.
        """
        log = self.folder / f"{name}.log"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [*prefix, sys.executable, *arguments],
                stdout=subprocess.PIPE if wait_json else subprocess.DEVNULL,
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                text=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        program = Program(name, process, log)
        self.programs.append(program)
        if not wait_json:
            return program, {}
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            process.wait()
            raise RigError(f"{name} did not start: {program.tail()}")
        first: dict[str, Any] = json.loads(line)
        return program, first

    def run(self, name: str, *arguments: str) -> str:
        """Run a command to its end and return its output; raise `RigError` if it fails."""
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise RigError(f"{name} failed (exit code {done.returncode}): {lines[-1] if lines else 'no message'}")
        return done.stdout

    def link(self, name: str, *, upstream_port: int, capacity: tuple[str, ...]) -> int:
        """Start an emulated link to the server; returns the port that devices connect to.

        Its trace starts at once, and again from its beginning at SIGUSR1.
        """
        _, ready = self.start(
            name,
            "-m",
            "benchmarks.wire.link",
            "--upstream",
            f"127.0.0.1:{upstream_port}",
            *capacity,
            wait_json=True,
        )
        return int(ready["port"])

    def server(self, bundle: Path, *, address: str = "tcp://127.0.0.1:0") -> tuple[Path, int]:
        """Make a server's keys and config and start it on a free port; returns its config and port."""
        config = self.folder / "server.toml"
        config.write_text(
            f'[server]\nlisten = "{address}"\nkey = "server.key"\ndevices = "devices"\n'
            f"bundles = [{json.dumps(str(bundle.resolve()))}]\npreload = true\n"
        )
        self.run("cloud-server keys", "-m", "cloud_server", "keys", "make", "-c", str(config))
        return config, self.serve(config)

    def serve(self, config: Path, *, by: Sequence[str] = (), prefix: Sequence[str] = ()) -> int:
        """Start a server that has keys and a config; returns its port once devices can connect.

        ``by``: A module, with its arguments, that runs the server; none by default.
        ``prefix``: Command that starts it, such as taskset.
        """
        program, _ = self.start("server", "-m", *by, "cloud_server", "run", "-c", str(config), prefix=prefix)
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s:
            program.check()
            done = subprocess.run(
                [sys.executable, "-m", "cloud_server", "status", "-c", str(config), "--json"],
                capture_output=True,
                text=True,
                cwd=ROOT,
                check=False,
            )
            if done.returncode == 0:
                return int(json.loads(done.stdout)["listen"].rsplit(":", 1)[1])
            time.sleep(0.2)
        raise RigError(f"the server was not ready in time: {program.tail()}")

    def device_config(self, name: str, text: str) -> Path:
        """Write a device's config into a separate folder."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        path = folder / "device.toml"
        path.write_text(text)
        return path

    def enrol(self, name: str, config: Path, server_config: Path) -> None:
        """Make the device's keys and put the public one on the server's allow-list."""
        public = self.run("edge-runtime keys", "-m", "edge_runtime", "keys", "make", "-c", str(config)).strip()
        self.run(
            "cloud-server devices",
            "-m",
            "cloud_server",
            "devices",
            "allow",
            name,
            public,
            "-c",
            str(server_config),
        )

    def start_traces(self, links: Sequence[str]) -> float:
        """Set the clocks of some links' traces to zero, together; returns that moment (monotonic seconds)."""
        started_s = time.monotonic()
        for program in self.programs:
            if program.name in links:
                program.process.send_signal(signal.SIGUSR1)
        return started_s

    def wait_for(self, paths: Sequence[Path], *, timeout_s: float) -> None:
        """Wait until no file is empty; raise `RigError` if a program ends or the time is over."""
        deadline_s = time.monotonic() + timeout_s
        while waiting := [path for path in paths if not path.is_file() or path.stat().st_size == 0]:
            for program in self.programs:
                program.check()
            if time.monotonic() > deadline_s:
                raise RigError(f"{waiting[0]} stays empty")
            time.sleep(0.1)
