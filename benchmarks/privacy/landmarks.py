"""The cost of noise for a face mesh: landmark error in pixels, by cut, per-value epsilon and allocation.

usage: python -m benchmarks.privacy.landmarks [--draws N] [--json]

MediaPipe's face_landmark on 50 faces that were not used for calibration (50 others were). The error is the mean
distance, in the picture's plane, between the 468 landmarks with the release and without, in pixels of the model's
192 x 192 input; a face is about 110 of them wide. 95 % intervals are over faces (bootstrap).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.privacy.bundles import face_landmark, photographs
from split_model.arrays import Array
from split_model.bundle import Bundle, Cut
from split_model.bundle.evaluation import Mean
from split_model.interpreter import Interpreter, open_interpreter
from split_model.prepare.evaluate.measure import bootstrap, clipped, open_for
from split_model.privacy import ALLOCATIONS, NoisePlan, NoiseRelease, NoiseSpec, recover

EPSILONS = (32.0, 16.0, 8.0, 4.0)
USUAL = 16.0
CHANCE = 0.03


def landmarks(tail: Interpreter, features: Sequence[Array]) -> NDArray[np.float32]:
    """[468, 2] in pixels."""
    points: NDArray[np.float32] = tail.run(features)[0].reshape(-1, 3)[:, :2]
    return points


def distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Mean over the landmarks."""
    return float(np.linalg.norm(one - other, axis=1).mean())


def measure(bundle: Bundle, cut: Cut, faces: Sequence[Sequence[Array]], draws: int) -> dict[str, Any]:
    """Every way to release one cut: ``clip``, and by allocation and epsilon."""
    head = None if cut.head is None else open_interpreter(bundle.path(cut.head))
    tail = open_interpreter(bundle.path(cut.tail))
    features = [face if head is None else head.run(face) for face in faces]
    truth = [landmarks(tail, each) for each in features]

    def error(release: Any, times: int) -> Mean:
        return bootstrap(
            [
                float(np.mean([distance(landmarks(tail, release(each)), known) for _ in range(times)]))
                for each, known in zip(features, truth, strict=True)
            ]
        )

    rows = []
    for epsilon in EPSILONS:
        row: dict[str, Any] = {"epsilon": epsilon}
        for name in ALLOCATIONS:
            spec = NoiseSpec(epsilon=epsilon, allocation=name)
            plan = NoisePlan.make(spec, cut.tensors, cut.calibration or ())
            release = NoiseRelease(plan, entropy=os.urandom)
            row[name] = error(lambda each, plan=plan, release=release: recover(plan, release(each)), draws)
            row["whole_input_epsilon"] = plan.whole_input_epsilon
        rows.append(row)
    return {"cut": cut.index, "values": cut.values, "clip": error(lambda each: clipped(each, cut), 1), "rows": rows}


def table(cuts: Sequence[dict[str, Any]]) -> str:
    """A block a cut, a line an epsilon."""
    lines = [f"{'cut':>4} {'epsilon':>8} {'eps/input':>11} " + " ".join(f"{name:>22}" for name in ALLOCATIONS)]
    for each in cuts:
        lines.append(f"{each['cut']:>4} {'clip':>8} {'':>11} {_cell(each['clip']):>22}")
        for row in each["rows"]:
            cells = " ".join(f"{_cell(row[name]):>22}" for name in ALLOCATIONS)
            lines.append(f"{each['cut']:>4} {row['epsilon']:>8g} {row['whole_input_epsilon']:>11.6g} {cells}")
    return "\n".join(lines)


def _cell(mean: Mean) -> str:
    return f"{mean.value:.2f} [{mean.low:.2f}, {mean.high:.2f}]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table in pixels, or everything as JSON, and the claims as the last line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.privacy.landmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--draws", type=int, default=4, help="releases of each face with each allocation (default: 4)"
    )
    parser.add_argument("--json", action="store_true", help="rows as one JSON line instead of a table")
    options = parser.parse_args(arguments)
    bundle = face_landmark()
    faces = [sample.tensors for sample in open_for(bundle, photographs() / "faces" / "evaluation")]
    measured = []
    for cut in bundle.manifest.cuts:
        measured.append(measure(bundle, cut, faces, options.draws))
        print(f"cut {cut.index}", file=sys.stderr)
    taken = {cut.index: cut.allocation.best for cut in bundle.manifest.cuts if cut.allocation is not None}
    best = 0
    for each in measured:
        errors = {name: row[name].value for row in each["rows"] if row["epsilon"] == USUAL for name in ALLOCATIONS}
        best += errors[taken[each["cut"]]] <= (1 + CHANCE) * min(errors.values())
    if options.json:
        machine = {"machine": platform.machine(), "python": platform.python_version(), "numpy": np.__version__}
        print(
            json.dumps({"machine": machine, "auto": taken, "faces": len(faces), "cuts": measured}, default=_plain)
        )
    else:
        print(table(measured))
    claim = {
        "name": f"cuts at which auto's allocation moves the landmarks of unseen faces least, per-value epsilon "
        f"{USUAL:g}, within {CHANCE:.0%}",
        "value": best,
        "goal": f"= {len(measured)}",
        "holds": best == len(measured),
    }
    print(json.dumps({"claims": [claim]}))
    return os.EX_OK


def _plain(mean: Mean) -> dict[str, float]:
    return {"value": round(mean.value, 4), "low": round(mean.low, 4), "high": round(mean.high, 4)}


if __name__ == "__main__":
    sys.exit(main())
