"""The audit of `benchmarks.privacy.audit` from the very outside: in through the local socket, out over the network.

usage: python -m benchmarks.privacy.audit_socket [--trials N] [--json]

The device is the real program, `edge-runtime run`, with a source of kind ``socket``. A client of that socket
submits one of the two inputs that are furthest apart, in random order; a server with the product's protocol keeps
the payload of each request, its length, and the time since the one before. The model has two values at its cut.
From these `split_model.audit` works out a lower bound on the true epsilon, wrong with probability 10^-6 at most. It
must stay below the claim, and rise above the claim of half the noise, which is what a device gives that is told to
release at twice the epsilon.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from benchmarks import ROOT
from benchmarks.privacy.audit import tell_end
from benchmarks.privacy.view_server import ViewServer
from edge_runtime.client import Client
from edge_runtime.privacy.release import plan_for
from models import flatbuffer
from split_model.audit import Finding, Observed, lower_bound
from split_model.bundle import Bundle
from split_model.prepare.pipeline import PrepareOptions, prepare
from split_model.privacy import NoisePlan, NoiseSpec
from split_model.privacy.packing import unpack
from split_model.protocol.keys import make_pair

EPSILON = 1.0
BITS = 8
_VALUES = 2
_CUT = 1
_PATIENCE_S = 60.0


def bundle_in(folder: Path) -> Bundle:
    """A model of two values, cut behind its first op, which changes nothing of what is not negative."""
    graph = flatbuffer.Graph("two")
    source = graph.tensor("input", (1, _VALUES))
    kept = graph.op("ABS", [source], graph.tensor("kept", (1, _VALUES)), schema.AbsOptionsT())
    weights = np.eye(3, _VALUES, dtype=np.float32)
    inputs = [kept, graph.tensor("weights", weights.shape, weights)]
    answer = graph.op("FULLY_CONNECTED", inputs, graph.tensor("answer", (1, 3)), schema.FullyConnectedOptionsT())
    model, data = folder / "two.tflite", folder / "public.npz"
    model.write_bytes(graph.finish(source, answer))
    np.savez(data, inputs=np.random.default_rng(1).random((64, _VALUES), np.float32))
    options = PrepareOptions(model=model, output=folder / "bundle", calibration=data, cuts=(_CUT,), replace=True)
    return prepare(options, lambda *_: None)


@contextlib.contextmanager
def served(bundle: Bundle, folder: Path, epsilon: float) -> Iterator[tuple[Client, ViewServer]]:
    """A device at work, a client of its socket, and the server that it releases to."""
    server = ViewServer(bundle, keeps_payloads=True)
    server.start()
    folder.mkdir()
    make_pair(folder, "device")
    socket = folder / "frames.sock"
    (folder / "device.toml").write_text(
        f'[device]\nbundle = {json.dumps(str(bundle.root))}\nkey = "device.key"\nstate = "state"\n'
        f'[server]\naddress = "{server.address}"\npublic_keys = [{json.dumps(server.public.decode())}]\n'
        f'[release]\nmechanism = "noise"\nepsilon = {epsilon}\nallocation = "uniform"\nbits = {BITS}\n'
        f'[privacy]\nwhole_input_budget = "unlimited"\n[planner]\nsplit = {_CUT}\nanswer_within_s = 10.0\n'
        'accuracy_floor = "off"\n'
        f'[source]\nkind = "socket"\npath = {json.dumps(str(socket))}\n[sink]\npath = "answers.jsonl"\n'
    )
    command = [sys.executable, "-m", "edge_runtime", "run", "-c", str(folder / "device.toml")]
    with (folder / "log").open("wb") as log:
        device = subprocess.Popen(command, cwd=ROOT, stderr=log)
    try:
        deadline_s = time.monotonic() + _PATIENCE_S
        while not socket.exists():
            if device.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"the device did not start: {(folder / 'log').read_text()}")
            time.sleep(0.02)
        with Client(socket) as client:
            while client.ask(_frame(bit=False)).outcome != "offloaded":
                if time.monotonic() > deadline_s:
                    raise RuntimeError("nothing was sent")
            yield client, server
    finally:
        device.terminate()
        device.wait()
        server.stop()


def _frame(*, bit: bool) -> NDArray[np.float32]:
    return np.full((1, _VALUES), float(bit), np.float32)


def observe(client: Client, server: ViewServer, plan: NoisePlan, *, trials: int) -> tuple[Observed, Observed]:
    """Submit ``trials`` frames of each of the two inputs in random order: what the server saw of each."""
    bits = np.random.default_rng().permutation(np.repeat([False, True], trials))
    server.payloads.clear()
    server.seen.clear()
    sent = [client.ask(_frame(bit=bit)).outcome == "offloaded" for bit in bits.tolist()]
    bits = bits[np.array(sent)]
    arrived_s = [one.at_s for one in server.seen if one.what == "request"]
    if len(server.payloads) != len(bits):
        raise RuntimeError(f"{len(server.payloads)} requests for {len(bits)} frames that the server answered")
    values = np.array(
        [unpack(np.frombuffer(one, np.uint8), plan.values, plan.spec.bits) for one in server.payloads]
    )
    lengths = np.array([len(one) for one in server.payloads])
    seen = Observed(values.astype(np.int64), lengths, np.diff(arrived_s, prepend=arrived_s[0]))
    return seen.where(~bits), seen.where(bits)


def audit(folder: Path, *, trials: int, planted: bool = False) -> tuple[float, Finding]:
    """The claim, and what the audit finds; ``planted``: of a device that adds half of the noise it should."""
    bundle = bundle_in(folder)
    cut = bundle.cut(_CUT)
    claim = plan_for(cut, NoiseSpec(epsilon=EPSILON, allocation="uniform", bits=BITS))
    epsilon = 2 * EPSILON if planted else EPSILON
    plan = plan_for(cut, NoiseSpec(epsilon=epsilon, allocation="uniform", bits=BITS))
    assert isinstance(plan, NoisePlan)
    assert claim is not None
    with served(bundle, folder / "device", epsilon) as (client, server):
        return claim.whole_input_epsilon, lower_bound(*observe(client, server, plan, trials=trials))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each device, or everything as JSON, and the claims as the last line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.privacy.audit_socket",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--trials",
        type=int,
        default=10_000,
        help="frames to send for each of the two compared inputs (default: 10000)",
    )
    parser.add_argument("--json", action="store_true", help="rows as one JSON line instead of a table")
    options = parser.parse_args(arguments)
    rows, claims = [], []
    for planted in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            claim, found = audit(Path(folder), trials=options.trials, planted=planted)
        name = "half the noise" if planted else "noise, as it is"
        rows.append({"name": name, "claim": claim, "planted": planted, **found.__dict__})
        claims.append(
            {
                "name": f"lower bound on epsilon through the local socket, {name}",
                "value": round(found.epsilon, 3),
                "goal": f"{'>' if planted else '<='} {claim:g}, which is claimed",
                "holds": (found.epsilon > claim) == planted,
            }
        )
        if not options.json:
            print(f"{name:<20} claim {claim:g}  at least {found.epsilon:6.3f}  by {found.event}", flush=True)
    tell_end(rows, claims, trials=options.trials, as_json=options.json)
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
