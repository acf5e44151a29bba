"""Programs on the board that submit tensors: each gets its own answers, and none can harm another one."""

from __future__ import annotations

import contextlib
import io
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.client import BusyError, Client, NoAnswerError, RefusedError, subscribe
from edge_runtime.local_api import messages as wire
from edge_runtime.sources import Answer, Wanted
from edge_runtime.sources.local_socket import SocketSource, SocketTable
from edge_runtime.sources.multiplexer import Intake
from split_model.bundle import ImagePreprocess, TensorSpec
from split_model.errors import ConfigError, NotAllowedError, OutputError, ProtocolError
from split_model.interpreter import open_interpreter

DOCS = Path(__file__).resolve().parents[3] / "docs" / "local-socket.md"
PATIENCE_S = 20.0
ENDS = ("offloaded", "local", "fallback", "failed", "dropped")
SPEC = TensorSpec(name="in", shape=(1, 2, 3), dtype="float32")


def until(holds: Any) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


class Loop(threading.Thread):
    """Takes frames as the frame loop does, when it is let; answers each with twice its input."""

    def __init__(self, path: Path, wanted: Wanted | None = None, **table: Any) -> None:
        super().__init__(daemon=True)
        self.stop = threading.Event()
        self.go = threading.Event()
        self.go.set()
        self.source = SocketSource(SocketTable(path=path, **table), wanted or Wanted((SPEC,), model="twice"))
        self.intake = Intake({"socket": (self.source, "me")}, stopped=self.stop.is_set)
        self.names: list[str] = []
        self.start()

    def run(self) -> None:
        for frame in self.intake:
            self.go.wait(PATIENCE_S)
            self.names.append(frame.name)
            record = {"kind": "frame", "outcome": "local", "name": frame.name, "outputs": "left out"}
            if frame.name == "breaks":
                record["error"] = "the model failed"
            self.intake.answered(Answer(frame, record, [2 * tensor for tensor in frame.tensors]))

    def end(self) -> None:
        self.stop.set()
        self.go.set()
        self.join(PATIENCE_S)
        self.intake.close()
        assert not self.is_alive()


@pytest.fixture
def loop(tmp_path: Path) -> Any:
    made: list[Loop] = []

    def make(**table: Any) -> Loop:
        made.append(Loop(tmp_path / "frames.sock", **table))
        return made[-1]

    yield make
    for one in made:
        if one.is_alive():
            one.end()


