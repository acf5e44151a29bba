"""A statistical audit of every release through the real pipe: is what leaves as private as it is said to be?

usage: python -m benchmarks.privacy.audit [--trials N] [--json]

Small instances, so that a few thousand frames can tell: two feature values under noise, codebooks of 16 codewords
in one group and in two. Frames that hold one of the two inputs that are furthest apart are released in random order
and sent by the device's own link over TCP and CURVE. From the bytes that arrive, their length and the time since
the last answer, `split_model.audit` works out a lower bound on the true epsilon, wrong with probability 10^-6 at
most. It must stay below the claim for the releases as they are, and rise above it for every bug planted here:
half the noise, a channel left out, a generator that is seeded at every start, a length and a time that follow the
content, a codeword kept too often, a group left out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.privacy.audit_pipe import Pipe, Reading, Releasing, connected
from edge_runtime.privacy.release import Release
from split_model.audit import Finding, lower_bound
from split_model.bundle import ChannelCalibration, Codebook, Cut, FileRef, TensorSpec, file_ref
from split_model.privacy import (
    CodebookPlan,
    CodebookRelease,
    CodebookSpec,
    NoisePlan,
    NoiseRelease,
    NoiseSpec,
    RandomisedResponse,
)
from split_model.privacy.codebook_file import Decoder, Encoder, Grouping, check_groups, write
from split_model.privacy.packing import unpack

Entropy = Callable[[int], bytes]

#: Frames between two starts of the device, where a seed would be used again.
FRAMES_A_START = 64
#: What a release that waits for bright pictures would add; far more than a branch costs, far less than a frame.
WAIT_S = 0.002
CODEWORDS = 16
CODEBOOK_EPSILON = 2.0

TENSOR = TensorSpec(name="tiny", shape=(1, 2), dtype="float32")
KNOWN = ChannelCalibration(clip_low=(0.0, -1.0), clip_high=(1.0, 1.0), rank=(1.0, 1.0), weight=(1.0, 1.0))
FEATURES = (np.array([[0.0, -1.0]], np.float32), np.array([[1.0, 1.0]], np.float32))
PLAN = NoisePlan.make(NoiseSpec(epsilon=1.0, allocation="uniform"), [TENSOR], [KNOWN])
_FILE = FileRef(path="x", sha256="", size_bytes=0)
CUT = Cut(index=1, head=_FILE, tail=_FILE, tensors=(TENSOR,), head_macs=0, tail_macs=0, calibration=(KNOWN,))


@dataclass(frozen=True)
class Case:
    """One release and its claimed epsilon; ``bug``: whether an error was planted."""

    name: str
    claim: float
    release: Releasing
    read: Reading
    bug: bool = True


def read_noise(payload: bytes) -> NDArray[np.int64]:
    """The integers of a noise payload; bytes as they are where there are too few."""
    packed = np.frombuffer(payload, np.uint8)
    values = unpack(packed, PLAN.values, PLAN.spec.bits) if packed.size == PLAN.payload_bytes else packed
    return values.astype(np.int64)


def read_codewords(payload: bytes) -> NDArray[np.int64]:
    """The codewords of a codebook, a byte each."""
    return np.frombuffer(payload, np.uint8).astype(np.int64)


def noise(plan: NoisePlan = PLAN, *, entropy: Entropy = os.urandom) -> Releasing:
    """The device's release of noise, as it is."""
    release = Release(CUT, plan, entropy=entropy)
    return lambda bit: release([FEATURES[bit].copy()])


def channel_left_out() -> Releasing:
    """The second channel gets no noise."""
    release = Release(CUT, PLAN, entropy=os.urandom)
    mechanism = release._mechanism  # noqa: SLF001  a bug is planted inside
    assert isinstance(mechanism, NoiseRelease)
    sampler = mechanism._sampler  # noqa: SLF001
    draw = sampler.draw

    def forgetful(values: NDArray[np.int16], *rest: Any) -> None:
        draw(values, *rest)
        values[1::2] = 0

    sampler.draw = forgetful  # type: ignore[assignment]
    return lambda bit: release([FEATURES[bit].copy()])


def seeded() -> Releasing:
    """The device starts again and again, each time with a generator of the same seed."""
    state: dict[str, Any] = {"left": 0}

    def release(bit: bool) -> memoryview:
        if state["left"] == 0:
            state["release"] = noise(entropy=random.Random(1).randbytes)  # noqa: S311  the bug
            state["left"] = FRAMES_A_START
        state["left"] -= 1
        made: memoryview = state["release"](bit)
        return made

    return release


def length_that_follows() -> Releasing:
    """Dark frames are sent in fewer bytes."""
    honest = noise()
    return lambda bit: honest(bit) if bit else honest(bit)[:1]


def time_that_follows(wait_s: float = WAIT_S, plan: NoisePlan = PLAN) -> Releasing:
    """Bright frames take longer."""
    honest = noise(plan)

    def release(bit: bool) -> memoryview:
        if bit:
            time.sleep(wait_s)
        return honest(bit)

    return release


