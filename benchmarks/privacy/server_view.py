"""What a server sees of two kinds of frames that differ as much as can be: it must not tell them apart.

    python -m benchmarks.privacy.server_view [--json] [--frames N] [--models NAME ...] [--pace free fixed]

The device is the product's, from `Device.open`, with noise as release; link (loopback) and load are equal. The
server answers after a local run's time, so a load that was believed to be higher for one kind would show at
once: sending would seem faster. Frames come at a fixed interval in blocks, one of each kind in random order (see
`blocks`), ``--frames`` of each kind. Kinds: constant, noise, denormal, photographs (of EfficientNet-Lite0 only).
Each is compared with noise; noise with itself tells what the test finds where there
is nothing. Two tests: cut, size, order and number (choices), and departure times. Under ``pace = "fixed"`` both
must find nothing; under ``free`` a release leaves when its head is done, and what that tells is given as a figure.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.demo.prepared import PHOTOGRAPHS, prepare_all
from benchmarks.privacy import bundles, pow_model
from benchmarks.privacy.blocks import CHOICES, TIMES, Block, Found, differs, features
from benchmarks.privacy.view_server import ViewServer
from edge_runtime.config import config
from edge_runtime.daemon.device import Device
from edge_runtime.daemon.program import Program
from edge_runtime.loop.counters import Counters
from edge_runtime.sources import Frame
from split_model.arrays import Array
from split_model.bundle import Bundle
from split_model.features.data import open_data
from split_model.protocol.keys import make_pair
from split_model.service.heartbeats import Heartbeats

#: A frame every so many local runs, and answers after so many. Where work takes its slot frames are to be sent, or
#: there would be no departure times to compare.
INTERVAL = {"free": 8.0, "fixed": 2.0}
DELAY = {"free": 1.0, "fixed": 0.25}
_BLOCK = 20
_LEVEL = 0.01
_UP_WITHIN_S = 30.0
Frames = Callable[[int], list[Array]]


@dataclass(frozen=True)
class Compared:
    """One kind of frames beside noise, at one model and pace."""

    model: str
    pace: str
    kind: str
    frames: int
    requests: tuple[int, int]
    choices: Found
    times: Found

    def record(self) -> dict[str, Any]:
        """For JSON."""
        both = {"choices": self.choices, "times": self.times}
        found = {
            name: {"p": round(one.p, 5), "feature": one.feature, "difference": round(one.difference, 6)}
            for name, one in both.items()
        }
        about = {"model": self.model, "pace": self.pace, "kind": self.kind, "frames": self.frames}
        return about | {"requests": self.requests} | found


def kinds(bundle: Bundle, *, photographs: Sequence[tuple[Array, ...]] = ()) -> dict[str, Frames]:
    """Makers of frames that differ as much as can be, by name; each is given a frame's number."""
    specs = bundle.manifest.inputs

    def noise(number: int) -> list[Array]:
        rng = np.random.default_rng(number)
        return [rng.random(spec.shape).astype(spec.dtype) for spec in specs]

    def scaled(scale: float) -> Frames:
        return lambda number: [(one * scale).astype(one.dtype) for one in noise(number)]

    made: dict[str, Frames] = {
        "noise": noise,
        "constant": lambda _: [np.full(spec.shape, 0.5).astype(spec.dtype) for spec in specs],
        "denormal": scaled(1e-39),
    }
    if photographs:
        made["photographs"] = lambda number: list(photographs[number % len(photographs)])
    return made


@contextlib.contextmanager
def opened(bundle: Bundle, folder: Path, *, pace: str = "free") -> Iterator[tuple[Device, ViewServer]]:
    """A device that is connected to a server that watches it."""
    server = ViewServer(bundle)
    server.start()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "device.key").exists():
        make_pair(folder, "device")
    np.savez(folder / "none.npz", inputs=np.zeros((1, *bundle.manifest.inputs[0].shape[1:]), np.float32))
    release = "" if pace == "free" else f'[release]\npace = "{pace}"\n'
    (folder / "device.toml").write_text(
        f'[device]\nbundle = {json.dumps(str(bundle.root))}\nkey = "device.key"\nstate = "state"\n'
        f'[server]\naddress = "{server.address}"\npublic_keys = [{json.dumps(server.public.decode())}]\n{release}'
        f'[privacy]\nwhole_input_budget = "unlimited"\n'
        f'[planner]\nanswer_within_s = 10.0\naccuracy_floor = "off"\n'
        f'[source]\npath = "none.npz"\n[sink]\npath = "answers.jsonl"\n'
    )
    program = Program(Counters(), Heartbeats(), 60.0, lambda: False, lambda _: None)
    device = None
    try:
        device = Device.open(config.load(folder / "device.toml"), program)
        assert device is not None  # it is never told to stop
        _wait_for(device)
        yield device, server
    finally:
        if device is not None:
            device.close()
        server.stop()


def _wait_for(device: Device) -> None:
    deadline_s = time.monotonic() + _UP_WITHIN_S
    while not device.link.view().up:
        if time.monotonic() > deadline_s:
            raise TimeoutError("the device did not connect")
        time.sleep(0.01)
    for cut in device.plan.allowed:  # whether a head is loaded yet depends on nothing that is compared
        device.models.heads.keep(device.models.heads.load(cut))


def _runs_now_s(device: Device, make: Frames) -> float:
    """What a local run of such a frame takes now: the machine may be busier than when it was profiled."""
    took_s = []
    for number in range(25):
        tensors = make(number)
        started_s = time.monotonic()
        device.models.heads.whole.run(tensors)
        took_s.append(time.monotonic() - started_s)
    return float(np.median(took_s))


