"""A randomised attacker with allowed keys against a server, a board, and two polite devices, all real processes.

usage: run.py [--model TFLITE --cut OP] [--seconds 1200] [--phase-s 20] [--seed SEED] [--only ATTACK,...] [--safety]

Attacker and spinner take turns, each held to a quarter of a core. Prints the seed, and at the end one line of JSON
with the claims: both programs alive, no answer to another key, every answer right, and the polite devices' p95
beside the attacker at most 1.5 times that beside the spinner. Exits with 0 if all of them hold. With ``--safety``
there is no spinner and no claim about time.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
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
FASHION = HERE.parents[1] / "models" / "fashion" / "fashion_f32.tflite"
CORES = 0.25
P95_RATIO = 1.5
POLITE = 2
PATIENCE_S = 60.0
#: From the begin of a phase; what was under way then belongs to the one before.
SETTLE_S = 1.0
REVOKE_EVERY_S = 1.5


@dataclass(frozen=True)
class Phase:
    """A time in which one of the two ran."""

    kind: str
    begins_s: float
    ends_s: float


class Rig:
    """The programs, in one folder; all are ended at the end, by their process ids."""

    def __init__(self, folder: Path, seed: str, model: Path, cut: int) -> None:
        self.folder, self.seed = folder, seed
        self.processes: list[subprocess.Popen[bytes]] = []
        self.bundle = self._prepare(model, cut)
        self.report = folder / "report.jsonl"
        self.report.touch()
        make_pair(folder, "server")
        self.keys = {
            name: make_pair(folder, name) for name in ("one", "two", "doomed", "board", "polite0", "polite1")
        }
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
            keys=[str(self.folder / "one.key"), str(self.folder / "two.key")],
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
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
    if process.poll() is None:
        process.kill()
        process.wait()


@contextmanager
def _running(rig: Rig, share: Share, name: str, arguments: list[object]) -> Iterator[subprocess.Popen[bytes]]:
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
        _end(process)


def _phase(rig: Rig, share: Share, kind: str, number: int, options: argparse.Namespace, seconds: float) -> Phase:
    only = options.only.split(",") if options.only else []
    attacks = kind == "attacker"
    arguments: list[object] = [HERE / f"{kind}.py", *([rig.plan(number, only)] if attacks else [])]
    with _running(rig, share, kind, arguments):
        begins_s = time.monotonic()
        doomed = False
        while (now_s := time.monotonic()) < begins_s + seconds and all(rig.alive.values()):
            time.sleep(min(REVOKE_EVERY_S, max(0.0, begins_s + seconds - now_s)))
            if attacks:
                rig.allow("doomed", rig.keys["doomed"]) if doomed else rig.revoke("doomed")
                doomed = not doomed
        ends_s = time.monotonic()
    if doomed:
        rig.allow("doomed", rig.keys["doomed"])
    return Phase(kind, begins_s, ends_s)


def _latencies(rig: Rig, within: list[tuple[float, float]]) -> tuple[list[float], Counter[str]]:
    """Latencies of the polite devices' frames that were asked within these times; without an answer, infinite."""
    latencies: list[float] = []
    ends: Counter[str] = Counter()
    for number in range(POLITE):
        for line in rig.lines(f"polite{number}"):
            asked_s = line.get("asked_s")
            if asked_s is None or line["dropped"] or not any(a <= asked_s < b for a, b in within):
                continue
            ends[line["how"]] += 1
            latencies.append(line["latency_s"] if line["how"] == "answered" else float("inf"))
    return latencies, ends


def _times(phases: list[Phase], kind: str) -> list[tuple[float, float]]:
    return [(phase.begins_s + SETTLE_S, phase.ends_s) for phase in phases if phase.kind == kind]


def _by_attack(rig: Rig, phases: list[Phase]) -> dict[str, list[tuple[float, float]]]:
    """When each attack was under way."""
    began = [(line["at_s"], line["begins"]) for line in rig.lines("report") if "begins" in line]
    times: dict[str, list[tuple[float, float]]] = {}
    for phase in (phase for phase in phases if phase.kind == "attacker"):
        within = [(at_s, name) for at_s, name in began if phase.begins_s <= at_s < phase.ends_s]
        ends = [at_s for at_s, _ in within[1:]] + [phase.ends_s]
        for (at_s, name), end_s in zip(within, ends, strict=True):
            times.setdefault(name, []).append((at_s, end_s))
    return times


def _p95_ms(latencies: list[float]) -> float | None:
    return float(np.percentile(latencies, 95, method="higher")) * 1000 if latencies else None


def _claim(name: str, value: object, goal: object, *, holds: bool) -> dict[str, object]:
    return {"name": name, "value": value, "goal": goal, "holds": holds}


