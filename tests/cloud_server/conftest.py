"""A model of two layers and its bundle, a server as a real process, and a device that speaks the wire."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatbuffers
import msgspec
import numpy as np
import pytest
import zmq
from ai_edge_litert import schema_py_generated as schema
from zmq.utils.monitor import recv_monitor_message

from cloud_server import allow_list
from cloud_server.status import Status
from split_model.bundle import (
    FORMAT,
    Bundle,
    ChannelCalibration,
    Cut,
    Manifest,
    TensorSpec,
    file_ref,
    write_manifest,
)
from split_model.interpreter import open_interpreter
from split_model.privacy import NoisePlan, NoiseRelease, NoiseSpec
from split_model.protocol import messages as wire
from split_model.protocol.device import Answered, DeviceSession, Event, Refused
from split_model.protocol.keys import KeyPair, make_pair

INPUTS, HIDDEN, OUTPUTS = 16, 2048, 10
PATIENCE_S = 20.0


def dense_model(weights: list[np.ndarray]) -> bytes:
    """FULLY_CONNECTED layers, one a weight matrix [out, in], as a .tflite; ReLU after all but the ten-wide one.

    A matrix that is in the list again is stored once.
    """
    model, graph = schema.ModelT(), schema.SubGraphT()
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers, graph.tensors, graph.operators = [schema.BufferT()], [], []

    def tensor(name: str, shape: tuple[int, ...], data: np.ndarray | None = None) -> int:
        made = schema.TensorT()
        made.name, made.shape, made.type = name, list(shape), schema.TensorType.FLOAT32
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.astype(np.float32).tobytes(), np.uint8)
            made.buffer = len(model.buffers)
            model.buffers.append(buffer)
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    stored: dict[int, int] = {}
    last = first = tensor("in", (1, weights[0].shape[1]))
    for number, matrix in enumerate(weights):
        operator = schema.OperatorT()
        if id(matrix) not in stored:
            stored[id(matrix)] = tensor(f"weights{number}", matrix.shape, matrix)
        operator.inputs = [last, stored[id(matrix)]]
        last = tensor(f"out{number}", (1, matrix.shape[0]))
        operator.outputs = [last]
        operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
        operator.builtinOptions = schema.FullyConnectedOptionsT()
        if matrix.shape[0] != OUTPUTS:
            operator.builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.RELU
        graph.operators.append(operator)
    graph.inputs, graph.outputs = [first], [last]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def write_bundle(root: Path, seed: int = 1, *, middle: int = 0) -> Bundle:
    """A bundle with the cuts 0 and 1, as ``prepare`` would write it; ``middle`` layers more make the tail slow."""
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=(HIDDEN, INPUTS)) * 0.3]
    weights += [rng.random(size=(HIDDEN, HIDDEN), dtype=np.float32) * 1e-3] * middle
    weights += [rng.normal(size=(OUTPUTS, HIDDEN)) * 0.05]
    files = {"model.tflite": weights, "cut-001/head.tflite": weights[:1], "cut-001/tail.tflite": weights[1:]}
    for name, layers in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(dense_model(layers))
    whole = file_ref(root, "model.tflite")
    features = TensorSpec(name="out0", shape=(1, HIDDEN), dtype="float32")
    taken = TensorSpec(name="in", shape=(1, INPUTS), dtype="float32")
    calibration = ChannelCalibration(
        clip_low=(0.0,) * HIDDEN, clip_high=(3.0,) * HIDDEN, rank=(1.0,) * HIDDEN, weight=(1.0,) * HIDDEN
    )
    macs = (HIDDEN * INPUTS, OUTPUTS * HIDDEN + middle * HIDDEN**2)
    write_manifest(
        root,
        Manifest(
            format=FORMAT,
            name=f"two-layers-{seed}",
            ops=2 + middle,
            macs=sum(macs),
            model=whole,
            inputs=(taken,),
            outputs=(TensorSpec(name="out1", shape=(1, OUTPUTS), dtype="float32"),),
            cuts=(
                Cut(index=0, head=None, tail=whole, tensors=(taken,), head_macs=0, tail_macs=sum(macs)),
                Cut(
                    index=1,
                    head=file_ref(root, "cut-001/head.tflite"),
                    tail=file_ref(root, "cut-001/tail.tflite"),
                    tensors=(features,),
                    head_macs=macs[0],
                    tail_macs=macs[1],
                    calibration=(calibration,),
                ),
            ),
        ),
    )
    return Bundle.open(root)


@dataclass
class Model:
    """The test model as a device sees it."""

    bundle: Bundle

    def frame(self, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).normal(size=(1, INPUTS)).astype(np.float32)

    def features(self, frame: np.ndarray) -> np.ndarray:
        head = self.bundle.cut(1).head
        assert head is not None
        return open_interpreter(self.bundle.path(head)).run([frame])[0]

    def whole(self, frame: np.ndarray) -> np.ndarray:
        return open_interpreter(self.bundle.path(self.bundle.manifest.model)).run([frame])[0]

    def noise(self, features: np.ndarray, epsilon: float) -> tuple[wire.Noise, np.ndarray]:
        cut = self.bundle.cut(1)
        assert cut.calibration is not None
        plan = NoisePlan.make(NoiseSpec(epsilon=epsilon), cut.tensors, cut.calibration)
        payload = NoiseRelease(plan, entropy=os.urandom)([features])
        return wire.Noise(spec=plan.spec, digest=plan.digest), payload

    def request(self, number: int, boot_id: str = "boot", **changes: object) -> wire.Request:
        fields: dict[str, object] = {
            "request_id": number,
            "boot_id": boot_id,
            "version": 1,
            "bundle": self.bundle.identity,
            "cut": 1,
            "release": wire.NoRelease(),
            "total_bytes": 4 * HIDDEN,
            "due_in_s": 60.0,
        }
        return wire.Request(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(write_bundle(tmp_path_factory.mktemp("bundles") / "two-layers"))


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., Bundle]:
    return write_bundle


class Device:
    """A device's link: a real CURVE socket around the protocol's session."""

    def __init__(
        self, endpoint: str, server_key: bytes, keys: KeyPair, *, boot_id: str = "boot", routing_id: bytes = b""
    ) -> None:
        self.keys = keys
        self.session = DeviceSession(boot_id=boot_id, software="test")
        self.events: list[Event] = []
        self.monitored: list[str] = []
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.linger = 0
        if routing_id:
            self.socket.routing_id = routing_id
        self.socket.curve_serverkey = server_key
        self.socket.curve_publickey, self.socket.curve_secretkey = keys.public, keys.secret
        self._monitor = self.socket.get_monitor_socket()
        self.socket.connect(endpoint)

    def pump(self, until: Callable[[], bool]) -> None:
        """Send and receive until something holds, or the test has waited long enough."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not until():
            assert time.monotonic() < deadline_s, (self.events, self.monitored, self.session.state)
            self.step()

    def step(self, *, wait_ms: int = 5) -> None:
        while event := self.next_event():
            self._transport(event)
        while self.socket.poll(0, zmq.POLLOUT):
            frames = self.session.next_message(time.monotonic())
            if frames is None:
                break
            self.socket.send_multipart([part for part in frames if part is not None])
        if self.socket.poll(wait_ms):
            parts = [memoryview(part) for part in self.socket.recv_multipart()]
            self.events += self.session.receive(parts, time.monotonic())

    def next_event(self) -> str | None:
        """What else happened to the connection."""
        if not self._monitor.poll(0):
            return None
        return zmq.Event(recv_monitor_message(self._monitor)["event"]).name

    def _transport(self, event: str) -> None:
        self.monitored.append(event)
        if event == "HANDSHAKE_SUCCEEDED":
            self.session.connected()
        elif event == "DISCONNECTED":
            self.session.disconnected()

    def greet(self) -> Device:
        self.pump(lambda: self.session.welcome is not None)
        return self

    def ask(self, request: wire.Request, payload: np.ndarray) -> Answered | Refused:
        """One request and how it ended."""
        self.session.submit(request, memoryview(payload).cast("B"), due_at_s=time.monotonic() + request.due_in_s)
        self.pump(lambda: self.ending(request.request_id) is not None)
        ending = self.ending(request.request_id)
        assert ending is not None
        return ending

    def ending(self, request_id: int | None) -> Answered | Refused | None:
        return next(
            (e for e in self.events if isinstance(e, (Answered, Refused)) and e.request_id == request_id), None
        )

    def raw(self, *frames: bytes) -> list[bytes]:
        """Send one message as it is, and wait for one reply."""
        self.socket.send_multipart(list(frames))
        assert self.socket.poll(PATIENCE_S * 1000)
        return self.socket.recv_multipart()

    def next_but_acks(self) -> wire.FromServer:
        """Wait for the next message that is no acknowledgement."""
        while True:
            assert self.socket.poll(PATIENCE_S * 1000)
            message = wire.decode_from_server(self.socket.recv_multipart()[0])
            if not isinstance(message, wire.Ack):
                return message

    def close(self) -> None:
        if not self._context.closed:
            self.socket.disable_monitor()
            self._monitor.close()
            self.socket.close()
            self._context.term()


