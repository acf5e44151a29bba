"""The real programs that the attacker is set upon: a server, a board with a local socket, and polite devices."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from attacker import Plan
from cpu_share import Share

from cloud_server import allow_list
from split_model.bundle import Bundle
from split_model.interpreter import open_interpreter
from split_model.protocol.keys import KeyPair, make_pair

HERE = Path(__file__).resolve().parent
POLITE = 2
#: The attacker's allowed keys, by their number: those to look like a device with, and those to be shut out with.
#: The key that is revoked again and again is one more of the one, and counted among the seven.
CAREFUL = {1: ("careful0",), 7: ("careful0", "careful1")}
RECKLESS = {1: (), 7: ("reckless0", "reckless1", "reckless2", "reckless3")}
PATIENCE_S = 60.0


class Rig:
    """The programs, in one folder; all are ended at the end, by their process ids."""

    def __init__(self, folder: Path, seed: str, model: Path, cut: int, keys: int) -> None:
        self.folder, self.seed = folder, seed
        self.careful, self.reckless = CAREFUL[keys], RECKLESS[keys]
        self.processes: list[subprocess.Popen[bytes]] = []
        self.bundle = self._prepare(model, cut)
        self.report = folder / "report.jsonl"
        self.report.touch()
        make_pair(folder, "server")
        names = [*self.careful, *self.reckless, "doomed", "board", "polite0", "polite1"]
        self.keys = {name: make_pair(folder, name) for name in names}
        for name, pair in self.keys.items():
            self.allow(name, pair)
        self.server = self._server()
        self.socket = folder / "frames.sock"
        self.board = self._board()
        local = [folder / "frames.sock", self.bundle.root, folder / "local.jsonl"]
        self.local = self.start("local", [HERE / "local_polite.py", *local])
        self.polite = [self._polite(number) for number in range(POLITE)]

    def allow(self, name: str, pair: KeyPair) -> None:
        """Put a key on the allow-list."""
        allow_list.allow(self.folder / "devices", name, pair.public.decode())

    def revoke(self, name: str) -> None:
        """Take it off."""
        allow_list.revoke(self.folder / "devices", name)

    def start(self, name: str, arguments: list[object], **options: Any) -> subprocess.Popen[bytes]:
        """Start a Python program with its standard error in a file."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *map(str, arguments)], **({"stdin": subprocess.DEVNULL} | options), stderr=log
            )
        self.processes.append(process)
        return process

    def log(self, name: str) -> str:
        """What a program said."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def _prepare(self, model: Path, cut: int) -> Bundle:
        root, data = self.folder / "bundle", self.folder / "calibration.npz"
        shape = open_interpreter(model).inputs[0].shape
        np.savez(data, inputs=np.random.default_rng(0).random((8, *shape[1:])).astype(np.float32))
        command = [
            "-m",
            "split_model.cli",
            "prepare",
            model,
            "-o",
            root,
            "--cuts",
            f"at:{cut}",
            "--calibration",
            data,
        ]
        subprocess.run([sys.executable, *map(str, command)], check=True, capture_output=True)
        return Bundle.open(root)

    def _server(self) -> subprocess.Popen[bytes]:
        config = self.folder / "server.toml"
        config.write_text(
            '[server]\nlisten = "tcp://127.0.0.1:0"\nkey = "server.key"\ndevices = "devices"\n'
            f'bundles = ["{self.bundle.root}"]\nstatus = "server.json"\npreload = true\n'
        )
        readable, writable = os.pipe()
        process = self.start(
            "server",
            ["-m", "cloud_server", "run", "-c", config, "--ready-fd", writable],
            pass_fds=[writable],
            stdout=subprocess.DEVNULL,
        )
        os.close(writable)
        with os.fdopen(readable, "rb") as ready:
            self.endpoint = ready.readline().strip().decode()
        if not self.endpoint:
            raise SystemExit(f"the server did not start: {self.log('server')}")
        return process

    def _board(self) -> subprocess.Popen[bytes]:
        config = self.folder / "board.toml"
        public = (self.folder / "server.pub").read_text().strip()
        config.write_text(
            f'[device]\nbundle = "{self.bundle.root}"\nkey = "board.key"\nstate = "state"\nstatus = "board.json"\n'
            f'[server]\naddress = "{self.endpoint}"\npublic_keys = ["{public}"]\n'
            f'[source]\nkind = "socket"\npath = "{self.socket}"\n'
            '[sink]\nkind = "jsonl"\npath = "answers.jsonl"\n'
            f"[planner]\nsplit = {self.bundle.manifest.cuts[0].index}\nearliest_cut = 0\nanswer_within_s = 1.0\n"
            '[release]\nmechanism = "none"\n'
        )
        process = self.start("board", ["-m", "edge_runtime", "run", "-c", config], stdout=subprocess.DEVNULL)
        deadline_s = time.monotonic() + PATIENCE_S
        while not self.socket.exists():
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise SystemExit(f"the board did not start: {self.log('board')}")
            time.sleep(0.05)
        return process

    def _polite(self, number: int) -> subprocess.Popen[bytes]:
        key = self.folder / f"polite{number}.key"
        public = (self.folder / "server.pub").read_text().strip()
        records = self.folder / f"polite{number}.jsonl"
        return self.start(
            f"polite{number}", [HERE / "polite.py", self.endpoint, public, key, self.bundle.root, number, records]
        )

    def plan(self, number: int, only: list[str]) -> Path:
        """What the attacker of this phase is told, in a file."""
        cut = self.bundle.manifest.cuts[0]
        second = importlib.util.find_spec("edge_runtime.local_api.framing") is not None
        plan = Plan(
            seed=f"{self.seed}/{number}",
            endpoint=self.endpoint,
            server_key=(self.folder / "server.pub").read_text().strip(),
            bundle=self.bundle.identity,
            cut=cut.index,
            total_bytes=cut.raw_bytes,
            shape=self.bundle.manifest.inputs[0].shape,
            keys=[str(self.folder / f"{name}.key") for name in self.careful],
            reckless=[str(self.folder / f"{name}.key") for name in self.reckless],
            doomed=str(self.folder / "doomed.key"),
            local_path=str(self.socket),
            local_protocol=2 if second else 1,
            report=str(self.report),
            only=only,
        )
        path = self.folder / f"plan{number}.json"
        path.write_bytes(msgspec.json.encode(plan))
        return path

    @property
    def alive(self) -> dict[str, bool]:
        """Which of the programs still run, under the process id they began with."""
        return {"server": self.server.poll() is None, "board": self.board.poll() is None}

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The lines of a ``.jsonl`` file that are whole."""
        path = self.folder / f"{name}.jsonl"
        whole = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        return [msgspec.json.decode(line) for line in whole]

    def close(self) -> None:
        """End what still runs."""
        for process in reversed(self.processes):
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
    if process.poll() is None:
        process.kill()
        process.wait()


@contextmanager
def running(rig: Rig, share: Share, name: str, arguments: list[object]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that was put into its share before it began in earnest."""
    process = rig.start(name, arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        if process.stdout.readline().strip() != b"ready":
            raise SystemExit(f"{name} did not start: {rig.log(name)}")
        with share.hold(process.pid):
            process.stdin.write(b"go\n")
            process.stdin.flush()
            yield process
        end(process)
