"""Many device programs and one server in virtual time; the work of each, second by second."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.adaptive.simulator.clock import Clock
from benchmarks.adaptive.simulator.program import Device, make_device
from benchmarks.adaptive.simulator.quiet import quiet_device
from benchmarks.adaptive.simulator.scene import DELAY_S, Scene, load_profiles
from benchmarks.server.virtual_server import VirtualServer
from benchmarks.wire.traces import constant
from split_model.protocol import messages as wire

#: Seconds of the whole model on the boards; a frame comes every 1.5 times as long and is due after 2.5 times.
WHOLE_S = (0.3, 0.4, 0.5)
#: Their uplinks, in Mbit/s.
UPLINKS = (4.0, 8.0, 20.0)


@dataclass(frozen=True)
class FleetScene:
    """The scene of a fleet. ``tail_factor``: how many times slower the server is than the profile's."""

    devices: int = 200
    workers: int = 2
    tail_factor: float = 1.5
    seconds: float = 180.0
    warm_up_s: float = 60.0
    places: int = 64
    versions: tuple[int, ...] = wire.VERSIONS
    seed: int = 1


@dataclass(frozen=True)
class FrameDone:
    """One frame's end: when, how, how long it took, its split, and whether the planner chose another one for it."""

    at_s: float
    outcome: str
    latency_s: float
    split: int
    moved: bool
    sent: bool


@dataclass
class Member:
    """A device of the fleet and its frames."""

    device: Device
    whole_s: float
    answer_within_s: float
    frames: list[FrameDone] = field(default_factory=list)


@dataclass(frozen=True)
class Played:
    """A whole play."""

    scene: FleetScene
    members: tuple[Member, ...]
    server: VirtualServer

    def counted(self) -> Iterator[tuple[Member, FrameDone]]:
        """All frames after the warm-up."""
        for member in self.members:
            for frame in member.frames:
                if self.scene.warm_up_s <= frame.at_s < self.scene.seconds:
                    yield member, frame


class _Turns:
    """Runs one device whenever something happened to it, and when its wait is over."""

    def __init__(self, clock: Clock, member: Member) -> None:
        self._clock = clock
        self._member = member
        self._woken = False
        self._number = 0
        member.device.driver.woken = member.device.link.woken = self.wake
        clock.at(0.0, self._turn)

    def wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._clock.at(self._clock.now_s, self._turn)

    def _turn(self) -> None:
        self._woken = False
        until_s = self._member.device.driver.turn()
        for step in self._member.device.driver.done():
            result = step.result
            self._member.frames.append(
                FrameDone(
                    self._clock.now_s,
                    result.outcome,
                    result.latency_s,
                    result.split,
                    step.decision.moved,
                    result.payload_bytes > 0,
                )
            )
        self._number += 1
        if until_s is not None:
            number = self._number
            self._clock.at(until_s, lambda: self._turn() if number == self._number else None)


def play(scene: FleetScene) -> Played:
    """Play a fleet: every device with the product's scheduler, planner and link, the server with its dispatcher."""
    with quiet_device():
        return _play(scene)


def _play(scene: FleetScene) -> Played:
    clock, chance = Clock(), random.Random(scene.seed)  # noqa: S311  a play is repeatable
    profile, served = load_profiles(0.4, raw=False)
    tails = {tail.split: tail.tail_s * scene.tail_factor for tail in served.tails if tail.split}
    server = VirtualServer(
        clock, profile.bundle, tails, workers=scene.workers, places=scene.places, seed=scene.seed
    )
    members = [_member(scene, number, clock, server, chance) for number in range(scene.devices)]
    for member in members:
        _Turns(clock, member)
    clock.run_until(scene.seconds)
    return Played(scene, tuple(members), server)


def _member(scene: FleetScene, number: int, clock: Clock, server: VirtualServer, chance: random.Random) -> Member:
    whole_s = WHOLE_S[number % len(WHOLE_S)]
    profile, served = load_profiles(whole_s, raw=False)
    interval_s, within_s = 1.5 * whole_s, 2.5 * whole_s
    trace = dataclasses.replace(constant(UPLINKS[number // len(WHOLE_S) % len(UPLINKS)]), edges_s=(0.0, 3600.0))
    board = Scene(
        trace=trace,
        profile=profile,
        server=served,
        interval_s=interval_s,
        answer_within_s=within_s,
        delay_s=DELAY_S * (0.5 + chance.random()),
        first_s=chance.random() * interval_s,
    )
    jitter = random.Random(chance.random()).random  # noqa: S311
    device = make_device(board, clock, server.connect(f"device {number}"), versions=scene.versions, jitter=jitter)
    return Member(device, whole_s, within_s)
