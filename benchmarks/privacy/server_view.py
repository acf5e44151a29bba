"""What a server sees of kinds of frames that differ as much as can be: it must not tell them apart.

    python -m benchmarks.privacy.server_view [--models NAME ...] [--pace ...] [--scenes ...] [--hogs N] [--json]

Kinds: constant, denormal, photographs (of EfficientNet-Lite0 only), each compared with noise; noise compared with
noise tells what the tests find where there is nothing. All kinds of a model are played in one run, as in
`view_play`, ``--frames`` of each in each of two scenes: ``near``, in which nearly every frame is sent, and
``edge``, in which a load believed to be higher for one kind would show at once, since sending would seem faster.

Three tests of each comparison (`blocks`): cut, size, order and number (choices), departure times, and what the
device says in its reports. All comparisons of a pace are one family: Holm's method finds any difference, where
there is none, in one run of a hundred. Under ``pace = "fixed"`` all must find nothing; under ``free`` a release
leaves when its head is done, and what that tells is given as a figure (`departures`).

A part is a model, a pace, a scene and a number of busy processes beside. It takes 1 to 6 minutes on an idle
machine. What the server saw of its rounds is kept in ``--keep FOLDER``: a run that was ended, or that ends after
``--seconds``, goes on there. It belongs to the code that it was measured on, and is played again after a change of
it. The table and the claims are of all parts that were asked for, kept or new.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.demo.prepared import PHOTOGRAPHS, prepare_all
from benchmarks.privacy import bundles, departures, pow_model
from benchmarks.privacy.blocks import CHOICES, REPORTS, TIMES, Found, Observed, differs, rejected
from benchmarks.privacy.departures import Accuracy
from benchmarks.privacy.view_parts import FIXED_SPLIT, Kept, Part, Round
from benchmarks.privacy.view_play import BLOCK, SCENES, hogged, kinds, opened, play, scene
from split_model.arrays import Array
from split_model.bundle import Bundle
from split_model.features.data import open_data

_LEVEL = 0.01
#: A cut after a quarter, so that sending is faster on an idle machine too.
_POWS, _HEAD_POWS = 100, 25
#: Every kind, noise too, is compared with these frames, which are noise.
_AGAINST, _BESIDE = "noise", "beside"
_KEPT_EVERY = 5
Photographs = Sequence[tuple[Array, ...]]


class Compared(msgspec.Struct, frozen=True):
    """One kind of frames compared with noise, in so many rounds; ``requests`` and ``load``: of each of the two."""

    part: Part
    kind: str
    rounds: int
    requests: tuple[int, int]
    load: tuple[float, float]
    interval_s: float
    choices: Found
    times: Found
    reports: Found
    per_frame: Accuracy | None = None
    per_hundred: Accuracy | None = None


def found_in(
    pairs: Sequence[tuple[Observed, Observed]],
) -> tuple[Found, Found, tuple[int, int], Accuracy | None, Accuracy | None]:
    """What the tests find: choices, times, requests of each kind, and how well departures tell the kinds apart."""
    by_choices = np.array([[one.choices for one in both] for both in pairs])
    by_times = np.array([[one.times for one in both] for both in pairs])
    first = differs(by_choices[:, 0], by_choices[:, 1], CHOICES)
    second = differs(by_times[:, 0], by_times[:, 1], TIMES)
    delays = [(np.array(one.departures_s), np.array(other.departures_s)) for one, other in pairs]
    counts = by_choices[:, :, 0].sum(axis=0)
    accuracies = departures.per_frame(delays), departures.per_hundred(delays)
    return first, second, (int(counts[0]), int(counts[1])), *accuracies


def found_in_reports(pairs: Sequence[tuple[Observed, Observed]]) -> Found:
    """What the test finds in what the device says of itself."""
    by_reports = np.array([[one.reports for one in both] for both in pairs])
    return differs(by_reports[:, 0], by_reports[:, 1], REPORTS)


def claims(results: Sequence[Compared]) -> list[dict[str, Any]]:
    """A/B no more often than A/A; departure times only where the pace is fixed."""
    made = []
    for pace in dict.fromkeys(one.part.pace for one in results):
        for which in ("choices", "times", "reports"):
            if which == "times" and pace == "free":
                continue
            mine = [one for one in results if one.part.pace == pace]
            ps = {same: [getattr(one, which).p for one in mine if (one.kind == _AGAINST) == same]
                  for same in (False, True)}  # fmt: skip
            hits = {same: sum(rejected(found, level=_LEVEL)) for same, found in ps.items()}
            share, beside = (hits[same] / max(1, len(ps[same])) for same in (False, True))
            made.append(
                {
                    "name": f"pace {pace}, {which}: share of {len(ps[False])} tests of different kinds that find a "
                    f"difference (Holm, {_LEVEL:g}); least p {min(ps[False], default=1.0):.2g}",
                    "value": round(share, 4),
                    "goal": f"<= {beside:g}, that of {len(ps[True])} tests of the same kind",
                    "holds": share <= beside,
                }
            )
    return made


def _models(folder: Path) -> dict[str, Callable[[], tuple[Bundle, Photographs]]]:
    def efficientnet() -> tuple[Bundle, Photographs]:
        bundle = prepare_all()
        data = open_data(PHOTOGRAPHS / "labelled", bundle.manifest.inputs, bundle.manifest.preprocess)
        return bundle, [sample.tensors for sample in data]

    return {
        "fashion": lambda: (bundles.fashion(), ()),
        "efficientnet-lite0": efficientnet,
        "powers": lambda: (pow_model.prepared(folder / "powers", pows=_POWS, head_pows=_HEAD_POWS), ()),
    }


def _compared(part: Part, rounds: Sequence[Round]) -> list[Compared]:
    """Each kind compared with noise."""
    rows = []
    for kind in (name for name in rounds[0] if name != _BESIDE):
        pairs = [(seen[kind], seen[_BESIDE]) for seen in rounds]
        first, second, requests, frame, hundred = found_in(pairs)
        loads = [float(np.median([both[which].load for both in pairs])) for which in (0, 1)]
        interval_s = float(np.median([both[0].interval_s for both in pairs]))
        load = (loads[0], loads[1])
        third = found_in_reports(pairs)
        found = (first, second, third)
        rows.append(Compared(part, kind, len(rounds), requests, load, interval_s, *found, frame, hundred))
    return rows


def _play(model: tuple[Bundle, Photographs], part: Part, kept: Kept, folder: Path, until_s: float) -> None:
    """Play the rounds of a part that are missing, until it is time to end."""
    bundle, photographs = model
    rounds = kept.rounds(part)
    made = kinds(bundle, photographs=photographs)
    makers = {_BESIDE: made[_AGAINST], **made}
    with opened(bundle, folder, pace=part.pace, split=part.split) as (device, server), hogged(part.hogs):
        played = scene(part.scene, device, makers.values())
        missing = range(len(rounds), max(1, part.frames // BLOCK))
        for seen in play(device, server, makers, played, rounds=missing):
            rounds.append(seen)
            if len(rounds) % _KEPT_EVERY == 0:
                kept.keep(part, rounds)
            if time.monotonic() >= until_s:
                break
    kept.keep(part, rounds)


def _parts(options: argparse.Namespace) -> Iterator[Part]:
    for model, pace in itertools.product(options.models, options.pace):
        scenes = options.scenes if model not in FIXED_SPLIT else SCENES[:1]
        for which in scenes:
            yield Part(model, pace, which, options.hogs, options.frames)


def _line(one: Compared) -> str:
    both = "  ".join(
        f"{name} p={found.p:.4f} ({found.feature} {found.difference:+.4g})"
        for name, found in (("choices", one.choices), ("times", one.times), ("reports", one.reports))
    )
    return f"{one.part.name} {one.kind:11} rounds {one.rounds}  requests {one.requests}  load {one.load}  {both}"


def table(results: Sequence[Compared]) -> str:
    """All parts in Markdown, a row each."""
    columns = ["model", "pace, scene, busy processes", "requests of a kind", "p of choices: other kinds; noise"]
    columns += ["p of departures: other kinds; noise", "p of reports: other kinds; noise"]
    columns += ["told apart by one departure"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for part, rows in itertools.groupby(results, key=lambda one: one.part):
        found = sorted(rows, key=lambda one: one.kind == _AGAINST)
        requests = [count for one in found for count in one.requests]
        ps = ["; ".join((", ".join(f"{getattr(one, which).p:.2g}" for one in found if one.kind != _AGAINST),
                         *(f"{getattr(one, which).p:.2g}" for one in found if one.kind == _AGAINST)))
              for which in ("choices", "times", "reports")]  # fmt: skip
        apart = ", ".join(
            f"{one.kind} {one.per_frame.value:.2f} [{one.per_frame.low:.2f}, {one.per_frame.high:.2f}]"
            for one in found
            if one.per_frame is not None
        )
        lines.append(
            f"| {part.model} | {part.pace}, {part.scene}, {part.hogs} | {min(requests):,} to {max(requests):,} "
            f"| {ps[0]} | {ps[1]} | {ps[2]} | {apart or '-'} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the last line is the claims."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.privacy.server_view",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    models = tuple(_models(Path()))
    parser.add_argument("--frames", type=int, default=2000, help="frames of each kind in each part (default: 2000)")
    parser.add_argument("--models", nargs="+", choices=models, default=models)
    parser.add_argument("--pace", nargs="+", choices=("free", "fixed"), default=("free", "fixed"))
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=SCENES)
    parser.add_argument("--hogs", type=int, default=0, help="busy processes that run beside it (default: 0)")
    parser.add_argument("--keep", type=Path, default=bundles.BUILD / "server_view", help="folder of parts")
    parser.add_argument("--kept", action="store_true", help="play nothing: all parts that are kept, of this code")
    parser.add_argument("--seconds", type=float, default=math.inf, help="end, to go on later, after this time")
    parser.add_argument("--json", action="store_true", help="each row as a line of JSON")
    options = parser.parse_args(arguments)
    until_s = time.monotonic() + options.seconds
    kept = Kept(options.keep)
    results: list[Compared] = []
    with tempfile.TemporaryDirectory() as made:
        bundle_of = _models(Path(made))
        for number, part in enumerate(list(kept.parts() if options.kept else _parts(options))):
            wanted = max(1, part.frames // BLOCK)
            if not options.kept and len(kept.rounds(part)) < wanted and time.monotonic() < until_s:
                _play(bundle_of[part.model](), part, kept, Path(made) / str(number), until_s)
            rows = _compared(part, rounds) if (rounds := kept.rounds(part)) else []
            for row in rows:
                print(_line(row), file=sys.stderr, flush=True)
            results += rows
    if options.json:
        for row in results:
            print(json.dumps(msgspec.to_builtins(row)))
        facts = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        print(json.dumps({"machine": facts}))
    else:
        print(table(results))
    print(json.dumps({"claims": claims(results)}))
    return os.EX_OK


if __name__ == "__main__":
    raise SystemExit(main())