def _result(rig: Rig, phases: list[Phase], options: argparse.Namespace, share: Share) -> dict[str, Any]:
    foreign = [line["foreign"] for line in rig.lines("report") if "foreign" in line]
    records = [line for number in range(POLITE) for line in rig.lines(f"polite{number}")] + rig.lines("local")
    wrong = [line["wrong"] for line in records if "wrong" in line]
    alive = rig.alive
    latencies, ends = _latencies(rig, _times(phases, "attacker"))
    last_s = max(
        (line["asked_s"] for line in records if line.get("how") == "answered" and "asked_s" in line), default=0
    )
    claims = [
        _claim("programs alive", sum(alive.values()), 2, holds=all(alive.values())),
        _claim("messages to another key", len(foreign), 0, holds=not foreign),
        _claim("wrong answers", len(wrong), 0, holds=not wrong),
        _claim(
            "polite devices answered at the end, s ago",
            round(phases[-1].ends_s - last_s, 1),
            5.0,
            holds=phases[-1].ends_s - last_s < 5.0,
        ),
    ]
    result: dict[str, Any] = {
        "seed": rig.seed,
        "seconds": options.seconds,
        "share": f"{CORES} of a core by {share.means}",
        "alive": alive,
        "foreign": foreign[:10],
        "wrong": wrong[:10],
        "polite": dict(ends),
        "local": dict(Counter(str(line["how"])[:60] for line in rig.lines("local"))),
        "attacks": dict(Counter(line["begins"] for line in rig.lines("report") if "begins" in line)),
        "p95_ms": {"attacker": _p95_ms(latencies)},
        "p95_ms_by_attack": {
            name: _p95_ms(_latencies(rig, times)[0]) for name, times in sorted(_by_attack(rig, phases).items())
        },
    }
    if not options.safety:
        beside, ends = _latencies(rig, _times(phases, "spinner"))
        result["polite_beside_spinner"] = dict(ends)
        result["p95_ms"]["spinner"] = _p95_ms(beside)
        ratio = result["p95_ms"]["attacker"] / result["p95_ms"]["spinner"] if latencies and beside else float("inf")
        claims.append(_claim("polite p95 over that beside a spinner", ratio, P95_RATIO, holds=ratio <= P95_RATIO))
    return result | {"claims": claims}


def main(arguments: list[str]) -> int:
    """Attack, and say what became of it."""
    parser = argparse.ArgumentParser(prog="run.py", description="A randomised attacker against real processes.")
    parser.add_argument("--model", type=Path, default=FASHION, help="the .tflite that all programs use")
    parser.add_argument("--cut", type=int, default=0, help="where the polite devices and the board cut it")
    parser.add_argument("--seconds", type=float, default=1200.0)
    parser.add_argument("--phase-s", type=float, default=20.0)
    parser.add_argument("--seed", default=None, help="of all attacks; printed")
    parser.add_argument("--only", default="", help="names of attacks, with commas")
    parser.add_argument("--safety", action="store_true", help="no spinner, no claim about time")
    options = parser.parse_args(arguments)
    seed = options.seed or secrets.token_hex(4)
    print(f"seed {seed}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attacker-")))
        share = Share(CORES)
        stack.callback(share.close)
        rig = Rig(folder, seed, options.model, options.cut)
        stack.callback(rig.close)
        time.sleep(2.0)
        end_s = time.monotonic() + options.seconds
        phases: list[Phase] = []
        while (left_s := end_s - time.monotonic()) > SETTLE_S and all(rig.alive.values()):
            kind = "attacker" if options.safety or len(phases) % 2 else "spinner"
            phases.append(_phase(rig, share, kind, len(phases), options, min(options.phase_s, left_s)))
            states = ", ".join(f"{name} {'alive' if lives else 'DEAD'}" for name, lives in rig.alive.items())
            print(f"{kind} {phases[-1].ends_s - phases[-1].begins_s:.0f} s: {states}", flush=True)
        result = _result(rig, phases, options, share)
        for name, lives in rig.alive.items():
            if not lives:
                print(f"{name} ended with {getattr(rig, name).poll()}: {rig.log(name)[-600:]}", flush=True)
        rig.close()
        for name in ("server", "board", "attacker", "polite0", "polite1", "local"):
            if (folder / f"{name}.log").exists() and "Traceback" in rig.log(name):
                print(f"--- {name}: {rig.log(name)[-3000:]}", flush=True)
                if name in ("server", "board"):
                    result["claims"].append(_claim(f"tracebacks of the {name}", 1, 0, holds=False))
    print(msgspec.json.encode(result).decode(), flush=True)
    return 0 if all(claim["holds"] for claim in result["claims"]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
