"""What an answer costs beyond its tail, beside gRPC with mutual TLS and the floor, in one run. In turn, medians."""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import dataclass, field

from benchmarks.server import bare, floor, grpc_load, grpc_peer, scene
from benchmarks.server.case import LARGE, MIDDLE, SMALL, open_case
from benchmarks.server.claims import Details, Part, claim
from benchmarks.server.scene import Group
from benchmarks.server.served import served

THREADS = 2
#: Seconds of one measurement, and how often each is made.
_SECONDS, _ROUNDS = 2.0, 5
#: Devices with one request open each.
_FEW, _MANY = 8, 200


@dataclass
class _Rounds:
    """The same measurements, round after round: CPU time an answer in ms, by what was measured."""

    cpu_ms: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, cpu_ms: float) -> None:
        self.cpu_ms.setdefault(name, []).append(cpu_ms)

    def median(self, name: str) -> float:
        return statistics.median(self.cpu_ms[name])

    def beyond(self, name: str) -> float:
        """The median over the rounds of what it took beyond the tail."""
        return statistics.median(
            own - tail for own, tail in zip(self.cpu_ms[name], self.cpu_ms["tail"], strict=True)
        )


def measure(cut: int, *, devices: tuple[int, ...], peer: bool, rounds: int = _ROUNDS) -> _Rounds:
    """The bare loop, the server and the peer, in turn."""
    case = open_case(cut)
    found = _Rounds()
    with contextlib.ExitStack() as closing:
        server = closing.enter_context(served(threads=THREADS))
        at = closing.enter_context(grpc_peer.serving(cut, threads=THREADS)) if peer else None
        bottom = closing.enter_context(floor.serving(cut, threads=THREADS)) if peer else None
        for _ in range(rounds):
            found.add("tail", bare.run(cut, threads=THREADS, seconds=_SECONDS).cpu_ms)
            for number in devices:
                result = scene.run(server, [case], [Group(name="all", devices=number)], seconds=_SECONDS)
                found.add(f"{number} devices", result.cpu_ms)
                if at is not None and number == _FEW:
                    made = grpc_load.run(cut, devices=number, seconds=_SECONDS, at=at)
                    found.add(f"gRPC, {number} devices", made.cpu_ms)
                if bottom is not None:
                    result = scene.run(bottom, [case], [Group(name="all", devices=number)], seconds=_SECONDS)
                    found.add(f"floor, {number} devices", result.cpu_ms)
    return found


def in_place(cut: int, *, peer: bool) -> Details:
    """What the tail takes where it runs, and the rest of an answer; the same of the peer.

    Counting takes a few microseconds a run, which are in the rest.
    """
    case, name = open_case(cut), f"{_FEW} devices, tail in place"
    with served(threads=THREADS, counted=True) as server:
        runs = [scene.run(server, [case], [Group(name="all", devices=_FEW)], seconds=_SECONDS) for _ in range(3)]
    details: Details = {
        f"{name}, ms": statistics.median(run.tail_cpu_ms for run in runs),
        f"{name}, beyond it, ms": statistics.median(run.cpu_ms - run.tail_cpu_ms for run in runs),
    }
    if peer:
        with grpc_peer.serving(cut, threads=THREADS, counted=True) as at:
            made = [grpc_load.run(cut, devices=_FEW, seconds=_SECONDS, at=at) for _ in range(3)]
        details |= {
            "gRPC, tail in place, ms": statistics.median(one.tail_cpu_ms for one in made),
            "gRPC, beyond it, ms": statistics.median(one.cpu_ms - one.tail_cpu_ms for one in made),
        }
    return details


def cost(*, peer: bool) -> Part:
    """CPU an answer beyond the tail's own, at 640 B and 7.8 kB, and with many devices."""
    claims = []
    details: Details = {}
    for cut, size, goal_ms, devices in ((SMALL, "640 B", 0.30, (_FEW, _MANY)), (LARGE, "7.8 kB", 0.40, (_FEW,))):
        found = measure(cut, devices=devices, peer=peer)
        details |= {f"{size}, {name}, ms": found.median(name) for name in found.cpu_ms}
        own = found.beyond(f"{_FEW} devices")
        claims.append(claim(f"CPU an answer beyond the tail's own in ms, {size}", own, goal_ms))
        details[f"{size}, beyond the tail, ms"] = own
        details |= {f"{size}, {what}": value for what, value in in_place(cut, peer=peer).items()}
        if peer:
            theirs = found.beyond(f"gRPC, {_FEW} devices")
            details[f"{size}, gRPC beyond the tail, ms"] = theirs
            for number in devices:
                details[f"{size}, floor beyond the tail, {number} devices, ms"] = found.beyond(
                    f"floor, {number} devices"
                )
            claims.append(claim(f"CPU beyond the tail's own over gRPC's, {size}", own / theirs, 0.25))
        if _MANY in devices:
            many = found.beyond(f"{_MANY} devices")
            claims.append(claim(f"CPU beyond the tail's, {_MANY} devices over {_FEW}, {size}", many / own, 1.15))
    return claims, details


def efficiency() -> Part:
    """The tail's own CPU time over all that the server takes for an answer."""
    claims = []
    details: Details = {}
    for cut, name, goal in ((LARGE, "at cut 20", 0.95), (MIDDLE, "with a tail of about 2 ms", 0.85)):
        found = measure(cut, devices=(_FEW,), peer=False)
        details |= {f"{name}, {what}, ms": found.median(what) for what in found.cpu_ms}
        ratio = statistics.median(
            tail / own for tail, own in zip(found.cpu_ms["tail"], found.cpu_ms[f"{_FEW} devices"], strict=True)
        )
        claims.append(claim(f"bare loop's CPU over the server's, {name}", ratio, goal, at_least=True))
        details |= {f"{name}, {what}": value for what, value in in_place(cut, peer=False).items()}
    return claims, details
