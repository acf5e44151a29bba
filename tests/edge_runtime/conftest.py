"""A small model cut and calibrated by `prepare`, and both programs as real processes."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
import tty
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
import zmq
from ai_edge_litert import schema_py_generated as schema
from PIL import Image

from cloud_server import allow_list
from edge_runtime.board.board import RealBoard
from edge_runtime.board.cpu_load import LoadEstimator
from edge_runtime.inference.heads import Heads
from edge_runtime.inference.local_tails import LocalTailCost, LocalTails, load_local_tail
from edge_runtime.inference.model_files import ModelFiles
from edge_runtime.inference.profile import Profile, SplitTiming
from edge_runtime.link.link_thread import Link
from edge_runtime.link.transport import Transport
from edge_runtime.loop.board_work import Models
from edge_runtime.loop.driver import Driver, Outside, Settings
from edge_runtime.loop.results import Step
from edge_runtime.planner.planner import Decision, Hysteresis, Planner
from edge_runtime.planner.prediction import Conditions, Objective, SplitProfile
from edge_runtime.privacy.ledger import Paying
from edge_runtime.privacy.release import Release, plan_for
from edge_runtime.sources import Frame
from split_model.bundle import Bundle
from split_model.prepare.pipeline import PrepareOptions, prepare
from split_model.privacy import NoiseSpec
from split_model.protocol import messages as wire
from split_model.protocol import server as protocol
from split_model.protocol.device import DeviceSession
from split_model.protocol.keys import KeyPair, make_pair, read_pair
from tests.edge_runtime.counting import adds_up

SIDE = 8
WIDTHS = (SIDE * SIDE * 3, 512, 64, 10)
PATIENCE_S = 30.0
#: On this emulated board the whole model takes long enough for a server on loopback to be in time.
SLOWDOWN = 200.0


def tiny_model(path: Path, seed: int = 1, widths: Sequence[int] = WIDTHS) -> Path:
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
    last = tensor("flat", (1, widths[0]))
    shape = tensor("shape", (2,), np.array([1, widths[0]], np.int32))
    reshape = schema.OperatorT(opcodeIndex=0, inputs=[graph.inputs[0], shape], outputs=[last])
    graph.operators.append(reshape)
    for number, (taken, given) in enumerate(itertools.pairwise(widths)):
        matrix = (rng.normal(size=(given, taken)) / np.sqrt(taken)).astype(np.float32)
        weights = tensor(f"weights{number}", matrix.shape, matrix)
        made = tensor(f"layer{number}", (1, given))
        options = schema.FullyConnectedOptionsT()
        if given != widths[-1]:
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
    return Parts(model, bundle_of(model, root, root / "bundle"), pictures, arrays, root / "state")


def bundle_of(model: Path, root: Path, output: Path, cuts: tuple[int, ...] | None = None) -> Bundle:
    """A bundle with the labels, pictures and calibration in ``root``."""
    options = PrepareOptions(
        model=model,
        output=output,
        cuts=cuts,
        preprocess=root / "pre.json",
        labels=root / "labels.txt",
        calibration=root / "arrays.npz",
    )
    return prepare(options, lambda *_: None)


def toml(tables: dict[str, Any]) -> str:
    """A table as a dict, several of a name as a list of dicts."""
    lines = []
    for table, value in tables.items():
        for entries in value if isinstance(value, list) else [value]:
            lines.append(f"[[{table}]]" if isinstance(value, list) else f"[{table}]")
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

    def count(self, outcome: str) -> int:
        return sum(record["outcome"] == outcome for record in self.records())

    def wait_more(self, outcome: str, more: int = 3) -> None:
        """Wait until so many more frames ended in a certain way."""
        target = self.count(outcome) + more
        self.until(lambda: self.count(outcome) >= target, f"{more} more frames {outcome}")

    def counters(self) -> dict[str, float]:
        """From the last line of the log, once the program has ended."""
        done = [line for line in self.log().splitlines() if "done: " in line]
        assert len(done) == 1, self.log()
        pairs = (pair.split("=") for pair in done[0].split("done: ")[1].split() if "=" in pair)
        return Counter({key: float(value) for key, value in pairs})  # what is zero is left out


@dataclass
class Rig:
    """Starts programs in a folder, and leaves none behind."""

    folder: Path
    parts: Parts
    processes: list[Process] = field(default_factory=list)

    def server(
        self,
        *,
        bundle: Bundle | None = None,
        address: str = "tcp://127.0.0.1:0",
        name: str = "server",
        tables: dict[str, Any] | None = None,
        **server: Any,
    ) -> Server:
        """Start a server, or start it again: its keys and devices stay where they are. ``tables``: besides."""
        folder = self.folder / name
        if not folder.exists():
            folder.mkdir()
            make_pair(folder, "server")
        status = folder / "status.json"
        status.unlink(missing_ok=True)
        config = folder / "server.toml"
        bundles = [str((bundle or self.parts.bundle).root)]
        own = {"listen": address, "key": "server.key", "devices": "devices", "bundles": bundles}
        own |= {"status": "status.json", "preload": True, "threads": 1}
        config.write_text(toml({"server": own | server, **(tables or {})}))
        popen, log = self.start_program(folder, "cloud_server", "run", "-c", str(config))
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
        verbose: bool = False,
        tables: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Device:
        """Start a device.

        ``verbose``: with ``-v``. ``tables`` instead of the usual ones. ``changes`` like ``planner_split=2`` set
        a key of a table, None leaves it out.
        """
        config = self.configure(server, name=name, tables=tables, **changes)
        folder = config.parent
        public = (folder / "device.pub").read_bytes().strip()
        if server is not None and allowed:
            server.allow(name, public)
        options = ["-v"] if verbose else []
        popen, log = self.start_program(folder, "edge_runtime", *options, "run", "-c", str(config))
        made = Device(config, popen, log, public, folder / "answers.jsonl")
        self.processes.append(made)
        return made

    def configure(
        self,
        server: Server | None = None,
        *,
        name: str = "device",
        tables: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Path:
        """Write a device's config and keys, and return the config's path."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        if not (folder / "device.key").exists():
            make_pair(folder, "device")
        key = server.key if server is not None else b"a" * 40
        usual: dict[str, Any] = {
            "device": {"bundle": str(self.parts.bundle.root), "key": "device.key", "state": str(self.parts.state)},
            "server": {
                "address": server.address if server else "tcp://127.0.0.1:9",
                "public_keys": [key.decode()],
            },
            "source": {"path": str(self.parts.arrays), "repeat": 0, "interval_s": 0.02},
            "sink": {"path": "answers.jsonl"},
            # The answers of random weights agree with nothing under noise; what the floor does has tests of its
            # own.
            "planner": {"split": 2, "answer_within_s": 2.0, "earliest_cut": 0, "accuracy_floor": "off"},
            "release": {},
            "privacy": {"whole_input_budget": "unlimited"},
            "emulation": {"slowdown": SLOWDOWN},
        }
        for change, value in changes.items():
            table, key_name = change.split("_", 1)
            usual[table][key_name] = value
        path = folder / "device.toml"
        path.write_text(toml(usual | (tables or {})))
        return path

    def other_bundle(self) -> Bundle:
        """Another model of the same inputs and outputs."""
        return bundle_of(
            tiny_model(self.folder / "other.tflite", seed=2), self.parts.model.parent, self.folder / "other"
        )

    @staticmethod
    def pair(folder: Path) -> KeyPair:
        return read_pair(folder / "device.key")

    def watch(self, config: Path, popen: subprocess.Popen[bytes], log: Path) -> Process:
        """A program that a test has started itself."""
        made = Process(config, popen, log)
        self.processes.append(made)
        return made

    def start_program(self, folder: Path, module: str, *arguments: str) -> tuple[subprocess.Popen[bytes], Path]:
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


