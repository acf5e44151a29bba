"""A small model cut and calibrated by `prepare`, and both programs as real processes."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from PIL import Image

from cloud_server import allow_list
from split_model.bundle import Bundle
from split_model.keys import make_pair
from split_model.prepare.pipeline import PrepareOptions, prepare

SIDE = 8
WIDTHS = (SIDE * SIDE * 3, 512, 64, 10)
PATIENCE_S = 30.0
#: On this emulated board the whole model takes long enough for a server on loopback to be in time.
SLOWDOWN = 200.0


def tiny_model(path: Path, seed: int = 1) -> Path:
    """A picture [1, 8, 8, 3] through RESHAPE and three FULLY_CONNECTED layers, as a .tflite file."""
    rng = np.random.default_rng(seed)
    model, graph = schema.ModelT(version=3, operatorCodes=[], buffers=[schema.BufferT()]), schema.SubGraphT()
    graph.tensors, graph.operators = [], []

    def tensor(name: str, shape: tuple[int, ...], data: np.ndarray | None = None) -> int:
        buffer = schema.BufferT()
        kind = schema.TensorType.FLOAT32
        if data is not None:
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            kind = schema.TensorType.INT32 if data.dtype == np.int32 else kind
        model.buffers.append(buffer)
        graph.tensors.append(
            schema.TensorT(
                name=name.encode(), shape=np.array(shape, np.int32), type=kind, buffer=len(model.buffers) - 1
            )
        )
        return len(graph.tensors) - 1

    for code in (schema.BuiltinOperator.RESHAPE, schema.BuiltinOperator.FULLY_CONNECTED):
        model.operatorCodes.append(schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=code, version=1))
    graph.inputs = [tensor("picture", (1, SIDE, SIDE, 3))]
    last = tensor("flat", (1, WIDTHS[0]))
    shape = tensor("shape", (2,), np.array([1, WIDTHS[0]], np.int32))
    reshape = schema.OperatorT(opcodeIndex=0, inputs=[graph.inputs[0], shape], outputs=[last])
    graph.operators.append(reshape)
    for number, (taken, given) in enumerate(itertools.pairwise(WIDTHS)):
        matrix = (rng.normal(size=(given, taken)) / np.sqrt(taken)).astype(np.float32)
        weights = tensor(f"weights{number}", matrix.shape, matrix)
        made = tensor(f"layer{number}", (1, given))
        options = schema.FullyConnectedOptionsT()
        if given != WIDTHS[-1]:
            options.fusedActivationFunction = schema.ActivationFunctionType.RELU
        graph.operators.append(
            schema.OperatorT(
                opcodeIndex=1,
                inputs=[last, weights],
                outputs=[made],
                builtinOptionsType=schema.BuiltinOptions.FullyConnectedOptions,
                builtinOptions=options,
            )
        )
        last = made
    graph.outputs = [last]
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


@dataclass(frozen=True)
class Parts:
    """What every test starts from: a model file, its bundle, and data that fits it.

    ``state``: of all devices, so that the board is measured once.
    """

    model: Path
    bundle: Bundle
    pictures: Path
    arrays: Path
    state: Path


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    root = tmp_path_factory.mktemp("parts")
    model = tiny_model(root / "tiny.tflite")
    pictures, arrays = root / "pictures", root / "arrays.npz"
    pictures.mkdir()
    for seed in range(4):
        Image.fromarray(picture(seed)).save(pictures / f"{seed}.png")
    np.savez(arrays, inputs=np.stack([picture(seed) for seed in range(24)]).astype(np.float32) / 255)
    (root / "labels.txt").write_text("".join(f"class {index}\n" for index in range(WIDTHS[-1])))
    (root / "pre.json").write_text(json.dumps({"resize": SIDE, "crop": [SIDE, SIDE], "scale": [255.0]}))
    options = PrepareOptions(
        model=model,
        output=root / "bundle",
        cuts=None,
        preprocess=root / "pre.json",
        labels=root / "labels.txt",
        calibration=arrays,
    )
    return Parts(model, prepare(options, lambda *_: None), pictures, arrays, root / "state")


def toml(tables: dict[str, dict[str, Any]]) -> str:
    lines = []
    for table, entries in tables.items():
        lines.append(f"[{table}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in entries.items() if value is not None]
    return "\n".join(lines) + "\n"


@dataclass
class Process:
    """A program of ours with its log in a file."""

    config: Path
    popen: subprocess.Popen[bytes]
    log_path: Path

    def log(self) -> str:
        return self.log_path.read_text()

    def until(self, holds: Callable[[], Any], what: str = "") -> Any:
        """Poll until something holds; the log is in the failure."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not (value := holds()):
            assert self.popen.poll() is None, f"ended with {self.popen.returncode}: {self.log()}"
            assert time.monotonic() < deadline_s, f"{what}: {self.log()}"
            time.sleep(0.02)
        return value

    def ended(self) -> int:
        return self.popen.wait(PATIENCE_S)

    def stop(self) -> int:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
        return self.ended()

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()


