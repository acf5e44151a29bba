"""Plays kinds of frames to a device in interleaved blocks, while a server notes all it can see.

The device is the product's, from `Device.open`, with noise as release; link (loopback) and load are equal. Blocks
come in rounds, one of each kind in an order that chance decides. Frames come at a fixed interval, longer than the
slowest kind's local run takes.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.privacy.blocks import Block, Observed
from benchmarks.privacy.view_server import ViewServer
from edge_runtime.config import config
from edge_runtime.daemon.device import Device
from edge_runtime.daemon.program import Program
from edge_runtime.loop.counters import Counters
from edge_runtime.service.reporter import Reporter
from edge_runtime.sources import Frame
from split_model.arrays import Array
from split_model.bundle import Bundle
from split_model.protocol.keys import make_pair
from split_model.service.heartbeats import Heartbeats
from split_model.service.notify import Notifier

#: A frame every so many local runs of the slower kind as it takes now, or as the profile has it (of a device with a
#: fixed pace: slots); never more often than this.
_INTERVAL_NOW, _INTERVAL_PROFILED = 1.3, 1.2
_LEAST_INTERVAL_S = 0.008
#: ``near``: the server takes so much of a local run: nearly every frame is sent, and departures can be compared.
_NEAR = 0.1
#: ``edge``: it takes so many times what the quickest cut saves the board: frames stay, unless the board is believed
#: to be slower than it is.
_EDGE = 1.25
#: Of such numbers POW takes three times as long on the PC this was written on, five to nine times on others.
_DENORMAL = 1e-43
SCENES = ("near", "edge")
#: Frames of a block.
BLOCK = 20
_UP_WITHIN_S = 30.0
#: A busy process of another program. A child's child: processes that the program starts itself are none.
_HOG = ("timeout", "3600", "/bin/sh", "-c", "while :; do :; done")
Frames = Callable[[int], list[Array]]


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
        "denormal": scaled(_DENORMAL),
    }
    if photographs:
        made["photographs"] = lambda number: list(photographs[number % len(photographs)])
    return made


@contextlib.contextmanager
def hogged(hogs: int) -> Iterator[None]:
    """So many busy processes beside, until the end of the block."""
    with contextlib.ExitStack() as closing:
        for _ in range(hogs):
            hog = closing.enter_context(subprocess.Popen(_HOG))
            closing.callback(hog.terminate)
        yield


@contextlib.contextmanager
def opened(
    bundle: Bundle, folder: Path, *, pace: str = "free", split: int | None = None
) -> Iterator[tuple[Device, ViewServer]]:
    """A device that is connected to a server that watches it; ``split``: the only one, None for the planner's."""
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
        f"[planner]\nanswer_within_s = 10.0\naccuracy_floor = 'off'\n"
        f"split = {json.dumps('auto' if split is None else split)}\n"
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
    while not all(view.up for view in device.views()):
        if time.monotonic() > deadline_s:
            raise TimeoutError("the device did not connect")
        time.sleep(0.01)
    for cut in device.plan.allowed:  # whether a head is loaded yet depends on nothing that is compared
        device.models.heads.keep(device.models.heads.load(cut))


@dataclass(frozen=True)
class Scene:
    """How fast the server answers, and how often frames come."""

    delay_s: float
    interval_s: float


def scene(name: str, device: Device, makers: Iterable[Frames], *, edge: float = _EDGE) -> Scene:
    """One of `SCENES`, for the times that this device was measured to take, and takes now."""
    splits = device.models.profile.splits
    local_s = device.models.profile.local.head_s
    quickest_s = min(one.head_s + one.release_s for one in splits if one.split in device.plan.allowed)
    delay_s = _NEAR * local_s if name == "near" else edge * max(0.0, local_s - quickest_s)
    now_s = max(_runs_now_s(device, make) for make in makers)
    return Scene(delay_s, max(_LEAST_INTERVAL_S, _INTERVAL_PROFILED * local_s, _INTERVAL_NOW * now_s))


def _runs_now_s(device: Device, make: Frames) -> float:
    """What a local run of such a frame takes now: the machine may be busier than when it was profiled."""
    took_s = []
    for number in range(15):
        tensors = make(number)
        started_s = time.monotonic()
        device.models.board.run(lambda tensors=tensors: device.models.heads.whole.run(tensors))  # type: ignore[misc]
        took_s.append(time.monotonic() - started_s)
    return float(np.median(took_s))


def reporter_of(device: Device) -> Reporter:
    """What tells the server of this device; its clock is so fast that every call makes a report."""
    reporter = Reporter(
        None,
        config=device.config.device.key.parent / "device.toml",
        notifier=Notifier(),
        beats=Heartbeats(),
        stopped=lambda: False,
        now=lambda: time.monotonic() * 1e3,
    )
    reporter.serve(device)
    return reporter


def play(
    device: Device,
    server: ViewServer,
    makers: Mapping[str, Frames],
    played: Scene,
    *,
    rounds: Iterable[int],
    block: int = BLOCK,
) -> Iterator[dict[str, Observed]]:
    """Play rounds by their numbers; yields what the server saw of each kind in each."""
    server.delay_s = played.delay_s
    reporter = reporter_of(device)
    names = list(makers)
    index = 0

    def one(make: Frames) -> Block:
        nonlocal index
        contents = [make(index + number) for number in range(block)]
        dues: list[float] = []

        def source() -> Iterator[Frame]:
            nonlocal index
            due_s = time.monotonic() + played.interval_s
            for tensors in contents:
                time.sleep(max(0.0, due_s - time.monotonic()))
                now_s = time.monotonic()
                dues.append(now_s)
                yield Frame(index, "frame", tuple(tensors), None, now_s)
                index += 1
                due_s = max(due_s + played.interval_s, time.monotonic())

        begun = index
        steps = []
        for step in device.loop.run(source()):
            steps.append(step)
            reporter.note(step)
        reporter.enter("running")  # a report after each block, whatever was in it
        time.sleep(played.interval_s)  # what is still on its way belongs to this block
        sent = sorted(one.result.frame.index - begun for one in steps if one.result.outcome == "offloaded")
        load = float(np.median([one.load for one in steps]))
        return Block(tuple(dues), time.monotonic(), tuple(sent), load)

    one(next(iter(makers.values())))  # the first frames of a run stay on the board
    for number in rounds:
        server.seen.clear()
        index = number * block
        order = np.random.default_rng(number).permutation(len(names))
        blocks = {names[which]: one(makers[names[which]]) for which in order}
        seen = list(server.seen)
        told = list(server.reports)
        yield {name: Observed.of(blocks[name], seen, told, interval_s=played.interval_s) for name in names}