class Free:
    """No ledger: every cut can be paid for."""

    def payable(self, cuts: Iterable[int], subject: str) -> frozenset[int]:
        return frozenset(cuts)

    def charge(self, cut: int, subject: str) -> bool:
        return True


class ScriptedServer(threading.Thread):
    """The server's protocol session behind a CURVE socket that takes any key; the test says what is answered.

    ``arrived`` and ``cancelled`` collect what came, ``probed`` counts timed probes; ``answer`` is called in this
    thread for each request.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(daemon=True)
        self.public, self._secret = zmq.curve_keypair()
        self.arrived: list[protocol.Arrived] = []
        self.cancelled: list[int] = []
        self.probed = 0
        self.answer: Callable[[protocol.Arrived], bool] = lambda _: True
        self.admit: protocol.Admission = lambda _: None
        self.versions_refused = False
        self.outputs = np.arange(bundle.manifest.outputs[0].size, dtype=np.float32)
        cuts = tuple(cut.index for cut in bundle.manifest.cuts)
        self.offers = (wire.Offer(identity=bundle.identity, name="scripted", cuts=cuts),)
        self._context = zmq.Context()
        self._port = 0
        self._commands: queue.Queue[Callable[[], None]] = queue.Queue()
        self._peers: dict[bytes, protocol.PeerSession] = {}
        self._stopping = False
        self._open()
        self.address = f"tcp://127.0.0.1:{self._port}"

    def _open(self) -> None:
        self._peers.clear()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.curve_server = True
        self._socket.curve_secretkey = self._secret
        self._port = self._socket.bind_to_random_port("tcp://127.0.0.1") if not self._port else self._port
        if not self._socket.last_endpoint:
            self._bind_again()

    def _bind_again(self) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not self._socket.last_endpoint:  # the old socket's port is not free at once
            assert time.monotonic() < deadline_s
            with contextlib.suppress(zmq.ZMQError):
                self._socket.bind(self.address)

    def do(self, action: Callable[[], None]) -> None:
        self._commands.put(action)

    def restart(self) -> None:
        """Call it in the server's thread: every connection breaks, and the same port is served again."""
        self._socket.close(0)
        self._open()

    def send_answer(self, request_id: int, *, shape: tuple[int, ...] | None = None) -> None:
        """To every peer there is. Call it in the server's thread."""
        tensor = wire.AnswerTensor(dtype="float32", shape=shape or (1, self.outputs.size))
        header = wire.Answer(
            request_id=request_id, tensors=(tensor,), timed_bytes=0, receive_s=0.0, queue_s=0.0, tail_s=0.001
        )
        for peer in self._peers:
            self._socket.send_multipart([peer, wire.encode(header), self.outputs.tobytes()])

    def run(self) -> None:
        while not self._stopping:
            with contextlib.suppress(queue.Empty):
                while True:
                    self._commands.get_nowait()()
            if self._socket.poll(10):
                self._receive(*self._socket.recv_multipart())
        self._socket.close(0)

    def _receive(self, peer: bytes, *parts: bytes) -> None:
        session = self._peers.get(peer)
        if session is None:
            session = self._peers[peer] = protocol.PeerSession(
                user_id="device",
                boot_id="scripted",
                offers=self.offers,
                admit=self._admitted,
                limits=protocol.Limits(),
                now_s=time.monotonic(),
            )
        replies, events = session.receive([memoryview(part) for part in parts], time.monotonic())
        for reply in replies:
            self.probed += isinstance(reply, wire.ProbeReply) and reply.timed_bytes > 0
            if self.versions_refused and isinstance(reply, wire.Welcome):
                text = "this server speaks protocol 9"
                reply = wire.Refusal(request_id=None, code="version", text=text)  # noqa: PLW2901
            self._socket.send_multipart([peer, wire.encode(reply)])
        for event in events:
            if isinstance(event, protocol.Arrived):
                self.arrived.append(event)
                if self.answer(event):
                    self.send_answer(event.request.request_id)
            elif isinstance(event, protocol.Cancelled):
                self.cancelled.append(event.request_id)

    def _admitted(self, request: wire.Request) -> protocol.Denial | None:
        return self.admit(request)

    def stop(self) -> None:
        self._stopping = True
        self.join()
        self._context.term()