@dataclass
class Server:
    """A server process and its folder."""

    folder: Path
    config: Path
    process: subprocess.Popen[bytes]
    endpoint: str
    public_key: bytes

    @property
    def devices(self) -> Path:
        return self.folder / "devices"

    def status(self) -> Status:
        return msgspec.json.decode((self.folder / "status.json").read_bytes(), type=Status)

    def wait(self, holds: Callable[[Status], bool]) -> Status:
        deadline_s = time.monotonic() + PATIENCE_S
        while not holds(status := self.status()):
            assert time.monotonic() < deadline_s, status
            assert self.process.poll() is None, self.log()
            time.sleep(0.05)
        return status

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def new_keys(self, name: str) -> KeyPair:
        """Keys of a device that the server allows."""
        keys = KeyPair(*zmq.curve_keypair())
        allow_list.allow(self.devices, name, keys.public.decode())
        return keys

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


def write_config(folder: Path, model: Model, **keys: Any) -> Path:
    """A config file; ``limits_X``, ``statistics_X`` and ``web_X`` set ``X`` there, others ``server.X``; ``sinks``:
    tables; ``engine`` and ``emulation``: a table.
    """
    tables: dict[str, dict[str, object]] = {
        "server": {
            "listen": "tcp://127.0.0.1:0",
            "key": "server.key",
            "devices": "devices",
            "bundles": [str(model.bundle.root)],
            "status": "status.json",
            "threads": 2,
        },
        "limits": {},
        "statistics": {},
        "web": {},
    }
    sinks = keys.pop("sinks", ())
    tables.update({name: keys.pop(name) for name in ("engine", "emulation") if name in keys})
    for key, value in keys.items():
        table, _, name = key.partition("_")
        tables[table if name and table in tables else "server"][name if name and table in tables else key] = value
    lines = []
    for table, entries in tables.items():
        if table == "web" and not entries:
            continue  # else there would be a page
        lines.append(f"[{table}]")
        lines += [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in entries.items()]
    for entries in sinks:
        lines.append("[[sink]]")
        lines += [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in entries.items()]
    path = folder / "server.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def config_file() -> Callable[..., Path]:
    return write_config


