"""The costs of the sources: decoding a serial line, a request over the local socket, a look through a folder.

Serial: packets of several shapes through `Decoder` in the pieces that a driver hands out, in CPU time, as a share
of a core that a line at 921600 baud would take. Socket: the round trip of a tensor through source, multiplexer and
back, without a model, beside a bare echo of the same bytes over the same kind of socket, in turn. Folder: one look
at a folder of 10,000 files that are all answered. Ends with one line of claims.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.client import Client
from edge_runtime.sources import Answer, Wanted
from edge_runtime.sources.answered_files import AnsweredFiles
from edge_runtime.sources.files_under_way import FilesUnderWay
from edge_runtime.sources.local_socket import SocketTable
from edge_runtime.sources.multiplexer import Multiplexer
from edge_runtime.sources.serial_packets import Decoder, write_packet
from edge_runtime.sources.supply import Supply
from edge_runtime.sources.watched_folder import WatchedFolder, WatchTable
from split_model.bundle import ImagePreprocess, TensorSpec

BYTES_S = 92160  # 921600 baud, ten bits a byte
GOAL_CORE_SHARE = 0.02
GOAL_ROUND_TRIPS = 4.0
FILES = 10_000
PICTURE = TensorSpec(name="picture", shape=(1, 96, 96, 3), dtype="uint8")


def serial_shares(rounds: int) -> dict[str, float]:
    """Return the share of a core at 921600 baud, by kind of packet."""
    random = np.random.default_rng(0)
    tensors: dict[str, NDArray[Any]] = {
        "float32[4]": random.normal(size=4).astype(np.float32),
        "float32[8, 8, 3]": random.normal(size=(8, 8, 3)).astype(np.float32),
        "uint8[96, 96, 3], noise": random.integers(0, 256, (96, 96, 3), np.uint8),
        "uint8[96, 96, 3], black": np.zeros((96, 96, 3), np.uint8),
    }
    shares = {}
    for name, tensor in tensors.items():
        packet = write_packet(tensor, 1)
        line = packet * max(1, 500_000 // len(packet))
        pieces = [line[start : start + 512] for start in range(0, len(line), 512)]
        taken_s = []
        for _ in range(rounds):
            decoder = Decoder(max_packet_bytes=1 << 20)
            start_s = time.thread_time()
            for piece in pieces:
                decoder.feed(piece)
            taken_s.append(time.thread_time() - start_s)
            assert decoder.packets == len(line) // len(packet)
        shares[name] = statistics.median(taken_s) / len(line) * BYTES_S
    return shares


class Ours(threading.Thread):
    """A socket source and a multiplexer; the answer to a frame is the frame itself."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.stop = threading.Event()
        source = SocketTable(path=path).open(Wanted((PICTURE,), (PICTURE,)))
        self.multiplexer = Multiplexer({"socket": Supply.of(source, "bench")}, stopped=self.stop.is_set)
        self.start()

    def run(self) -> None:
        """Answer until `end` is called."""
        for frame in self.multiplexer:
            self.multiplexer.answered(Answer(frame, {"kind": "frame", "outcome": "local"}, frame.tensors))

    def end(self) -> None:
        """Stop, and close the socket."""
        self.stop.set()
        self.join()
        self.multiplexer.close()


class Echo(threading.Thread):
    """The peer: a Unix stream alone, whose server echoes a fixed number of bytes, a fixed number of times."""

    def __init__(self, path: Path, nbytes: int) -> None:
        super().__init__()
        self._nbytes = nbytes
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self.start()

    def run(self) -> None:
        """Send all received bytes back, until the other end closes."""
        connection, _ = self._listener.accept()
        with connection, self._listener:
            while len(data := receive(connection, self._nbytes)) == self._nbytes:
                connection.sendall(data)


def receive(connection: socket.socket, nbytes: int) -> bytearray:
    """Return this many bytes, or fewer if the other end closed."""
    data, count = bytearray(nbytes), 0
    while count < nbytes and (more := connection.recv_into(memoryview(data)[count:])):
        count += more
    return data[:count]