@pytest.fixture
def scripted(parts: Parts) -> Iterator[ScriptedServer]:
    server = ScriptedServer(parts.bundle)
    server.start()
    yield server
    server.stop()


class Forced(Planner):
    """Does what the test wants, while the link is up and the cut is offered."""

    def __init__(self, profiles: list[SplitProfile], *, local: int, objective: Objective) -> None:
        super().__init__(profiles, local=local, hysteresis=Hysteresis(), objective=objective)
        self.wanted = local
        self.hedge = self.pinned = False

    @property
    def is_fixed(self) -> bool:
        return self.pinned

    def decide(self, conditions: Conditions, *, now_s: float, ready: frozenset[int]) -> Decision:
        del now_s
        split = self.wanted if conditions.link_up and self.wanted in ready else self.local
        moved_from, self.split = (self.split if split != self.split else None), split
        return Decision(split, moved_from, "forced", (), hedge=self.hedge and split != self.local)


@dataclass
class Inside:
    """The device's loop and link thread in this process, frame by frame."""

    parts: Parts
    driver: Driver
    link: Link
    planner: Forced
    heads: Heads
    local_tails: LocalTails
    transports: list[Transport]
    links: list[Link]
    index: int = 0

    def frame(self) -> Frame:
        pixels = picture(self.index).astype(np.float32)[None] / 255
        self.index += 1
        return Frame(self.index - 1, f"frame {self.index - 1}", (pixels,), None, time.monotonic())

    def step(self, frame: Frame | None = None) -> Step:
        """One frame, to its end."""
        (step,) = self.driver.run([frame or self.frame()])
        assert adds_up(self.driver.counters)
        return step

    def until(self, holds: Callable[[], Any]) -> Any:
        deadline_s = time.monotonic() + PATIENCE_S
        while not (value := holds()):
            assert time.monotonic() < deadline_s, (self.link.view(), self.driver.counters.as_dict())
            time.sleep(0.005)
        return value

    def connect(self, split: int) -> Inside:
        """Wait for the server and for a head, and want it from now on."""
        self.until(lambda: self.link.view().up)
        self.planner.wanted = split
        if split != self.planner.local:
            self.until(lambda: self.heads.prepared(split))
        return self

    def close(self) -> None:
        self.driver.close()
        for link, transport in zip(self.links, self.transports, strict=True):
            link.stop()
            transport.terminate()
        self.heads.close()