def tensor(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((2, 3), np.float32)


def test_an_answer_is_that_of_the_question(loop: Any, tmp_path: Path) -> None:
    loop()
    with Client(tmp_path / "frames.sock") as client:
        answer = client.ask(tensor(), name="first")
        assert np.array_equal(answer.outputs[0], 2 * tensor()[None])
        assert answer.record == {"kind": "frame", "outcome": "local", "name": "first"}
        ids = [client.send(tensor(seed)) for seed in range(5)]
        answers = [client.receive() for _ in ids]
        assert [answer.id for answer in answers] == ids
        assert all(np.array_equal(a.outputs[0][0], 2 * tensor(seed)) for seed, a in enumerate(answers))
        description = client.describe()
    assert (description.model, description.inputs) == ("twice", (wire.TensorHeader("float32", (1, 2, 3)),))


def test_three_clients_at_once_each_get_their_own(rig: Any, parts: Any) -> None:
    """In the real program, with a server, as three processes would."""
    whole = open_interpreter(parts.model)
    server = rig.server()
    table = {"kind": "socket", "path": "frames.sock", "subject": "apps"}
    device = rig.device(server, tables={"source": table})
    path = device.config.parent / "frames.sock"
    device.until(path.exists)
    wrong: list[str] = []
    outcomes: list[str] = []

    def ask(number: int) -> None:
        rng = np.random.default_rng(number)
        with Client(path, timeout_s=PATIENCE_S) as client:
            for count in range(40):
                pixels = rng.random((1, 8, 8, 3), np.float32)
                answer = client.ask(pixels, name=f"{number}-{count}")
                expected = whole_run(pixels)
                outcomes.append(answer.outcome)
                if answer.record["name"] != f"{number}-{count}":
                    wrong.append(answer.record["name"])
                if answer.outcome == "local" and not np.array_equal(answer.outputs[0], expected):
                    wrong.append(f"{number}-{count}: another one's answer")

    lock = threading.Lock()

    def whole_run(pixels: np.ndarray) -> np.ndarray:
        with lock:
            return whole.run([pixels])[0]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert wrong == []
    assert len(outcomes) == 120
    assert device.stop() == 0
    counters = device.counters()
    assert counters["frames_in"] == 120 == sum(counters[end] for end in ENDS)
    assert {record["source"] for record in device.records()} == {"socket"}
    assert not path.exists()


ASK_AND_DIE = """
import os, sys
import numpy as np
from edge_runtime.client import Client
client = Client(sys.argv[1])
for _ in range(3):
    client.send(np.zeros((2, 3), np.float32))
print("sent", flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_client_that_dies_mid_request_harms_nobody(loop: Any, tmp_path: Path) -> None:
    program = loop()
    program.go.clear()
    with Client(tmp_path / "frames.sock", timeout_s=PATIENCE_S) as other:
        mine = other.send(tensor(5))
        command = [sys.executable, "-c", ASK_AND_DIE, str(tmp_path / "frames.sock")]
        dead = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
        assert (dead.returncode, dead.stdout) == (-9, "sent\n")
        program.go.set()
        answer = other.receive()
        assert answer.id == mine
        assert np.array_equal(answer.outputs[0][0], 2 * tensor(5))
        # Those of the dead one were accepted: they are answered like any other, to nobody. What ZeroMQ had not
        # handed over when it died is not accepted.
        until(lambda: program.source.counters()["undeliverable"] == len(program.names) - 1)
        assert np.array_equal(other.ask(tensor(6)).outputs[0][0], 2 * tensor(6))
    assert len(program.names) <= 5


def test_a_full_queue_is_busy_and_nothing_is_lost(loop: Any, tmp_path: Path) -> None:
    program = loop(queue_frames=4, client_frames=3)
    program.go.clear()
    path = tmp_path / "frames.sock"
    with Client(path) as first, Client(path) as second:
        mine = [first.send(tensor(seed)) for seed in range(5)]
        refused = []
        for _ in range(2):
            with pytest.raises(BusyError, match="3 of this client's frames") as raised:
                first.receive()
            refused.append(raised.value.id)
        assert refused == mine[3:]
        second.send(tensor(9))
        with pytest.raises(BusyError, match="4 frames are waiting"):
            second.ask(tensor(9))
        program.go.set()
        assert [first.receive().id for _ in range(3)] == mine[:3]
        assert second.receive().id == 1
        assert second.ask(tensor(1)).outcome == "local"
    assert program.source.counters() == {"refused": 3, "busy": 3, "undeliverable": 0}
    assert len(program.names) == 5


def test_what_was_accepted_is_answered_after_the_stop(loop: Any, tmp_path: Path) -> None:
    program = loop()
    program.go.clear()
    with Client(tmp_path / "frames.sock") as client:
        ids = [client.send(tensor(seed)) for seed in range(4)]
        client.describe  # noqa: B018
        until(lambda: program.source._open.total() == 4)
        program.stop.set()
        until(lambda: program.source._ending)
        with pytest.raises(RefusedError, match="stopping"):
            client.ask(tensor())
        program.go.set()
        assert [client.receive().id for _ in ids] == ids
    program.end()
    assert not (tmp_path / "frames.sock").exists()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ([np.zeros((3, 2), np.float32)], r"float32\[3, 2\], the model takes float32\[1, 2, 3\]"),
        ([np.zeros((2, 3), np.float64)], "float64"),
        ([np.full((2, 3), np.inf, np.float32)], "not finite"),
        ([np.zeros((2, 3), np.float32)] * 2, "2 tensors, the model takes 1"),
        ([], "0 tensors"),
    ],
)
def test_bad_input_is_refused_with_the_reason(loop: Any, tmp_path: Path, given: Any, named: str) -> None:
    program = loop()
    with Client(tmp_path / "frames.sock") as client:
        with pytest.raises((RefusedError, ProtocolError), match=named):
            client.ask(*given)
        assert client.ask(tensor()).outcome == "local"
    assert len(program.names) == 1


def test_a_frame_that_fails_is_no_answer(loop: Any, tmp_path: Path) -> None:
    loop()
    with Client(tmp_path / "frames.sock") as client, pytest.raises(RefusedError, match="failed: the model failed"):
        client.ask(tensor(), name="breaks")


def raw(path: Path) -> Any:
    context = zmq.Context()
    peer = context.socket(zmq.DEALER)
    peer.linger = 0
    peer.connect(f"ipc://{path}")
    return contextlib.closing(_Raw(context, peer))


class _Raw:
    def __init__(self, context: zmq.Context, peer: zmq.Socket) -> None:
        self.context, self.peer = context, peer

    def hears(self, *frames: bytes) -> Any:
        self.peer.send_multipart(frames)
        assert self.peer.poll(5000)
        return wire.decode_to_client(self.peer.recv_multipart()[-1])

    def close(self) -> None:
        self.peer.close()
        self.context.term()


SUBMIT = ["submit", 1, 7, [["float32", [2, 3]]], "x"]


@pytest.mark.parametrize(
    ("frames", "code", "number"),
    [
        ([b""], "protocol", None),
        ([b"\xc1"], "protocol", None),
        ([b"x" * 70000], "protocol", None),
        ([b"\x92\xa8" + b"\xff" * 8 + b"\x01"], "protocol", None),  # a text that is no UTF-8
        ([msgspec.msgpack.encode(["answer", 1])], "protocol", None),
        ([msgspec.msgpack.encode(["describe", 9])], "version", None),
        ([msgspec.msgpack.encode(["submit", 2, *SUBMIT[2:]]), bytes(24)], "version", 7),
        ([msgspec.msgpack.encode(SUBMIT)], "protocol", 7),
        ([msgspec.msgpack.encode(SUBMIT), bytes(23)], "protocol", 7),
        ([msgspec.msgpack.encode(SUBMIT), bytes(24), b"more"], "protocol", 7),
        ([msgspec.msgpack.encode(["submit", 1, -1, [], ""])], "protocol", None),
        ([msgspec.msgpack.encode(["submit", 1, 1, [["object", [1]]], ""]), bytes(8)], "protocol", None),
        ([msgspec.msgpack.encode(["submit", 1, 1, [["int8", [2**30] * 8]], ""]), bytes(8)], "protocol", 1),
        ([msgspec.msgpack.encode(["submit", 1, 1, [["int8", [1]]] * 17, ""])], "protocol", None),
        ([msgspec.msgpack.encode(["submit", 1, 1, [["float32", [2, 3]]], "n" * 257]), bytes(24)], "protocol", None),
    ],
)
def test_messages_that_are_none_get_a_refusal(
    loop: Any, tmp_path: Path, frames: list[bytes], code: str, number: Any
) -> None:
    loop()
    with raw(tmp_path / "frames.sock") as peer:
        # An empty first frame is what a REQ socket would put there, so it comes once more.
        refusal = peer.hears(*([b""] if frames[0] == b"" else []), *frames)
        assert (refusal.code, refusal.id) == (code, number)
        answer = peer.hears(msgspec.msgpack.encode(["describe", 1]))
        assert answer.model == "twice"


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_any_bytes_from_a_client_get_a_refusal_or_an_answer(frames: list[bytes]) -> None:
    """The thread that has the socket must survive whatever comes."""
    source = SocketSource.__new__(SocketSource)
    source._table, source._wanted = SocketTable(), Wanted((SPEC,))
    source._counts = {"refused": 0, "busy": 0}  # type: ignore[assignment]
    reply = source._receive(b"client", (), frames)
    assert isinstance(reply, (wire.Refusal, wire.Description))
    wire.decode_to_client(wire.encode(reply))


def test_what_goes_wrong_with_one_message_is_refused_to_its_sender(
    loop: Any, tmp_path: Path, monkeypatch: Any, caplog: Any
) -> None:
    """A fault of ours that one client's tensors bring out is no other client's business."""
    program = loop()
    fit = Wanted.fit

    def run_out(wanted: Wanted, arrays: Any) -> Any:
        if (arrays[0] == 13.0).all():
            raise MemoryError("no room")
        return fit(wanted, arrays)

    monkeypatch.setattr(Wanted, "fit", run_out)
    with Client(tmp_path / "frames.sock") as client, Client(tmp_path / "frames.sock") as other:
        with pytest.raises(RefusedError, match=r"failed: it could not be read \(MemoryError: no room\)"):
            client.ask(np.full((2, 3), 13.0, np.float32))
        assert client.ask(tensor()).outcome == other.ask(tensor()).outcome == "local"
    assert program.source.counters()["refused"] == 1
    assert "a client's message could not be read" in caplog.text


def test_a_strip_of_a_picture_is_refused(loop: Any, tmp_path: Path) -> None:
    prepare = ImagePreprocess(resize=224, crop=(8, 8), scale=(255.0,))
    loop(wanted=Wanted((TensorSpec(name="in", shape=(1, 8, 8, 3), dtype="float32"),), preprocess=prepare))
    with Client(tmp_path / "frames.sock", timeout_s=PATIENCE_S) as client:
        with pytest.raises(RefusedError, match=r"bad_input: .* less extreme proportions"):
            client.ask(np.zeros((1, 100_000, 3), np.uint8))
        assert client.ask(np.zeros((20, 30, 3), np.uint8)).outcome == "local"


def test_a_req_socket_will_do(loop: Any, tmp_path: Path) -> None:
    loop()
    context = zmq.Context()
    request = context.socket(zmq.REQ)
    request.linger = 0
    request.connect(f"ipc://{tmp_path}/frames.sock")
    for seed in range(3):
        request.send_multipart([msgspec.msgpack.encode(SUBMIT), tensor(seed).tobytes()])
        header, values = request.recv_multipart()
        assert wire.decode_to_client(header).id == 7
        assert values == (2 * tensor(seed)).tobytes()
    request.close()
    context.term()


def test_a_tensor_that_is_too_large_costs_its_sender_the_connection(loop: Any, tmp_path: Path) -> None:
    loop(max_tensor_bytes=4096)
    with Client(tmp_path / "frames.sock") as good:
        good.ask(tensor())
        with Client(tmp_path / "frames.sock", timeout_s=0.5) as bad, pytest.raises(NoAnswerError):
            bad.ask(np.zeros(5000, np.uint8))
        assert good.ask(tensor(3)).outcome == "local"


def test_a_client_that_does_not_read_does_not_hold_up_others(loop: Any, tmp_path: Path) -> None:
    big = TensorSpec(name="in", shape=(1, 1 << 18), dtype="uint8")
    program = loop(wanted=Wanted((big,)), client_frames=100, queue_frames=100)
    with Client(tmp_path / "frames.sock") as lazy, Client(tmp_path / "frames.sock") as keen:
        for _ in range(200):
            lazy.send(np.zeros(1 << 18, np.uint8))
        for _ in range(5):
            assert keen.ask(np.ones(1 << 18, np.uint8)).outcome == "local"
        until(lambda: program.source._open.total() == 0)


def test_pictures_are_prepared(loop: Any, tmp_path: Path) -> None:
    spec = TensorSpec(name="in", shape=(1, 4, 4, 3), dtype="float32")
    prepare = ImagePreprocess(resize=4, crop=(4, 4), scale=(255.0,))
    loop(wanted=Wanted((spec,), preprocess=prepare))
    with Client(tmp_path / "frames.sock") as client:
        assert client.describe().pictures
        answer = client.ask(np.full((20, 10, 3), 255, np.uint8))
    assert answer.outputs[0].shape == (1, 4, 4, 3)
    assert np.allclose(answer.outputs[0], 2.0)


def test_a_program_that_comes_back_is_found_again(loop: Any, tmp_path: Path) -> None:
    program = loop()
    with Client(tmp_path / "frames.sock") as client:
        client.ask(tensor())
        program.end()
        with pytest.raises(NoAnswerError, match="nobody is there"):
            client.ask(tensor(), timeout_s=0.2)
        loop()
        assert client.ask(tensor(2)).outcome == "local"


def test_only_this_user_and_the_group_may_submit(tmp_path: Path) -> None:
    path = tmp_path / "frames.sock"
    source = SocketTable(path=path).open(Wanted((SPEC,)))
    assert path.stat().st_mode & 0o777 == 0o600
    source.close()
    if os.getuid() == 0:
        source = SocketTable(path=path, group="daemon").open(Wanted((SPEC,)))
        assert path.stat().st_mode & 0o777 == 0o660
        assert path.stat().st_gid != 0
        source.close()
    with pytest.raises(ConfigError, match="no group 'nobody-at-all'"):
        SocketTable(path=path, group="nobody-at-all").check(Wanted((SPEC,)))


def test_a_socket_that_is_served_is_not_taken_and_one_that_was_left_is(tmp_path: Path) -> None:
    path = tmp_path / "frames.sock"
    source = SocketTable(path=path).open(Wanted((SPEC,)))
    with pytest.raises(NotAllowedError, match="another program serves"):
        SocketTable(path=path).open(Wanted((SPEC,)))
    with Client(path) as client:
        assert client.describe().client_frames == 8  # it still serves
    source.close()
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    source = SocketTable(path=path).open(Wanted((SPEC,)))
    with Client(path) as client:
        client.describe()
    source.close()


def test_what_cannot_work_is_said_before_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="over 107 bytes"):
        SocketTable(path=tmp_path / ("x" * 120)).check(Wanted((SPEC,)))
    big = TensorSpec(name="in", shape=(2000,), dtype="int8")
    with pytest.raises(ConfigError, match="max_tensor_bytes = 1024"):
        SocketTable(path=tmp_path / "x", max_tensor_bytes=1024).check(Wanted((big,)))
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        SocketTable(path=tmp_path / "file" / "x.sock").open(Wanted((SPEC,)))


def test_the_client_loads_little() -> None:
    heavy = "{'edge_runtime.daemon', 'edge_runtime.config', 'edge_runtime.sources', 'psutil', 'serial', 'asyncio'}"
    code = f"import sys, edge_runtime.client; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_examples_of_the_documentation_run_word_by_word(rig: Any, parts: Any) -> None:
    text = DOCS.read_text()
    configs = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    programs = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert (len(configs), len(programs)) == (2, 3)
    folder = rig.folder / "device"
    config = rig.configure(planner_split="local", tables={"emulation": {}})
    tables = re.sub(r"\[(source|sink)\].*?(?=\n\[|\Z)", "", config.read_text(), flags=re.DOTALL)

    def here(words: str) -> str:
        """Nobody may write to /run in a test, nor make a group."""
        return words.replace("/run/edge-runtime", str(folder)).replace('group = "edge-clients"', "")

    config.write_text(tables + "\n".join(here(words) for words in configs))
    popen, log = rig._start(folder, "edge_runtime", "run", "-c", str(config))
    try:
        until((folder / "frames.sock").exists)
        records: list[str] = []
        listener = threading.Thread(
            target=lambda: records.extend(
                record["name"] for record, _ in subscribe(folder / "answers.sock", topic="frame", timeout_s=3)
            )
        )
        listener.start()
        time.sleep(0.5)  # a subscription takes a moment
        names: dict[str, Any] = {}
        outputs = [run_example(here(program), names) for program in programs]
        listener.join()
    finally:
        popen.terminate()
        popen.wait(PATIENCE_S)
    assert "float32" in outputs[0]
    assert "local [{'class'" in outputs[0]
    assert sorted(line.split()[0] for line in outputs[1].splitlines()) == ["0", "100", "200"]
    assert len(records) == 4, log.read_text()


def run_example(program: str, names: dict[str, Any]) -> str:
    """One after the other, as a reader would type them; nothing comes any more for the last one to print."""
    program = program.replace("timeout_s=10", "timeout_s=0.5")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(compile(program, "docs/local-socket.md", "exec"), names)
    return said.getvalue()
