"""Closed-loop load for the gRPC peer, in a process of its own.

python -m benchmarks.server.grpc_load CUT DEVICES SECONDS PORT PID FOLDER
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.demo.rig import RigError
from benchmarks.server import process
from benchmarks.server.case import peer_case
from benchmarks.server.grpc_peer import METHOD, Endpoint, credentials
from benchmarks.server.in_place import tail_s

_WARM_S = 0.5


@dataclass(frozen=True)
class Peer:
    """What the peer took: CPU time an answer, in ms, that of its tail where it is counted, and answers a second."""

    cpu_ms: float
    answers_s: float
    tail_cpu_ms: float = 0.0


def run(cut: int, *, devices: int, seconds: float, at: Endpoint) -> Peer:
    """Load the peer and report."""
    arguments = [str(part) for part in (cut, devices, seconds, at.port, at.pid, at.folder)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.server.grpc_load", *arguments],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    if done.returncode:
        raise RigError(f"the load of the peer failed: {done.stderr.strip().splitlines()[-1:]}")
    return Peer(**json.loads(done.stdout.strip().splitlines()[-1]))


def measure(cut: int, devices: int, seconds: float, at: Endpoint) -> Peer:
    """``devices`` channels with one call open each."""
    import grpc

    payload = peer_case(cut).payload
    key, certificate = credentials(at.folder)
    secure = grpc.ssl_channel_credentials(certificate, key, certificate)
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.secure_channel(f"localhost:{at.port}", secure, options=options) for _ in range(devices)]
    calls: list[Callable[..., Any]] = [channel.unary_unary(METHOD) for channel in channels]
    for call in calls:
        call(payload)
    _closed_loop(calls, payload, _WARM_S)
    tails_s = tail_s(at.counter) if at.counter.is_file() else 0.0
    cpu_s, began_s = process.cpu_s([at.pid]), time.monotonic()
    answers = _closed_loop(calls, payload, seconds)
    used_s, took_s = process.cpu_s([at.pid]) - cpu_s, time.monotonic() - began_s
    tails_s = tail_s(at.counter) - tails_s if at.counter.is_file() else 0.0
    return Peer(used_s / answers * 1e3, answers / took_s, tails_s / answers * 1e3)


def _closed_loop(calls: list[Any], payload: bytes, seconds: float) -> int:
    answers = 0
    lock, over = threading.Lock(), threading.Semaphore(0)
    end_s = time.monotonic() + seconds

    def go(call: Any) -> None:
        def done(_: Any) -> None:
            nonlocal answers
            with lock:
                answers += 1
            if time.monotonic() < end_s:
                go(call)
            else:
                over.release()

        call.future(payload).add_done_callback(done)

    for call in calls:
        go(call)
    for _ in calls:
        over.acquire()
    return answers


if __name__ == "__main__":
    *numbers, where = sys.argv[1:]
    cut_index, channels_open, for_s, port, pid = numbers
    made = measure(int(cut_index), int(channels_open), float(for_s), Endpoint(int(port), int(pid), Path(where)))
    print(json.dumps(vars(made)))
