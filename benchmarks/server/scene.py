"""What the load generator is told to do, and what it reports. JSON on its standard input and output."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import msgspec

from benchmarks import ROOT
from benchmarks.demo.rig import RigError
from benchmarks.server.case import Case
from benchmarks.server.served import Served
from split_model.protocol import messages as wire


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Devices that behave alike.

    ``open_requests``: of each connection at a time, in a closed loop; 0 with a ``rate_s``. ``rate_s``: requests a
    second that one device offers, however many are open. ``due_s``: when an answer is due. ``connections``: of
    each device. ``heeds``: it sends nothing for as long as the server says. ``requests``: the cuts that it asks
    for in turn, by their number in `Scene.requests`.
    """

    name: str
    devices: int
    open_requests: int = 1
    rate_s: float = 0.0
    due_s: float = 30.0
    connections: int = 1
    heeds: bool = False
    requests: tuple[int, ...] = (0,)


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A request's header, in the wire's encoding, and its payload."""

    header: bytes
    payload: bytes


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement: who sends what, for how long.

    ``pids``: the server's processes. ``counter``: the file with the CPU time of its tails, empty for none.
    ``core``: the only core that the devices may use, None for all.
    """

    endpoint: str
    server_key: str
    keys: tuple[tuple[str, str], ...]
    pids: tuple[int, ...]
    requests: tuple[Ask, ...]
    groups: tuple[Group, ...]
    seconds: float
    warm_s: float = 0.5
    counter: str = ""
    core: int | None = None


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One device's share of the measurement. ``refused``: by code. ``in_time``: answers that were not late."""

    group: str
    sent: int
    answered: int
    in_time: int
    refused: dict[str, int]
    latency_s: list[float]
    refusal_s: list[float]
    tail_s: float
    queue_s: float


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in ``took_s``: to each device, and the CPU time of the server and of the generator.

    ``tails_cpu_s``: of the server's, what its tails took where they ran; 0 where that was not counted.
    """

    took_s: float
    server_cpu_s: float
    own_cpu_s: float
    pss_mb: float
    devices: list[Device]
    tails_cpu_s: float = 0.0

    def of(self, group: str) -> list[Device]:
        """The devices of one group."""
        return [device for device in self.devices if device.group == group]

    @property
    def answered(self) -> int:
        """Answers to all devices."""
        return sum(device.answered for device in self.devices)

    @property
    def cpu_ms(self) -> float:
        """The server's CPU time an answer, in ms."""
        return self.server_cpu_s / max(1, self.answered) * 1e3

    @property
    def tail_cpu_ms(self) -> float:
        """What a tail took where it ran, for an answer, in ms."""
        return self.tails_cpu_s / max(1, self.answered) * 1e3

    @property
    def answers_s(self) -> float:
        """Answers a second."""
        return self.answered / self.took_s


def run(
    server: Served, cases: Sequence[Case], groups: Sequence[Group], *, seconds: float, core: int | None = None
) -> Result:
    """Load a server in a process of its own and report."""
    scene = Scene(
        endpoint=server.endpoint,
        server_key=server.public_key,
        keys=tuple((pair.public.decode(), pair.secret.decode()) for pair in server.keys),
        pids=server.pids,
        requests=tuple(Ask(header=wire.encode(case.request()), payload=case.payload) for case in cases),
        groups=tuple(groups),
        seconds=seconds,
        counter=str(server.counter or ""),
        core=core,
    )
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.server.generator"],
        input=msgspec.json.encode(scene), capture_output=True, check=False, cwd=ROOT,
    )  # fmt: skip
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise RigError(f"the load generator failed: {lines[-1] if lines else 'no message'}")
    return msgspec.json.decode(done.stdout, type=Result)