@pytest.fixture
def inside(parts: Parts) -> Iterator[Callable[..., Inside]]:
    """Make a device in this process; at the end all its threads must be gone."""
    made: list[Inside] = []

    def make(
        address: str,
        server_key: bytes,
        *,
        keys: KeyPair | None = None,
        spec: NoiseSpec | None = None,
        memory_bytes: int = 1 << 26,
        answer_within_s: float = PATIENCE_S,
        account: Paying | None = None,
        objective: Objective = "latency",
        goes_on: bool = False,
        second: ScriptedServer | None = None,
        watch: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> Inside:
        bundle = parts.bundle
        loader = ThreadPoolExecutor(1, thread_name_prefix="heads")
        files = ModelFiles(bundle)
        heads = Heads(
            files,
            lambda cut: Release(cut, plan_for(cut, spec), entropy=os.urandom),
            backend=None,
            threads=1,
            memory_bytes=memory_bytes,
            loader=loader,
        )
        splits = [*(cut.index for cut in bundle.manifest.cuts), bundle.local]
        timings = tuple(
            SplitTiming(split=split, head_s=1e-4, head_p95_s=1e-4, release_s=1e-4, payload_bytes=1)
            for split in splits
        )
        profile = Profile(
            bundle=bundle.identity, backend="", threads=1, slowdown=1.0, release="none", splits=timings
        )
        planner = Forced(
            [SplitProfile(split, 1e-4, payload_bytes=1) for split in splits],
            local=bundle.local,
            objective=objective,
        )
        servers = [(address, server_key), *([(second.address, second.public)] if second else [])]
        own = keys or KeyPair(*zmq.curve_keypair())
        transports = [
            Transport(place, keys=own, server_keys=(key,), max_answer_bytes=1 << 16) for place, key in servers
        ]
        news = threading.Condition()
        links = [
            Link(transport, DeviceSession(boot_id="inside", software="test"), news=news) for transport in transports
        ]
        board = RealBoard()
        local_tails = LocalTails(
            lambda split: load_local_tail(files, split, backend=None, threads=1),
            {cut.index: LocalTailCost(1, 1e-4) for cut in bundle.manifest.cuts},
            whole=heads.whole,
            memory_bytes=memory_bytes,
            loader=loader,
        )
        driver = Driver(
            Models(bundle, heads, local_tails if goes_on else None),
            Outside(
                board=board,
                account=account or Free(),
                links=tuple(links),
                boot_id="inside",
                watch=watch,
            ),
            planner=planner,
            profile=profile,
            load=LoadEstimator(),
            settings=Settings(answer_within_s),
        )
        for link in links:
            link.start()
        made.append(Inside(parts, driver, links[0], planner, heads, local_tails, transports, links))
        return made[-1]

    yield make
    for device in made:
        device.close()
    left = [
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith(("link", "heads", "local", "board"))
    ]
    assert left == []


#: A line is as slow as who reads it.
LINE_PATIENCE_S = 60.0


class Line:
    """``port`` is what the program opens; the test is at the other end. Plug it in before use."""

    def __init__(self, port: Path) -> None:
        self.port = port
        self._ends: tuple[int, int] | None = None

    def plug(self) -> None:
        ours, theirs = os.openpty()
        tty.setraw(theirs)
        self._ends = ours, theirs
        self.port.unlink(missing_ok=True)
        self.port.symlink_to(os.ttyname(theirs))

    def unplug(self) -> None:
        """What the program has not read by now is lost."""
        if self._ends is not None:
            self.port.unlink()
            for end in self._ends:
                os.close(end)
            self._ends = None

    def send(self, data: bytes) -> None:
        """Wait for the program to read where the line's buffer is full."""
        assert self._ends is not None
        rest = memoryview(data)
        while rest:
            ready = select.select([], [self._ends[0]], [], LINE_PATIENCE_S)[1]
            assert ready, "nobody reads the line any more"
            rest = rest[os.write(self._ends[0], rest) :]

    def until_read(self) -> None:
        """Wait until the program has taken all that was sent."""
        assert self._ends is not None
        deadline_s = time.monotonic() + LINE_PATIENCE_S
        with contextlib.suppress(BlockingIOError):
            while select.select([self._ends[1]], [], [], 0)[0]:
                assert time.monotonic() < deadline_s
                time.sleep(0.002)

    def receive(self, wait_s: float = LINE_PATIENCE_S) -> bytes:
        """What the program wrote, at least a byte of it."""
        assert self._ends is not None
        assert select.select([self._ends[0]], [], [], wait_s)[0], "nothing came"
        return os.read(self._ends[0], 1 << 16)


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path / "ttyTEST")
    made.plug()
    yield made
    made.unplug()
