"""A member of the group of local clients attacks the real device program: it lives, and answers the others.

Where the tests run as root, the attacker is another user, as on a board.
"""

from __future__ import annotations

import contextlib
import grp
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from edge_runtime.client import Client, RefusedError

PATIENCE_S = 30.0
NOBODY = 65534
IS_ROOT = os.getuid() == 0
PICTURE = np.zeros((8, 8, 3), np.uint8)
#: 16 MiB, four times, and what a connection and a picture's preparation take.
MOST_MB = 64 + 40

#: What every attack begins with; ``message(header, body_bytes)`` is what comes before a body.
PRELUDE = f"""
import json, os, random, select, socket, struct, sys, time
if os.getuid() == 0:
    os.setgroups([]), os.setgid({NOBODY}), os.setuid({NOBODY})
path = sys.argv[1]

def connect():
    made = socket.socket(socket.AF_UNIX)
    made.connect(path)
    made.settimeout(20)
    return made

def begin(header, body_bytes):
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<IQ", len(data), body_bytes) + data

def give(connection, data):
    try:
        connection.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        pass

HELLO = b"EDGE" + struct.pack("<HH", 2, 2)
SUBMIT = ["submit", 1, [["uint8", [8, 8, 3]]], "attack"]
"""
DONE = """
print("done", flush=True)
sys.stdin.read()
"""


class Board:
    """A device program with its local socket open to the attacker's group, and attackers."""

    def __init__(self, rig: Any, folder: Path) -> None:
        table: dict[str, Any] = {"kind": "socket", "path": str(folder / "frames.sock")}
        sink: dict[str, Any] = {"kind": "pub", "path": str(folder / "answers.sock")}
        if IS_ROOT:
            table["group"] = sink["group"] = grp.getgrgid(NOBODY).gr_name
        self.path, self.answers = folder / "frames.sock", folder / "answers.sock"
        tables = {"source": table, "sink": [{"kind": "jsonl", "path": "answers.jsonl"}, sink], "emulation": {}}
        self.device = rig.device(tables=tables, planner_split="local")
        self.device.until(self.path.exists)
        with self.polite() as client:
            client.ask(PICTURE)
        self._before_mb = self.peak_mb()
        self._attackers: list[subprocess.Popen[str]] = []

    def peak_mb(self) -> float:
        """The most memory that the program has had."""
        status = Path(f"/proc/{self.device.popen.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1e3

    @property
    def grown_mb(self) -> float:
        print(f"grown by {self.peak_mb() - self._before_mb:.1f} MB from {self._before_mb:.1f}")
        return self.peak_mb() - self._before_mb

    def start(self, code: str, path: Path | None = None) -> subprocess.Popen[str]:
        """An attacker that keeps what it holds until the end of the test."""
        command = [sys.executable, "-c", PRELUDE + code + DONE, str(path or self.path)]
        attacker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._attackers.append(attacker)
        return attacker

    def attack(self, code: str, path: Path | None = None) -> str:
        """Start an attacker, and wait until it has done its worst. Returns what it printed."""
        attacker = self.start(code, path)
        assert attacker.stdout is not None
        said = ""
        while (line := attacker.stdout.readline()) != "done\n":
            assert line, "the attack itself failed"
            said += line
        return said

    @staticmethod
    def is_done(attacker: subprocess.Popen[str]) -> bool:
        """Whether it has done its worst; it must have printed nothing else."""
        return bool(select.select([attacker.stdout], [], [], 0)[0])

    def polite(self) -> Client:
        return Client(self.path, timeout_s=PATIENCE_S)

    def is_well(self, asks: int = 10) -> None:
        """The program answers another user at once."""
        with self.polite() as client:
            for _ in range(asks):
                assert client.ask(PICTURE).outcome == "local"

    def close(self) -> None:
        for attacker in self._attackers:
            attacker.kill()
            attacker.communicate()


@pytest.fixture
def board(rig: Any) -> Iterator[Board]:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    made = Board(rig, folder)
    try:
        yield made
        assert made.device.stop() == 0
    finally:
        made.close()
        shutil.rmtree(folder)


needs_another_user = pytest.mark.skipif(not IS_ROOT, reason="needs root, to be two users")


@needs_another_user
def test_200_connections_of_one_user_leave_room_for_others(board: Board) -> None:
    said = board.attack("""
held, refused = [], 0
for _ in range(200):
    connection = connect()
    give(connection, HELLO + begin(["describe"], 0))
    told = connection.recv(8) + connection.recv(1000)
    refused += b"max_clients = 64 is shared among users" in told
    held.append(connection)
print(refused)
""")
    assert int(said) == 200 - 32
    board.is_well()


def test_connections_that_took_the_ids_of_others_are_nothing_here(board: Board) -> None:
    """It ended the program while this was a ROUTER, whose own ids can be foretold and taken ahead."""
    with contextlib.ExitStack() as closing:
        context = closing.enter_context(zmq.Context())
        for number in range(200):
            attacker = closing.enter_context(context.socket(zmq.DEALER))
            attacker.linger = 0
            if number < 100:
                attacker.routing_id = b"\0" + (0x6B8B4567 + 20 + number).to_bytes(4, "big")
            attacker.connect(f"ipc://{board.path}")
            attacker.poll(10, zmq.POLLOUT)
        board.device.until(lambda: "speaks ZeroMQ, the protocol of an older edge_runtime" in board.device.log())
        board.is_well()
    assert board.device.log().count("speaks ZeroMQ") < 30  # the journal lies on a card


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param("give(c, struct.pack('<IQ', 2**32 - 1, 0))", id="header of 4 GB"),
        pytest.param("give(c, begin(['describe'], 2**63))", id="body without end"),
        pytest.param("give(c, begin(['submit', 1, [['uint8', [4, 2**30]]], ''], 2**32))", id="tensor of 4 GB"),
        pytest.param(
            "give(c, begin(['submit', 1, [['uint8', [9 << 20]]] * 60, ''], 540 << 20))", id="540 MB at once"
        ),
        pytest.param("give(c, begin(b'[' * 60000, 0))", id="nested"),
    ],
)
def test_a_length_is_not_believed(board: Board, attack: str) -> None:
    """The attacker sends as much behind it as it gets rid of, up to 100 MB."""
    board.attack(f"""
chunk = bytes(1 << 20)
c = connect()
give(c, HELLO)
{attack}
try:
    for _ in range(100):
        c.sendall(chunk)
except OSError:
    pass
""")
    board.is_well()
    assert board.grown_mb < 16


