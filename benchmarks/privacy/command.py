"""What a release costs in accuracy, on one page: the local lookup, noise and the codebook side by side.

usage: python -m benchmarks.privacy [--pictures N] [--json]

The model is `models/fashion`; the pictures are the 10,000 test pictures of Fashion-MNIST where the Debian package
``dataset-fashion-mnist`` is installed, else the 2,000 committed ones (the page says which). Each release is drawn
with three seeds. Two references: the unprotected model, and randomised response on its answer, which is what a
device could send that answers by itself. The interval of an accuracy is Wilson's over pictures; that of a loss is
of the paired difference from the unprotected model, a picture's draws averaged.

The codebooks are learned from the 54,000 pictures that trained the network (else from the 1,000 committed ones),
and chosen by epsilon as a device chooses them. The noise-aware tails were trained for the uniform allocation.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.privacy.bundles import fashion, fashion_pictures
from split_model.arrays import Array
from split_model.bundle import Bundle, Cut
from split_model.features.data import open_data
from split_model.interpreter import Interpreter, open_interpreter
from split_model.prepare.evaluate.measure import wilson
from split_model.privacy import (
    ALLOCATIONS,
    CodebookPlan,
    CodebookRelease,
    NoisePlan,
    NoiseRelease,
    NoiseSpec,
    RandomisedResponse,
    recover,
    recover_codebook,
    settle_codebook,
)
from split_model.privacy.codebook_file import Decoder, Encoder, read_decoder, read_encoder

Hits = NDArray[np.float64]
Entropy = Callable[[int], bytes]
Through = Callable[[list[Array]], Sequence[Array]]

SEEDS = (1, 2, 3)
PER_VALUE = (2.0, 1.0)
WHOLE_INPUT = (8.0, 6.0)
MIDDLE, DEEPEST = 7, 13
AWARE = "noise-aware tail"
#: Points that may be lost: by the codebook from the middle cut on, and by noise at a cut.
CODEBOOK_GOALS = {8.0: 1.0, 6.0: 3.5}
NOISE_GOALS = {(2.0, DEEPEST): 1.0, (2.0, MIDDLE): 6.0, (1.0, DEEPEST): 3.0, (1.0, MIDDLE): 15.0}
ACCURACY_GOAL = 0.92
_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Line:
    """One way to release: its name, its cost, and the share of right answers of each picture, 0 to 1."""

    cut: int | None
    way: str
    hits: Hits
    per_value_epsilon: float | None = None
    whole_input_epsilon: float | None = None
    payload_bytes: int | None = None

    def record(self, unprotected: Hits) -> dict[str, Any]:
        """For the page: the accuracy and the points lost, each with its interval."""
        share = wilson(float(self.hits.mean()), len(self.hits))
        lost = 100 * (unprotected - self.hits)
        half = _Z95 * float(lost.std(ddof=1)) / math.sqrt(len(lost))
        return {
            "cut": self.cut,
            "way": self.way,
            "per_value_epsilon_max": self.per_value_epsilon,
            "whole_input_epsilon": self.whole_input_epsilon,
            "payload_bytes": self.payload_bytes,
            "accuracy": round(share.value, 4),
            "accuracy_95": [round(share.low, 4), round(share.high, 4)],
            "points_lost": round(float(lost.mean()), 2),
            "points_lost_95": [round(float(lost.mean()) - half, 2), round(float(lost.mean()) + half, 2)],
        }


class Page:
    """Runs the pictures through the model once, and then through every release."""

    def __init__(self, bundle: Bundle, inputs: Sequence[tuple[Array, ...]], labels: Array) -> None:
        self.bundle = bundle
        self.labels = labels
        self.inputs = inputs
        whole = open_interpreter(bundle.path(bundle.manifest.model))
        self.answers = np.array([int(whole.run(one)[0].argmax()) for one in inputs])
        self.unprotected: Hits = (self.answers == labels).astype(np.float64)

    def features(self, cut: Cut) -> list[list[Array]]:
        """The live tensors of every picture."""
        assert cut.head is not None
        head = open_interpreter(self.bundle.path(cut.head))
        return [head.run(one) for one in self.inputs]

    def right(self, tail: Interpreter, through: Through, features: list[list[Array]]) -> Hits:
        """Return for each answer 1 if it is right, else 0."""
        answers = [int(tail.run(through([one.copy() for one in each]))[0].argmax()) for each in features]
        hits: Hits = (np.array(answers) == self.labels).astype(np.float64)
        return hits

    def drawn(self, tail: Interpreter, made: Callable[[Entropy], Through], features: list[list[Array]]) -> Hits:
        """The mean over the seeds, a picture each; ``made`` makes a release from its source of randomness."""
        draws = [self.right(tail, made(np.random.default_rng(seed).bytes), features) for seed in SEEDS]
        mean: Hits = np.mean(draws, axis=0)
        return mean

    def references(self) -> list[Line]:
        """Lines to compare with: the unprotected model, and its answer by randomised response at each epsilon."""
        lines = [Line(None, "unprotected", self.unprotected)]
        for epsilon in WHOLE_INPUT:
            draws = []
            for seed in SEEDS:
                response = RandomisedResponse(10, epsilon, entropy=np.random.default_rng(seed).bytes)
                draws.append(np.array([response(int(answer)) for answer in self.answers]) == self.labels)
            hits = np.mean(draws, axis=0)
            lines.append(Line(None, "response on the unprotected answer", hits, epsilon, epsilon, 1))
        return lines

    def codebooks(self, cut: Cut, features: list[list[Array]]) -> list[Line]:
        """The lookup on the device, and the codebook a device would choose, at each whole-input epsilon."""
        tail = open_interpreter(self.bundle.path(cut.tail))
        lines = []
        for epsilon in WHOLE_INPUT:
            spec = settle_codebook(cut, epsilon)
            assert spec is not None
            plan = CodebookPlan.make(spec, cut)
            path = self.bundle.path(plan.book.file)
            encoder = read_encoder(path, plan.book, cut.tensors)
            decoder = read_decoder(path, plan.book, cut.tensors)
            known = self.right(tail, partial(_look_up, encoder, decoder), features)
            hits = self.drawn(tail, partial(_codebook, plan, encoder, decoder), features)
            whole = plan.whole_input_epsilon
            lines += [
                Line(cut.index, f"local lookup, {spec.codewords} codewords", known),
                Line(cut.index, f"codebook, {spec.codewords} codewords", hits, whole, whole, plan.payload_bytes),
            ]
        return lines

    def noise(self, cut: Cut, features: list[list[Array]]) -> list[Line]:
        """The three allocations with the plain tail, and the noise-aware tail where there is one."""
        plain = open_interpreter(self.bundle.path(cut.tail))
        aware = {one.epsilon: open_interpreter(self.bundle.path(one.tail)) for one in cut.noise_tails}
        lines = []
        for epsilon in PER_VALUE:
            variants = [(name, f"noise, {name}", plain) for name in ALLOCATIONS]
            if epsilon in aware:
                variants.append(("uniform", f"noise, uniform, {AWARE}", aware[epsilon]))
            for allocation, variant, tail in variants:
                spec = NoiseSpec(epsilon=epsilon, allocation=allocation)
                plan = NoisePlan.make(spec, cut.tensors, cut.calibration or ())
                hits = self.drawn(tail, partial(_noise, plan), features)
                costs = plan.per_value_epsilon_max, plan.whole_input_epsilon
                lines.append(Line(cut.index, variant, hits, *costs, plan.payload_bytes))
        return lines


def _look_up(encoder: Encoder, decoder: Decoder, features: list[Array]) -> Sequence[Array]:
    return decoder(encoder(features))


def _codebook(plan: CodebookPlan, encoder: Encoder, decoder: Decoder, entropy: Entropy) -> Through:
    release = CodebookRelease(plan, encoder, entropy=entropy)
    return lambda features: recover_codebook(plan, decoder, release(features))


def _noise(plan: NoisePlan, entropy: Entropy) -> Through:
    release = NoiseRelease(plan, entropy=entropy)
    return lambda features: recover(plan, release(features))


def claims(records: list[dict[str, Any]], pictures: int) -> list[dict[str, Any]]:
    """Return the accuracy goals as claims, from the means of three seeds."""
    unprotected = records[0]["accuracy"]
    name = f"unprotected accuracy on {pictures} test pictures"
    found = [_claim(name, unprotected, f">= {ACCURACY_GOAL}", holds=unprotected >= ACCURACY_GOAL)]
    for epsilon, most in CODEBOOK_GOALS.items():
        mine = [
            row for row in records if row["way"].startswith("codebook") and row["whole_input_epsilon"] == epsilon
        ]
        worst = max(mine, key=lambda row: float(row["points_lost"]))
        name = f"codebook, whole-input pure epsilon {epsilon:g}: points lost at the worst cut from the middle on"
        found.append(_lost(f"{name} ({worst['cut']})", worst, most))
    for (epsilon, cut), most in NOISE_GOALS.items():
        mine = [
            row for row in records
            if (row["cut"], row["per_value_epsilon_max"]) == (cut, epsilon) and row["way"].endswith(AWARE)
        ]  # fmt: skip
        place = "deepest" if cut == DEEPEST else "middle"
        name = f"noise, per-value epsilon {epsilon:g}, {AWARE}: points lost at the {place} cut ({cut})"
        found += [_lost(name, row, most) for row in mine]
    return found


def _lost(name: str, row: dict[str, Any], most: float) -> dict[str, Any]:
    low, high = row["points_lost_95"]
    return _claim(
        f"{name}, 95 % {low} to {high}", row["points_lost"], f"<= {most}", holds=row["points_lost"] <= most
    )


def _claim(name: str, value: float, goal: str, *, holds: bool) -> dict[str, Any]:
    return {"name": name, "value": value, "goal": goal, "holds": bool(holds)}


def render(records: list[dict[str, Any]]) -> str:
    """The page, a line a way."""
    title = (
        f"{'cut':>4}  {'way':<38} {'eps/value':>9} {'eps/input':>9} {'bytes':>6}  {'accuracy [95 %]':<23}  "
        "points lost [95 %]"
    )
    lines = [title]
    for row in records:
        (low, high), (least, most) = row["accuracy_95"], row["points_lost_95"]
        costs = [row["per_value_epsilon_max"], row["whole_input_epsilon"]]
        cells = " ".join(f"{'-' if cost is None else format(cost, '.4g'):>9}" for cost in costs)
        lines.append(
            f"{'-' if row['cut'] is None else row['cut']:>4}  {row['way']:<38} {cells} "
            f"{row['payload_bytes'] or '-':>6}  {row['accuracy']:.4f} [{low:.4f}, {high:.4f}]  "
            f"{row['points_lost']:6.2f} [{least:.2f}, {most:.2f}]"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the page, or everything as JSON, and the claims as the last line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.privacy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--pictures", type=int, default=10_000, help="maximum number of test pictures (default: 10,000)"
    )
    parser.add_argument("--json", action="store_true", help="rows as one JSON line instead of a page")
    options = parser.parse_args(arguments)
    bundle = fashion()
    path, which = fashion_pictures("test")
    samples = list(open_data(path, bundle.manifest.inputs, bundle.manifest.preprocess))[: options.pictures]
    page = Page(bundle, [one.tensors for one in samples], np.array([one.label for one in samples]))
    lines = page.references()
    for cut in bundle.manifest.cuts:
        print(f"cut {cut.index}", file=sys.stderr, flush=True)
        features = page.features(cut)
        if cut.codebooks:
            lines += page.codebooks(cut, features)
        lines += page.noise(cut, features)
    records = [line.record(page.unprotected) for line in lines]
    facts = {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pictures": f"{len(samples)} of {which}",
        "seeds": len(SEEDS),
        "bundle": bundle.identity,
    }
    if options.json:
        print(json.dumps({"machine": facts, "rows": records}))
    else:
        print("  ".join(f"{key}={value}" for key, value in facts.items()))
        print(render(records))
    print(json.dumps({"claims": claims(records, len(samples))}))
    return os.EX_OK