def start_server(folder: Path, model: Model, **keys: object) -> Server:
    config = write_config(folder, model, **keys)
    pair = make_pair(folder, "server")
    readable, writable = os.pipe()
    command = [sys.executable, "-m", "cloud_server", "run", "-c", str(config), "--ready-fd", str(writable)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, pass_fds=[writable], stderr=log)
    os.close(writable)
    with os.fdopen(readable, "rb") as ready:
        within_s = 3 * PATIENCE_S if "engine" in keys else PATIENCE_S  # Ray starts several programs
        if not select.select([ready], [], [], within_s)[0]:
            process.kill()
            raise AssertionError((folder / "log").read_text())
        endpoint = ready.readline().strip().decode()
    assert endpoint, (folder / "log").read_text()
    return Server(folder, config, process, endpoint, pair.public)


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory, model: Model) -> Iterator[Server]:
    """One server for all tests that leave it as it was."""
    server = start_server(tmp_path_factory.mktemp("server"), model)
    yield server
    assert server.stop() == 0, server.log()
    assert "Traceback" not in server.log()


@pytest.fixture
def start(tmp_path: Path, model: Model) -> Iterator[Callable[..., Server]]:
    """Start a server of one's own, with keys of the config changed; each of several in a ``folder``."""
    started: list[Server] = []

    def make(*, folder: str = "", **keys: object) -> Server:
        (tmp_path / folder).mkdir(exist_ok=True)
        started.append(start_server(tmp_path / folder, model, **keys))
        return started[-1]

    yield make
    for server in started:
        server.stop()
        assert "Traceback" not in server.log()


@pytest.fixture
def connect() -> Iterator[Callable[..., Device]]:
    """Connect a device to a server; closed at the end."""
    devices: list[Device] = []

    def make(server: Server, keys: KeyPair, **options: str | bytes) -> Device:
        devices.append(Device(server.endpoint, server.public_key, keys, **options))
        return devices[-1]

    yield make
    for device in devices:
        device.close()