@needs_another_user
def test_540_mb_in_pieces_do_not_come_in(board: Board) -> None:
    """Each piece is allowed, and none is ever finished."""
    said = board.attack("""
chunk, held, sent = bytes(1 << 20), [], 0
for number in range(34):
    connection = connect()
    held.append(connection)
    connection.settimeout(1)
    try:
        connection.sendall(HELLO + begin(["submit", 1, [["uint8", [16 << 20]]], ""], 16 << 20))
        for _ in range(15):
            connection.sendall(chunk)
            sent += 1
    except OSError:
        pass
print(sent)
""")
    assert int(said) > 100
    board.is_well()
    assert board.grown_mb < MOST_MB
    with board.polite() as client:
        assert client.describe().max_tensor_bytes == 16 << 20


@needs_another_user
def test_a_flood_of_whole_submissions_is_bounded(board: Board) -> None:
    """The largest pictures, from many connections, as fast as they go, none of whose answers is read."""
    attacker = board.start("""
picture = bytes(2048 * 2730 * 3)
submission = begin(["submit", 1, [["uint8", [2048, 2730, 3]]], ""], len(picture)) + picture
held = [connect() for _ in range(20)]
waiting = {c: memoryview(HELLO + submission * 4) for c in held}
for c in held:
    c.setblocking(False)
until = time.monotonic() + 4
while waiting and time.monotonic() < until:
    for c in select.select([], list(waiting), [], 0.2)[1]:
        try:
            waiting[c] = waiting[c][c.send(waiting[c][:1 << 18]):]
        except OSError:
            waiting[c] = b""
        if not waiting[c]:
            del waiting[c]
""")
    while not board.is_done(attacker):
        board.is_well(asks=3)
    assert board.grown_mb < MOST_MB


@needs_another_user
def test_a_user_who_knocks_without_end_locks_nobody_out(board: Board) -> None:
    """New connections of his, as fast as they go, and gone again."""
    attackers = [
        board.start("""
until = time.monotonic() + 3
while time.monotonic() < until:
    for connection in [connect() for _ in range(50)]:
        connection.close()
""")
        for _ in range(2)
    ]
    while not all(map(board.is_done, attackers)):
        board.is_well(asks=1)


