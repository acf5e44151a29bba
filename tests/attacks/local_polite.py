"""A polite program on the board as a process: asks the device program, and checks each answer.

usage: local_polite.py SOCKET BUNDLE RECORDS
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import msgspec
import numpy as np

from edge_runtime.client import BusyError, Client, NoAnswerError, RefusedError
from split_model.bundle import Bundle
from split_model.interpreter import open_interpreter

EVERY_S = 0.2


def main(arguments: list[str]) -> int:
    """Ask until SIGTERM."""
    path, root, records = map(Path, arguments)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    bundle = Bundle.open(root)
    model = open_interpreter(bundle.path(bundle.manifest.model))
    rng = np.random.default_rng(77)
    frames = [rng.random(bundle.manifest.inputs[0].shape).astype(np.float32) for _ in range(16)]
    wanted = [model.run([frame])[0] for frame in frames]
    number = 0
    client: Client | None = None
    with records.open("ab", buffering=0) as file:
        while not stop.wait(EVERY_S):
            number += 1
            line: dict[str, object] = {"how": "answered"}
            try:
                client = client or Client(path, timeout_s=5.0)
                answer = client.ask(frames[number % 16])
                if not np.array_equal(answer.outputs[0], wanted[number % 16]):
                    line["wrong"] = f"another answer than local frame {number} has"
            except BusyError:
                line["how"] = "busy"
            except (NoAnswerError, RefusedError, OSError) as error:
                line["how"] = f"{type(error).__name__}: {error}"
                if client is not None:
                    client.close()
                client = None
            file.write(msgspec.json.encode(line) + b"\n")
    if client is not None:
        client.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
