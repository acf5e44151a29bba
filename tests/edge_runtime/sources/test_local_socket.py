"""Programs on the board that submit tensors: each gets its own answers, and none can harm another one."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from edge_runtime.client import (
    BusyError,
    Client,
    LostError,
    NoAnswerError,
    NotAllowedError,
    RefusedError,
    TensorHeader,
    subscribe,
)
from edge_runtime.local_api import framing
from edge_runtime.sources import Answer, Wanted
from edge_runtime.sources.local_socket import SocketSource, SocketTable
from edge_runtime.sources.multiplexer import Multiplexer
from edge_runtime.sources.supply import Supply
from split_model.bundle import ImagePreprocess, TensorSpec
from split_model.errors import BadInputError, ConfigError, OutputError, ProtocolError
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
        self.multiplexer = Multiplexer({"socket": Supply.of(self.source, "me")}, stopped=self.stop.is_set)
        self.names: list[str] = []
        self.start()

    def run(self) -> None:
        for frame in self.multiplexer:
            self.go.wait(PATIENCE_S)
            self.names.append(frame.name)
            record = {"kind": "frame", "outcome": "local", "name": frame.name, "outputs": "left out"}
            if frame.name == "breaks":
                record["error"] = "the model failed"
            self.multiplexer.answered(Answer(frame, record, [2 * tensor for tensor in frame.tensors]))

    def end(self) -> None:
        self.stop.set()
        self.go.set()
        self.join(PATIENCE_S)
        self.multiplexer.close()
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
    assert (description.model, description.inputs) == ("twice", (TensorHeader("float32", (1, 2, 3)),))


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
        # Those of the dead one were accepted: they are answered like any other, to nobody. What had not been read
        # when it died is not accepted.
        until(lambda: program.source.counters()["undeliverable"] == len(program.names) - 1)
        assert np.array_equal(other.ask(tensor(6)).outputs[0][0], 2 * tensor(6))
    assert len(program.names) <= 5


def test_a_full_queue_is_busy_and_nothing_is_lost(loop: Any, tmp_path: Path) -> None:
    """One user may fill half of it: the rest is for the others."""
    program = loop(queue_frames=8, client_frames=3)
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
        with pytest.raises(BusyError, match=f"4 frames are waiting or under way, 4 of them user {os.getuid()}'s"):
            second.ask(tensor(9))
        program.go.set()
        assert [first.receive().id for _ in range(3)] == mine[:3]
        assert second.receive().id == 1
        assert second.ask(tensor(1)).outcome == "local"
        counted = program.source.counters()
    assert counted == {"refused": 3, "busy": 3, "undeliverable": 0, "clients": 2, "disconnected": 0}
    assert len(program.names) == 5


def test_what_was_accepted_is_answered_after_the_stop(loop: Any, tmp_path: Path) -> None:
    program = loop()
    with Client(tmp_path / "frames.sock") as client:
        client.ask(tensor())
        program.go.clear()
        ids = [client.send(tensor(seed)) for seed in range(4)]
        with pytest.raises(RefusedError, match="bad_input"):
            client.ask(np.zeros(7, np.float32))  # one after the other: those before it are accepted by now
        program.stop.set()
        with pytest.raises(RefusedError, match="stopping"):
            client.ask(tensor())
        program.go.set()
        assert [client.receive().id for _ in ids] == ids
    program.end()
    assert not (tmp_path / "frames.sock").exists()


def test_a_submission_of_half_a_message_is_not_waited_for_at_the_stop(loop: Any, tmp_path: Path) -> None:
    program = loop()
    with raw(tmp_path / "frames.sock") as peer:
        peer.send(framing.framed(json.dumps(SUBMIT).encode(), [bytes(24)]), keep=10)
        with Client(tmp_path / "frames.sock") as client:
            client.ask(tensor())
        program.end()
        assert peer.connection.recv(1) == b""


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ([np.zeros((3, 2), np.float32)], r"float32\[3, 2\], the model takes float32\[1, 2, 3\]"),
        ([np.zeros((2, 3), np.complex64)], "complex64; give numbers"),
        ([[[1, 2, 3], [4, 5]]], "not an array"),
        ([np.full((2, 3), 1e300)], "not finite"),
        ([[[16777217, 0, 0], [0, 0, 0]]], "integers from 0 to 16777217, out of the range of float32"),
        ([np.full((2, 3), np.inf, np.float32)], "not finite"),
        ([np.zeros((2, 3), np.float32)] * 2, "2 tensors, the model takes 1"),
        ([], "0 tensors"),
    ],
)
def test_bad_input_is_refused_with_the_reason(loop: Any, tmp_path: Path, given: Any, named: str) -> None:
    program = loop()
    with Client(tmp_path / "frames.sock") as client:
        with pytest.raises((RefusedError, BadInputError), match=named):
            client.ask(*given)
        assert client.ask(tensor()).outcome == "local"
    assert len(program.names) == 1


def test_a_frame_that_fails_is_no_answer(loop: Any, tmp_path: Path) -> None:
    loop()
    with Client(tmp_path / "frames.sock") as client, pytest.raises(RefusedError, match="failed: the model failed"):
        client.ask(tensor(), name="breaks")


class _Raw:
    """The protocol by hand, as a program in another language would."""

    def __init__(self, path: Path) -> None:
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.settimeout(PATIENCE_S)
        self.connection.connect(str(path))
        self.connection.sendall(framing.hello())
        assert self.take(8) == framing.hello()

    def take(self, count: int) -> bytes:
        got = b""
        while len(got) < count:
            piece = self.connection.recv(count - len(got))
            assert piece, f"closed after {got!r}"
            got += piece
        return got

    def send(self, parts: list[Any], *, keep: int = 0) -> None:
        """``keep``: so many bytes at the end are not sent."""
        data = b"".join(parts)
        self.connection.sendall(data[: len(data) - keep])

    def hears(self, header: bytes, body: bytes = b"") -> list[Any]:
        self.send(framing.framed(header, [body]))
        return self.next()[0]

    def next(self) -> tuple[list[Any], bytes]:
        lengths = self.take(12)
        header = json.loads(self.take(int.from_bytes(lengths[:4], "little")))
        return header, self.take(int.from_bytes(lengths[4:], "little"))

    def is_closed(self) -> bool:
        try:
            return not self.connection.recv(1)
        except ConnectionResetError:
            return True


@contextlib.contextmanager
def raw(path: Path) -> Any:
    peer = _Raw(path)
    with peer.connection:
        yield peer


SUBMIT = ["submit", 7, [["float32", [2, 3]]], "x"]


def header(*changes: tuple[int, Any]) -> bytes:
    changed = list(SUBMIT)
    for index, value in changes:
        changed[index] = value
    return json.dumps(changed).encode()


@pytest.mark.parametrize(
    ("told", "body", "code", "number"),
    [
        (b"\xc1", b"", "protocol", None),
        (b'["submit"', b"", "protocol", None),
        (b'["describe", "\xff\xff"]', b"", "protocol", None),  # a text that is no UTF-8
        (b'["submit", 7, [["float32", [2, 3]]], "\\ud800"]', bytes(24), "protocol", None),  # half a surrogate
        (b'["answer", 1]', b"", "protocol", None),
        (b"[" * 60000, b"", "protocol", None),
        (b'["subscribe", "frame"]', b"", "protocol", None),
        (header(), b"", "protocol", 7),
        (header(), bytes(23), "protocol", 7),
        (header(), bytes(25), "protocol", 7),
        (header((1, -1)), bytes(24), "protocol", None),
        (header((2, [["object", [1]]])), bytes(8), "protocol", None),
        (header((2, [["int8", [2**30] * 8]])), bytes(8), "protocol", 7),
        (header((2, [["int8", [1]]] * 17)), b"", "protocol", None),
        (header((3, "n" * 257)), bytes(24), "protocol", None),
        (header((2, [])), b"", "bad_input", 7),
    ],
)
def test_messages_that_are_none_get_a_refusal(
    loop: Any, tmp_path: Path, told: bytes, body: bytes, code: str, number: Any
) -> None:
    loop(max_tensor_bytes=4096, queue_bytes=1 << 20)
    with raw(tmp_path / "frames.sock") as peer:
        refusal = peer.hears(told, body)
        assert refusal[:3] == ["refusal", number, code], refusal
        assert peer.hears(b'["describe"]')[:2] == ["description", "twice"]
        assert peer.hears(header(), tensor().tobytes())[:2] == ["answer", 7]


@pytest.mark.parametrize(
    ("sent", "told", "logged"),
    [
        (b"\xff\0\0\0\0\0\0\0\x01\x7f", b"", "speaks ZeroMQ, the protocol of an older edge_runtime"),
        (b"GET / HTTP/1.1\r\n", b"", "begins with b'GET / HT'"),
        (framing.hello((3, 9)), framing.hello(), "speaks protocol versions 3 to 9, this side 2 to 2"),
        (framing.hello((1, 1)), framing.hello(), "speaks protocol versions 1 to 1, this side 2 to 2"),
    ],
)
def test_who_speaks_something_else_is_closed_with_a_line_in_the_log(
    loop: Any, tmp_path: Path, caplog: Any, sent: bytes, told: bytes, logged: str
) -> None:
    program = loop()
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(PATIENCE_S)
        peer.connect(str(tmp_path / "frames.sock"))
        peer.sendall(sent)
        heard = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := peer.recv(100):
                heard += piece
    assert heard == told
    until(lambda: logged in caplog.text)
    assert f"process {os.getpid()} of user {os.getuid()} is disconnected" in caplog.text
    assert program.source.counters()["disconnected"] == 1
    with Client(tmp_path / "frames.sock") as client:
        assert client.ask(tensor()).outcome == "local"


def test_newer_versions_of_a_client_are_welcome_where_they_speak_ours(loop: Any, tmp_path: Path) -> None:
    loop()
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(tmp_path / "frames.sock"))
        peer.sendall(framing.hello((2, 7)) + b"".join(framing.framed(b'["describe"]')))
        assert peer.recv(8) == framing.hello()
        assert b"description" in peer.recv(1000)


@pytest.mark.parametrize("greeting", [b"\xff\0\0\0\0\0\0\0\x01\x7f", framing.hello((9, 9))])
def test_a_client_tells_who_speaks_something_else(tmp_path: Path, greeting: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "frames.sock"))
        listening.listen()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(greeting)
                connection.recv(100)

        thread = threading.Thread(target=serve)
        thread.start()
        expected = r"ZeroMQ|versions 9 to 9, this side 2 to 2; upgrade the older"
        with Client(tmp_path / "frames.sock") as client, pytest.raises(ProtocolError, match=expected):
            client.ask(tensor())
        thread.join()


def test_the_zeromq_client_of_before_does_no_harm(loop: Any, tmp_path: Path, caplog: Any) -> None:
    loop()
    context = zmq.Context()
    old = context.socket(zmq.DEALER)
    old.linger = 0
    old.reconnect_ivl = 20
    old.connect(f"ipc://{tmp_path}/frames.sock")
    until(lambda: "speaks ZeroMQ" in caplog.text)
    with Client(tmp_path / "frames.sock") as client:
        assert client.ask(tensor()).outcome == "local"
    old.close()
    context.term()


def test_what_goes_wrong_with_one_message_is_refused_to_its_sender(
    loop: Any, tmp_path: Path, monkeypatch: Any, caplog: Any
) -> None:
    """A fault of ours that one client's tensors bring out is no other client's business."""
    program = loop()
    fit = Wanted.fit

    def run_out(wanted: Wanted, arrays: Any) -> Any:
        if (arrays[0] == 13.0).all():
            raise RuntimeError("no room")
        return fit(wanted, arrays)

    monkeypatch.setattr(Wanted, "fit", run_out)
    with Client(tmp_path / "frames.sock") as client, Client(tmp_path / "frames.sock") as other:
        with pytest.raises(RefusedError, match=r"failed: it could not be read \(RuntimeError: no room\)"):
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


def test_what_is_over_a_limit_is_refused_by_the_client_at_once(loop: Any, tmp_path: Path) -> None:
    spec = TensorSpec(name="in", shape=(1, 4, 4, 3), dtype="float32")
    pictures = Wanted((spec,), preprocess=ImagePreprocess(resize=4, crop=(4, 4), scale=(255.0,)))
    program = loop(max_tensor_bytes=4096, wanted=pictures)
    with Client(tmp_path / "frames.sock") as client:
        with pytest.raises(RefusedError, match=r"bad_input: a tensor of 30000 bytes, .* at most 4096"):
            client.ask(np.zeros((100, 100, 3), np.uint8))
        assert client.ask(np.zeros((30, 40, 3), np.uint8)).outcome == "local"
    assert program.source.counters()["refused"] == 0


def test_a_body_that_is_too_large_costs_its_sender_the_connection(loop: Any, tmp_path: Path) -> None:
    loop(max_tensor_bytes=4096)
    with Client(tmp_path / "frames.sock") as good, raw(tmp_path / "frames.sock") as bad:
        good.ask(tensor())
        bad.send(framing.framed(header((2, [["uint8", [4097]]])), [b"x" * 4097]))
        assert bad.next()[0][:3] == ["refusal", 7, "bad_input"]
        assert bad.is_closed()
        assert good.ask(tensor(3)).outcome == "local"


def test_a_client_that_does_not_read_is_not_read_from(loop: Any, tmp_path: Path) -> None:
    """What it makes the program keep is bounded by what was accepted; others go on."""
    big = TensorSpec(name="in", shape=(1, 1 << 20), dtype="uint8")
    program = loop(wanted=Wanted((big,)), client_frames=100, queue_frames=100)
    told = json.dumps(["submit", 1, [["uint8", [1, 1 << 20]]], "lazy"]).encode()
    with raw(tmp_path / "frames.sock") as lazy, Client(tmp_path / "frames.sock", timeout_s=PATIENCE_S) as keen:
        lazy.connection.setblocking(False)
        message, sent = b"".join(framing.framed(told, [bytes(1 << 20)])), 0
        with contextlib.suppress(BlockingIOError):
            while sent < 200 * len(message):
                sent += lazy.connection.send(message[sent % len(message) :])
                time.sleep(0)
            pytest.fail("everything was read")
        for _ in range(5):
            assert keen.ask(np.ones(1 << 20, np.uint8)).outcome == "local"
        assert program.names.count("lazy") < 60


def test_a_client_that_sends_much_before_it_reads_gets_all_answers(loop: Any, tmp_path: Path) -> None:
    big = TensorSpec(name="in", shape=(1, 1 << 18), dtype="uint8")
    loop(wanted=Wanted((big,)))
    hows: list[str] = []
    with Client(tmp_path / "frames.sock", timeout_s=PATIENCE_S) as client:
        waiting = {client.send(np.full(1 << 18, seed, np.uint8)): seed for seed in range(50)}
        for _ in range(50):
            id_, outputs = ended(client)
            grey = waiting.pop(id_)
            assert outputs is None or (outputs[0] == 2 * grey).all()
            hows.append("busy" if outputs is None else "answered")
    assert hows.count("answered") >= 8  # so many of one client may wait


def ended(client: Client) -> tuple[Any, Any]:
    """The next id that ended, and its outputs, None where it was refused as busy."""
    try:
        answer = client.receive()
    except BusyError as error:
        return error.id, None
    return answer.id, answer.outputs


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


def test_a_client_learns_what_got_lost_with_the_program(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "frames.sock"))
        listening.listen()
        told = ["description", "m", [["float32", [1, 2, 3]]], [], False, 8, 8, 1000]

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"".join([framing.hello(), *framing.framed(json.dumps(told).encode())]))
                got = b""
                while got.count(b"submit") < 2:
                    got += connection.recv(1000)

        thread = threading.Thread(target=serve)
        thread.start()
        with Client(tmp_path / "frames.sock") as client:
            client.send(tensor())
            client.send(tensor())
            with pytest.raises(LostError, match="2 submissions got no answer"):
                client.receive()
        thread.join()


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (np.arange(6, dtype=np.float64).reshape(2, 3), "float32"),
        ([[0, 1, 2], [3, 4, 5]], "float32"),
        ([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], "int8"),
        (np.arange(6, dtype=np.int64).reshape(2, 3), "int8"),
        (np.arange(6, dtype=np.uint16).reshape(1, 2, 3), "uint8"),
        (np.arange(6, dtype=np.float16).reshape(2, 3), "float32"),
    ],
)
def test_lists_and_other_element_types_are_taken(loop: Any, tmp_path: Path, given: Any, dtype: str) -> None:
    spec = TensorSpec(name="in", shape=(1, 2, 3), dtype=dtype, scale=0.0 if dtype == "float32" else 1.0)
    loop(wanted=Wanted((spec,)))
    with Client(tmp_path / "frames.sock") as client:
        outputs = client.ask(given).outputs[0]
    assert outputs.dtype == dtype
    assert outputs.reshape(-1).tolist() == [0, 2, 4, 6, 8, 10]


def test_a_user_who_may_not_hears_that(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root, to become somebody else")
    folder = Path(tempfile.mkdtemp())
    program = Loop(folder / "frames.sock", group="daemon")
    code = f"""