def round_trips_ms(folder: Path, rounds: int) -> dict[str, float]:
    """Return median round trips of one picture: of our socket, and of a bare echo."""
    ours = Ours(folder / "ours.sock")
    echo = Echo(folder / "echo.sock", PICTURE.nbytes)
    picture = np.random.default_rng(0).integers(0, 256, PICTURE.shape, np.uint8)
    taken: dict[str, list[float]] = {"ours": [], "echo": []}
    with Client(folder / "ours.sock") as client, socket.socket(socket.AF_UNIX) as peer:
        peer.connect(f"{folder}/echo.sock")

        def bare() -> None:
            peer.sendall(picture.data)
            receive(peer, picture.nbytes)

        sides: dict[str, Callable[[], object]] = {"ours": lambda: client.ask(picture), "echo": bare}
        for number in range(rounds + 10):
            for name, side in sides.items():
                start_s = time.perf_counter()
                side()
                if number >= 10:
                    taken[name].append((time.perf_counter() - start_s) * 1e3)
    ours.end()
    echo.join()
    return {name: statistics.median(times) for name, times in taken.items()}


def look_ms(folder: Path, rounds: int) -> float:
    """Return the median time of a look at a folder of `FILES` answered files, without the pauses between looks."""
    incoming, state = folder / "incoming", folder / "state"
    incoming.mkdir()
    state.mkdir()
    memory = AnsweredFiles(state / "memory")
    for number in range(FILES):
        path = incoming / f"{number:06}.jpg"
        path.touch()
        memory.note(path.name, (0, path.stat().st_mtime_ns), None)
    wanted = Wanted((PICTURE,), preprocess=ImagePreprocess(resize=96, crop=(96, 96)), state=state)
    marks, clock = [time.perf_counter()], [0.0]

    def sleep(_: float) -> None:
        marks.append(time.perf_counter())
        clock[0] += 3600.0

    table = WatchTable(path=incoming, settle_s=0.0)
    files = FilesUnderWay(table.path, table.label, table.after, memory)
    source = WatchedFolder(table, wanted, files, now=lambda: clock[0], sleep=sleep)
    assert not list(source.frames(lambda: len(marks) > rounds + 1))
    first, *others = (after - before for before, after in itertools.pairwise(marks))
    assert first > 0  # it tidies up the memory as well
    return statistics.median(others) * 1e3


def main() -> int:
    """Measure and print; the last line has the claims."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.device.sources", description=(__doc__ or "").split("\n", 1)[0]
    )
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", action="store_true", help="print JSON only")
    args = parser.parse_args()
    shares = serial_shares(max(3, args.rounds // 20))
    with tempfile.TemporaryDirectory() as folder:
        trips_ms = round_trips_ms(Path(folder), args.rounds)
        folder_ms = look_ms(Path(folder), max(3, args.rounds // 20))
    ratio = trips_ms["ours"] / trips_ms["echo"]
    if not args.json:
        print(f"{platform.machine()}, Python {platform.python_version()}")
        for name, share in shares.items():
            print(f"serial {name}: {share:.2%} of a core at 921600 baud")
        ours_ms, echo_ms = trips_ms["ours"], trips_ms["echo"]
        print(f"socket, {PICTURE.nbytes} bytes there and back: {ours_ms:.2f} ms, echo {echo_ms:.2f} ms")
        print(f"folder of {FILES} files: {folder_ms:.0f} ms a look")
    worst = max(shares.values())
    claims = [
        {
            "name": "serial: largest share of a core at 921600 baud",
            "value": worst,
            "goal": GOAL_CORE_SHARE,
            "holds": worst <= GOAL_CORE_SHARE,
        },
        {
            "name": "socket: round trip beside a bare echo's",
            "value": ratio,
            "goal": GOAL_ROUND_TRIPS,
            "holds": ratio <= GOAL_ROUND_TRIPS,
        },
    ]
    if args.json:
        print(json.dumps({"shares": shares, "round_trips_ms": trips_ms, "look_ms": folder_ms}))
    print(json.dumps({"claims": claims}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
