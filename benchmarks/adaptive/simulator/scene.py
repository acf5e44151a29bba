"""A scene (one board on one link) and its result: a policy's frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.adaptive.simulator.board import Hog
from benchmarks.wire.traces import Trace
from edge_runtime.inference.profile import Profile, SplitTiming

PROFILES = Path(__file__).parents[1] / "profiles"
#: Seconds before frames count, in which the program connects, measures the link and loads heads.
WARM_UP_S = 20.0
DELAY_S = 0.02
#: Seconds of the real programs beside heads, releases, tails and link, as `adaptive.windows` measured them: a frame
#: in the device's loop, and an exchange with the server (two threads, two sockets and CURVE on either side).
LOOP_S = 0.003
EXCHANGE_S = 0.010
#: Duration of loading a local tail, in runs of the whole model: 2 to 5 were measured.
LOAD_RUNS = 4.0
DOWNLINK_MBIT_S = 20.0


class ServerTail(msgspec.Struct, frozen=True, kw_only=True):
    """One tail on the server; ``tail_bytes``: its file's size."""

    split: int
    tail_macs: int
    tail_s: float
    tail_bytes: int


class ServerProfile(msgspec.Struct, frozen=True, kw_only=True):
    """The server's times, and the times and sizes if pictures are sent, not features (see profiles/README.md)."""

    tails: tuple[ServerTail, ...]
    raw_bytes: int
    jpeg_encode_s: float
    jpeg_decode_s: float
    jpeg_bytes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One board on one link. ``profile`` is that of the board when idle; ``interval_s`` 0 is back-to-back.

    ``from_s``: frames count from there on in the trace, for its whole length; it is played in a circle.
    ``burst_bytes``: what the link lets through at once after a pause, as a token bucket does. ``content``: how many
    times longer work on these frames takes than on those of the profile. ``first_s``: when the first frame is
    captured, by the clock.
    """

    trace: Trace
    profile: Profile
    server: ServerProfile
    interval_s: float
    answer_within_s: float
    hog: Hog = field(default_factory=Hog)
    from_s: float = 0.0
    delay_s: float = DELAY_S
    burst_bytes: int = 0
    content: float = 1.0
    first_s: float = 0.0

    @property
    def one_way_s(self) -> float:
        """The link's delay plus half of the programs' time for an exchange."""
        return self.delay_s + EXCHANGE_S / 2

    @property
    def local(self) -> int:
        """The split that runs everything on the board."""
        return self.profile.local.split

    @property
    def end_s(self) -> float:
        """The time at which the trace has been played once, counted from the clock's zero."""
        return WARM_UP_S + self.trace.duration_s

    @property
    def link(self) -> Trace:
        """The trace on the clock; the part before ``from_s`` in the loop is the warm-up."""
        return replace(self.trace, start_s=(self.from_s - WARM_UP_S) % self.trace.duration_s)


@dataclass(frozen=True)
class Row:
    """One frame: when, where it was cut, how it ended, and what the link was believed to be (Mbit/s)."""

    captured_s: float
    split: int
    outcome: str
    latency_s: float
    believed_mbit_s: float | None = None


@dataclass(frozen=True)
class Run:
    """A policy's frames, the bytes it put on the link in all and in probes, and local runs beside a transfer."""

    policy: str
    rows: tuple[Row, ...]
    sent_bytes: int = 0
    probe_bytes: int = 0
    background_runs: int = 0

    @property
    def mean_s(self) -> float:
        """Mean latency; infinite where the trace was over before a frame after the warm-up was answered."""
        if not self.rows:
            return math.inf
        return float(np.mean([row.latency_s for row in self.rows]))

    @property
    def p95_s(self) -> float:
        """95th percentile of the latency."""
        if not self.rows:
            return math.inf
        return float(np.percentile([row.latency_s for row in self.rows], 95))

    def share(self, split: int) -> float:
        """Return the share of the frames that were cut there."""
        return sum(row.split == split for row in self.rows) / max(1, len(self.rows))


def at_pace(timing: SplitTiming, factor: float) -> SplitTiming:
    """Return the costs of a split on a board that is ``factor`` times slower."""
    return msgspec.structs.replace(
        timing,
        head_s=timing.head_s * factor,
        head_p95_s=timing.head_p95_s * factor,
        release_s=timing.release_s * factor,
    )


def load_profiles(whole_s: float, *, raw: bool) -> tuple[Profile, ServerProfile]:
    """The board's profile at the speed where the whole model takes ``whole_s``, and the server's.

    Not ``raw``: under noise, cut 0 not offered, as by default. ``raw``: the user set ``release.mechanism = "none"``
    and ``planner.earliest_cut = 0``, and the model is int8; so cut 0 sends the very bytes that cloud-only does.
    """
    name = "efficientnet_lite0_int8" if raw else "efficientnet_lite0"
    profile = msgspec.json.decode((PROFILES / f"{name}.json").read_bytes(), type=Profile)
    server = msgspec.json.decode((PROFILES / f"{name}_server.json").read_bytes(), type=ServerProfile)
    factor = whole_s / profile.local.head_s
    splits = tuple(at_pace(timing, factor) for timing in profile.splits if raw or timing.split != 0)
    server = msgspec.structs.replace(server, jpeg_encode_s=server.jpeg_encode_s * factor)
    return msgspec.structs.replace(profile, splits=splits, slowdown=profile.slowdown * factor), server


def pooled(runs: Sequence[Run]) -> Run:
    """Return all frames of several plays of the same policy."""
    return Run(
        runs[0].policy,
        tuple(row for run in runs for row in run.rows),
        sum(run.sent_bytes for run in runs),
        sum(run.probe_bytes for run in runs),
        sum(run.background_runs for run in runs),
    )