import os, sys
from edge_runtime.client import Client, NotAllowedError, subscribe
os.setgroups([]), os.setgid(65534), os.setuid(65534)
try:
    Client({str(folder / "frames.sock")!r}, timeout_s=5).ask([1.0])
except NotAllowedError as error:
    print(error)
try:
    next(subscribe({str(folder / "frames.sock")!r}, timeout_s=5))
except NotAllowedError as error:
    print(error)
"""
    try:
        for mode in (0o755, 0o700):  # the file may be seen, or not even that
            folder.chmod(mode)
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            assert done.stdout.count("permission denied; join the group") == 2
        folder.chmod(0o755)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.count("usermod -aG daemon") == 2
    finally:
        program.end()
        folder.rmdir()


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


def test_the_client_needs_no_more_than_numpy() -> None:
    """A board's own Python may have that, and nothing else."""
    code = """
import sys
import numpy
before = set(sys.modules)
import edge_runtime.client
tops = {name.split(".")[0] for name in set(sys.modules) - before}
print(sorted(tops - set(sys.stdlib_module_names) - {"edge_runtime", "split_model", "numpy"}), "asyncio" in tops)
print(sorted(name for name in sys.modules if name.startswith(("edge_runtime.", "split_model."))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "[] False"
    assert done.stdout.splitlines()[1] == str(
        [
            "edge_runtime.client",
            "edge_runtime.local_api",
            "edge_runtime.local_api.connection",
            "edge_runtime.local_api.framing",
            "edge_runtime.local_api.replies",
            "edge_runtime.local_api.tensors",
            "split_model.answers",
            "split_model.answers.png",
            "split_model.arrays",
            "split_model.errors",
        ]
    )


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
    popen, log = rig.start_program(folder, "edge_runtime", "run", "-c", str(config))
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