def run(
    device: Device,
    server: ViewServer,
    pair: tuple[Frames, Frames],
    *,
    frames: int,
    block: int = _BLOCK,
    pace: str = "free",
    seed: int = 0,
) -> list[tuple[Block, Block]]:
    """Play ``frames`` of each kind, in blocks; the pairs of blocks, the first kind's first."""
    local_s = max(device.models.profile.local.head_s, _runs_now_s(device, pair[1]))
    server.delay_s, interval_s = DELAY[pace] * local_s, INTERVAL[pace] * local_s
    rng = np.random.default_rng(seed)
    pairs: list[tuple[Block, Block]] = []
    index = 0

    def played(make: Frames) -> Block:
        nonlocal index
        contents = [make(index + number) for number in range(block)]
        dues: list[float] = []

        def source() -> Iterator[Frame]:
            nonlocal index
            due_s = time.monotonic() + interval_s
            for tensors in contents:
                time.sleep(max(0.0, due_s - time.monotonic()))
                now_s = time.monotonic()
                dues.append(now_s)
                yield Frame(index, "frame", tuple(tensors), None, now_s)
                index += 1
                due_s = max(due_s + interval_s, time.monotonic())

        for _ in device.loop.run(source()):
            pass
        time.sleep(interval_s)  # what is still on its way belongs to this block
        return Block("", tuple(dues), time.monotonic())

    for _ in range(max(1, frames // block)):
        swapped = bool(rng.integers(2))
        first, second = (played(pair[which ^ swapped]) for which in (0, 1))
        pairs.append((second, first) if swapped else (first, second))
    return pairs


def compare(
    device: Device, server: ViewServer, pair: tuple[Frames, Frames], *, frames: int, **options: Any
) -> tuple[Found, Found, tuple[int, int]]:
    """What the tests find between two kinds: choices, times, and how many requests each made."""
    pairs = run(device, server, pair, frames=frames, **options)
    seen = list(server.seen)
    rows = [[features(block, seen) for block in both] for both in pairs]
    found = []
    for which, names in (("choices", CHOICES), ("times", TIMES)):
        table = np.array([[side[which] for side in both] for both in rows])
        found.append(differs(table[:, 0], table[:, 1], names))
    counts = np.array([[side["choices"][0] for side in both] for both in rows]).sum(axis=0)
    return found[0], found[1], (int(counts[0]), int(counts[1]))


def _models() -> dict[str, Callable[[Path], tuple[Bundle, Sequence[tuple[Array, ...]]]]]:
    def efficientnet(_: Path) -> tuple[Bundle, Sequence[tuple[Array, ...]]]:
        bundle = prepare_all()
        data = open_data(PHOTOGRAPHS / "labelled", bundle.manifest.inputs, bundle.manifest.preprocess)
        return bundle, [sample.tensors for sample in data]

    return {
        "fashion": lambda _: (bundles.fashion(), ()),
        "efficientnet-lite0": efficientnet,
        "powers": lambda folder: (pow_model.prepared(folder / "powers"), ()),
    }


def claims(results: Sequence[Compared]) -> list[dict[str, Any]]:
    """A/B no more often than A/A, at `_LEVEL`; departure times too where the pace is fixed."""
    made = []
    for pace in dict.fromkeys(one.pace for one in results):
        for which in ("choices", "times"):
            mine = [(one, getattr(one, which).p < _LEVEL) for one in results if one.pace == pace]
            different = [hit for one, hit in mine if one.kind != "noise"]
            same = [hit for one, hit in mine if one.kind == "noise"]
            share, beside = float(np.mean(different or [0])), float(np.mean(same or [0]))
            if which == "times" and pace == "free":
                continue
            made.append(
                {
                    "name": f"pace {pace}, {which}: share of tests of different kinds that find a difference at "
                    f"p < {_LEVEL:g}",
                    "value": round(share, 4),
                    "goal": f"<= {max(beside, 0.0):g}, that of the same kind",
                    "holds": share <= beside,
                }
            )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the last line is the claims."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.privacy.server_view",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    models = _models()
    parser.add_argument("--frames", type=int, default=2000, help="of each kind in each comparison (2000)")
    parser.add_argument("--models", nargs="+", choices=tuple(models), default=tuple(models))
    parser.add_argument("--pace", nargs="+", choices=("free", "fixed"), default=("free", "fixed"))
    parser.add_argument("--json", action="store_true", help="rows as one JSON line instead of a table")
    options = parser.parse_args(arguments)
    results = []
    with tempfile.TemporaryDirectory() as made:
        for name in options.models:
            bundle, photographs = models[name](Path(made))
            makers = kinds(bundle, photographs=photographs)
            for pace in options.pace:
                with opened(bundle, Path(made) / f"{name}-{pace}", pace=pace) as (device, server):
                    for kind, maker in makers.items():
                        found = compare(
                            device,
                            server,
                            (maker, makers["noise"]),
                            frames=options.frames,
                            pace=pace,
                        )
                        results.append(Compared(name, pace, kind, options.frames, found[2], found[0], found[1]))
                        if not options.json:
                            print(_line(results[-1]), flush=True)
    if options.json:
        facts = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        print(json.dumps({"machine": facts, "rows": [one.record() for one in results]}))
    print(json.dumps({"claims": claims(results)}))
    return os.EX_OK


def _line(one: Compared) -> str:
    both = "  ".join(
        f"{name} p={found.p:.4f} ({found.feature} {found.difference:+.4g})"
        for name, found in (("choices", one.choices), ("times", one.times))
    )
    return f"{one.model:18} {one.pace:5} {one.kind:12} {one.frames:5} frames  requests {one.requests}  {both}"


if __name__ == "__main__":
    raise SystemExit(main())