@needs_another_user
def test_a_user_who_floods_the_queue_leaves_turns_to_others(board: Board) -> None:
    """Of 30 connections that always have submissions under way, another user notices no refusal."""
    board.attack("""
held = [connect() for _ in range(30)]
for c in held:
    give(c, HELLO)
    c.setblocking(False)
until = time.monotonic() + 60
print("going", flush=True)
print("done", flush=True)
whole = begin(SUBMIT, 192) + bytes(192)
half = {c: b"" for c in held}
while time.monotonic() < until:
    for c in held:
        try:
            half[c] = half[c] or whole
            half[c] = half[c][c.send(half[c]):]
            c.recv(65536)
        except BlockingIOError:
            pass
""")
    with board.polite() as client:
        for _ in range(100):
            assert client.ask(PICTURE).outcome == "local"
    assert "busy" not in board.device.log()


def test_who_stalls_is_dropped_and_his_place_is_free_again(board: Board) -> None:
    """Half a hello, half a length, half a header, half a body, and answers that nobody reads."""
    board.attack("""
held = []
begun = HELLO + begin(SUBMIT, 192)
for part in (b"", HELLO[:4], HELLO + b"\\1", begun[:30], begun + bytes(100)):
    connection = connect()
    give(connection, part)
    held.append(connection)
""")
    board.is_well()
    log = board.device.log
    board.device.until(lambda: log().count("it did not finish a message within 10 s") == 5)
    board.is_well()


def test_who_does_not_read_is_dropped_and_slows_nobody(board: Board) -> None:
    """Submissions without end, and a subscription, of which nothing is ever read."""
    code = """
connection = connect()
connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
connection.settimeout(3)
try:
    connection.sendall(HELLO + {said})
    while True:
        connection.sendall(begin(SUBMIT, 192) + bytes(192))
except OSError:
    pass
"""
    board.attack(code.format(said='b""'))
    board.is_well()
    log = board.device.log
    board.device.until(lambda: "did not read an answer within 10 s" in log())
    board.is_well()
    assert board.grown_mb < 16


def test_a_subscriber_who_does_not_read_slows_nobody(board: Board) -> None:
    board.attack("""
held = []
for _ in range(10):
    connection = connect()
    connection.sendall(HELLO + begin(["subscribe", ""], 0))
    held.append(connection)
""", board.answers)  # fmt: skip
    board.is_well(asks=2000)
    assert board.grown_mb < 32


def test_random_bytes_end_nothing(board: Board) -> None:
    seed = int.from_bytes(os.urandom(4), "little")
    print("seed", seed)
    board.attack(f"""
chance = random.Random({seed})
whole = [begin(SUBMIT, 192) + bytes(192), begin(["describe"], 0), begin(["subscribe", ""], 0)]
for number in range(300):
    connection = connect()
    data = bytearray(HELLO + b"".join(chance.choices(whole, k=chance.randrange(4))))
    data += chance.randbytes(chance.randrange(60))
    for _ in range(chance.randrange(4)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    give(connection, data[:chance.randrange(1, len(data) + 1)])
    connection.close()
""")  # fmt: skip
    board.is_well()


def test_a_reload_keeps_clients_connected(board: Board) -> None:
    with board.polite() as client:
        assert client.ask(PICTURE).outcome == "local"
        waiting = [client.send(PICTURE) for _ in range(3)]
        board.device.popen.send_signal(signal.SIGHUP)
        board.device.until(lambda: "the changed config is in force" in board.device.log())
        assert [client.receive().id for _ in waiting] == waiting
        assert client.ask(PICTURE).outcome == "local"
    assert board.device.log().count("the first connection of user") == 1


def test_one_submission_one_reply_through_the_stop(board: Board) -> None:
    """With the real program: what was accepted is answered, what was not is refused, and then nobody is there."""
    ends: dict[int, str] = {}
    with board.polite() as client:
        for _ in range(40):
            ends[client.send(PICTURE)] = ""
        board.device.popen.send_signal(signal.SIGTERM)
        for _ in range(40):
            id_, how = _ended(client)
            assert ends[id_] == ""
            ends[id_] = how
    assert set(ends.values()) <= {"local", "busy", "stopping"}
    assert board.device.ended() == 0
    assert board.device.counters()["frames_in"] == 1 + list(ends.values()).count("local")


def _ended(client: Client) -> tuple[Any, str]:
    try:
        answer = client.receive()
    except RefusedError as error:
        return error.id, error.code
    return answer.id, answer.outcome