def codebook(groups: int) -> tuple[Release, CodebookRelease]:
    """The device's release of codewords, and the mechanism in it; the two frames are codewords 0 and 15."""
    grouping = Grouping((TENSOR,), (1,), check_groups(groups, (TENSOR,)))
    near, far = (grouping.inputs([frame]) for frame in FEATURES)
    points = [np.linspace(one, other, CODEWORDS, dtype=np.float32) for one, other in zip(near, far, strict=True)]
    # The nearest point has the largest p.x - p.p/2.
    encoder = Encoder(grouping, tuple(points), tuple(-(point**2).sum(axis=1) / 2 for point in points))
    decoder = Decoder((TENSOR,), grouping.groups, (np.zeros((CODEWORDS, *TENSOR.shape), np.float16),))
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "codewords.npz", encoder, decoder)
        file = file_ref(Path(folder), "codewords.npz")
        book = Codebook(
            codewords=CODEWORDS, groups=groups, file=file, lookup=1.0, chance=0.0, samples=1, truth="model"
        )
        cut = msgspec.structs.replace(CUT, codebooks=(book,))
        plan = CodebookPlan.make(CodebookSpec(epsilon=CODEBOOK_EPSILON, codewords=CODEWORDS, groups=groups), cut)
        release = Release(cut, plan, entropy=os.urandom, root=Path(folder))
    mechanism = release._mechanism  # noqa: SLF001  bugs are planted inside
    assert isinstance(mechanism, CodebookRelease)
    return release, mechanism


def codewords(groups: int) -> Releasing:
    """As it is."""
    release, _ = codebook(groups)
    return lambda bit: release([FEATURES[bit].copy()])


def codeword_kept_too_often() -> Releasing:
    """The response was made for another epsilon."""
    release, mechanism = codebook(1)
    loud = RandomisedResponse(CODEWORDS, 2 * CODEBOOK_EPSILON, entropy=os.urandom)
    mechanism._response = loud  # noqa: SLF001
    return lambda bit: release([FEATURES[bit].copy()])


def group_left_out() -> Releasing:
    """The second group's codeword is sent as it is."""
    release, mechanism = codebook(2)
    honest, sent = mechanism._response, itertools.cycle((True, False))  # noqa: SLF001

    def forgetful(codeword: int) -> int:
        return honest(codeword) if next(sent) else codeword

    mechanism._response = forgetful  # type: ignore[assignment]  # noqa: SLF001
    return lambda bit: release([FEATURES[bit].copy()])


def cases() -> list[Case]:
    """The releases as they are, and with each bug."""
    loud = replace(PLAN, classes=tuple(msgspec.structs.replace(g, epsilon=2 * g.epsilon) for g in PLAN.classes))
    whole = PLAN.whole_input_epsilon
    return [
        Case("noise", whole, noise(), read_noise, bug=False),
        Case("noise: scale halved", whole, noise(loud), read_noise),
        Case("noise: a channel left out", whole, channel_left_out(), read_noise),
        Case("noise: seeded at every start", whole, seeded(), read_noise),
        Case("noise: length follows the content", whole, length_that_follows(), read_noise),
        Case("noise: time follows the content", whole, time_that_follows(), read_noise),
        Case("codebook", CODEBOOK_EPSILON, codewords(1), read_codewords, bug=False),
        Case("codebook of two groups", CODEBOOK_EPSILON, codewords(2), read_codewords, bug=False),
        Case("codebook: the codeword kept too often", CODEBOOK_EPSILON, codeword_kept_too_often(), read_codewords),
        Case("codebook: a group left out", CODEBOOK_EPSILON, group_left_out(), read_codewords),
    ]


def audit(case: Case, pipe: Pipe, *, trials: int) -> Finding:
    """``trials`` frames of each of the two inputs through the pipe."""
    return lower_bound(*pipe.observe(case.release, case.read, trials=trials))


def holds(case: Case, finding: Finding) -> bool:
    """Whether the audit finds the planted errors, and no others."""
    return (finding.epsilon > case.claim) == case.bug


def tell_end(
    rows: Sequence[dict[str, Any]], claims: Sequence[dict[str, Any]], *, trials: int, as_json: bool
) -> None:
    """Print the rows and the machine, where they are asked for as JSON, and the claims as the last line."""
    if as_json:
        machine = {"machine": platform.machine(), "python": platform.python_version(), "numpy": np.__version__}
        print(json.dumps({"machine": machine, "trials": trials, "rows": rows}))
    print(json.dumps({"claims": claims}))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line a case, or everything as JSON, and the claims as the last line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.privacy.audit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
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
    with connected() as pipe:
        for case in cases():
            started_s = time.monotonic()
            found = audit(case, pipe, trials=options.trials)
            rows.append({"name": case.name, "claim": case.claim, "planted": case.bug, **found.__dict__})
            claims.append(
                {
                    "name": f"lower bound on epsilon, {case.name}",
                    "value": round(found.epsilon, 3),
                    "goal": f"{'>' if case.bug else '<='} {case.claim:g}, which is claimed",
                    "holds": holds(case, found),
                }
            )
            print(f"{case.name}: {time.monotonic() - started_s:.1f} s", file=sys.stderr)
            if not options.json:
                print(f"{case.name:<46} claim {case.claim:g}  at least {found.epsilon:6.3f}  by {found.event}")
    tell_end(rows, claims, trials=options.trials, as_json=options.json)
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