@dataclass
class Server(Process):
    """A cloud-server."""

    folder: Path
    key: bytes
    address: str = ""

    @property
    def port(self) -> int:
        return int(self.address.rsplit(":", 1)[1])

    def allow(self, name: str, public: bytes) -> None:
        allow_list.allow(self.folder / "devices", name, public.decode())

    def revoke(self, name: str) -> None:
        allow_list.revoke(self.folder / "devices", name)

    def status(self) -> dict[str, Any]:
        return json.loads((self.folder / "status.json").read_bytes())


@dataclass
class Device(Process):
    """An edge-runtime and its answers."""

    public: bytes
    answers: Path

    def records(self, kind: str = "frame") -> list[dict[str, Any]]:
        lines = self.answers.read_bytes().split(b"\n")[:-1] if self.answers.exists() else []
        return [record for line in lines if (record := json.loads(line))["kind"] == kind]

    def count(self, how: str) -> int:
        return sum(record["how"] == how for record in self.records())

    def wait_more(self, how: str, more: int = 3) -> None:
        """Wait until so many more frames ended in a certain way."""
        target = self.count(how) + more
        self.until(lambda: self.count(how) >= target, f"{more} more frames {how}")

    def counters(self) -> dict[str, float]:
        """From the last line of the log, once the program has ended."""
        done = [line for line in self.log().splitlines() if "done: " in line]
        assert len(done) == 1, self.log()
        return {
            key: float(value) for key, value in (pair.split("=") for pair in done[0].split("done: ")[1].split())
        }


@dataclass
class Rig:
    """Starts programs in a folder, and leaves none behind."""

    folder: Path
    parts: Parts
    processes: list[Process] = field(default_factory=list)

    def server(self, *, bundle: Bundle | None = None, address: str = "tcp://127.0.0.1:0", **server: Any) -> Server:
        """Start a server, or start it again: its keys and devices stay where they are."""
        folder = self.folder / "server"
        if not folder.exists():
            folder.mkdir()
            make_pair(folder, "server")
        status = folder / "status.json"
        status.unlink(missing_ok=True)
        config = folder / "server.toml"
        bundles = [str((bundle or self.parts.bundle).root)]
        own = {"listen": address, "key": "server.key", "devices": "devices", "bundles": bundles}
        config.write_text(toml({"server": own | {"status": "status.json", "preload": True, "threads": 1} | server}))
        popen, log = self._start(folder, "cloud_server", "run", "-c", str(config))
        made = Server(config, popen, log, folder, (folder / "server.pub").read_bytes().strip())
        self.processes.append(made)
        made.until(status.exists, "server ready")
        made.address = made.status()["listen"]
        return made

    def device(
        self,
        server: Server | None = None,
        *,
        name: str = "device",
        allowed: bool = True,
        **changes: Any,
    ) -> Device:
        """Start a device; ``changes`` like ``planner_split=2`` set a key of a table, None leaves it out."""
        config = self.configure(server, name=name, **changes)
        folder = config.parent
        public = (folder / "device.pub").read_bytes().strip()
        if server is not None and allowed:
            server.allow(name, public)
        popen, log = self._start(folder, "edge_runtime", "run", "-c", str(config))
        made = Device(config, popen, log, public, folder / "answers.jsonl")
        self.processes.append(made)
        return made

    def configure(self, server: Server | None = None, *, name: str = "device", **changes: Any) -> Path:
        """Write a device's config and keys, and return the config's path."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        if not (folder / "device.key").exists():
            make_pair(folder, "device")
        key = server.key if server is not None else b"a" * 40
        tables: dict[str, dict[str, Any]] = {
            "device": {"bundle": str(self.parts.bundle.root), "key": "device.key", "state": str(self.parts.state)},
            "server": {
                "address": server.address if server else "tcp://127.0.0.1:9",
                "public_keys": [key.decode()],
            },
            "source": {"path": str(self.parts.arrays), "repeat": 0, "interval_s": 0.02},
            "sink": {"path": "answers.jsonl"},
            "planner": {"split": 2, "answer_within_s": 2.0},
            "release": {},
            "emulation": {"slowdown": SLOWDOWN},
        }
        for change, value in changes.items():
            table, key_name = change.split("_", 1)
            tables[table][key_name] = value
        path = folder / "device.toml"
        path.write_text(toml(tables))
        return path

    def _start(self, folder: Path, module: str, *arguments: str) -> tuple[subprocess.Popen[bytes], Path]:
        log = folder / "log"
        with log.open("wb") as stderr:
            popen = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        return popen, log

    def close(self) -> None:
        for process in self.processes:
            if process.popen.poll() is None:
                process.popen.terminate()
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.popen.wait(10)
            if process.popen.poll() is None:
                process.kill()


@pytest.fixture
def rig(tmp_path: Path, parts: Parts) -> Iterator[Rig]:
    """Real programs in a folder of the test's own; none may ever print a traceback."""
    made = Rig(tmp_path, parts)
    yield made
    made.close()
    for process in made.processes:
        assert "Traceback" not in process.log(), process.log()


def run_program(module: str, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """One command of a program, to its end."""
    command = [sys.executable, "-W", "error", "-m", module, *map(str, arguments)]
    environment = {key: value for key, value in os.environ.items() if key != "JOURNAL_STREAM"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=environment, **options
    )


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    return run_program
