"""What a server sees of kinds of frames that differ as much as can be: it must not tell them apart.

    python -m benchmarks.privacy.server_view [--models NAME ...] [--pace ...] [--scenes ...] [--hogs N] [--json]

Kinds: constant, denormal, photographs (of EfficientNet-Lite0 only), each compared with noise; noise compared with
noise tells what the tests find where there is nothing. All kinds of a model are played in one run, as in
`view_play`, ``--frames`` of each in each of two scenes: ``near``, in which nearly every frame is sent, and
``edge``, in which a load believed to be higher for one kind would show at once, since sending would seem faster.

Two tests of each comparison (`blocks`): cut, size, order and number (choices), and departure times. All
comparisons of a pace are one family: Holm's method finds any difference, where there is none, in one run of a
hundred. Under ``pace = "fixed"`` both must find nothing; under ``free`` a release leaves when its head is done, and
what that tells is given as a figure (`departures`).

A part is a model, a pace, a scene and a number of busy processes beside. It takes 1 to 6 minutes on an idle
machine. Its rows are kept in ``--keep FOLDER`` and belong to the code that they were measured on: a part is played
again after a change of it. The table and the claims are of all parts that were asked for, kept or new.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks import ROOT
from benchmarks.demo.prepared import PHOTOGRAPHS, prepare_all
from benchmarks.privacy import bundles, departures, pow_model
from benchmarks.privacy.blocks import CHOICES, TIMES, Block, Found, choices, departures_s, differs, rejected, times
from benchmarks.privacy.departures import Accuracy
from benchmarks.privacy.view_play import SCENES, hogged, kinds, opened, play, scene
from benchmarks.privacy.view_server import Seen
from split_model.arrays import Array
from split_model.bundle import Bundle
from split_model.features.data import open_data
from split_model.service.atomic_file import write_atomically

_LEVEL = 0.01
#: A local run of the fashion model takes a fraction of a millisecond: left to itself the device would send nothing.
_FIXED_SPLIT = {"fashion": 7}
#: A cut after a quarter, so that sending is faster on an idle machine too.
_POWS, _HEAD_POWS = 100, 25
#: What the figures depend on: the product from a frame to the wire, and how frames are played.
_CODE = (
    *(f"edge_runtime/{room}" for room in ("board", "daemon", "inference", "link", "loop", "planner", "privacy")),
    *(f"split_model/{room}" for room in ("interpreter", "privacy", "protocol")),
    *(
        f"benchmarks/privacy/{name}.py"
        for name in ("blocks", "departures", "pow_model", "view_play", "view_server")
    ),
)
_REPORTS = "[report]\nenabled = true\nperiod_s = 5\n"
_AGAINST = "noise"
Photographs = Sequence[tuple[Array, ...]]


class Part(msgspec.Struct, frozen=True):
    """What is played at once: all kinds of frames of a model, ``frames`` of each."""

    model: str
    pace: str
    scene: str
    hogs: int
    reports: bool
    frames: int

    @property
    def name(self) -> str:
        """For its file."""
        reports = "-reports" if self.reports else ""
        return f"{self.model}-{self.pace}-{self.scene}-{self.hogs}-hogs-{self.frames}{reports}"

    @property
    def split(self) -> int | None:
        """The only split; None for the planner's choice."""
        return _FIXED_SPLIT.get(self.model)


class Compared(msgspec.Struct, frozen=True):
    """One kind of frames compared with noise; ``requests`` and ``load``: of each of the two."""

    part: Part
    kind: str
    requests: tuple[int, int]
    load: tuple[float, float]
    interval_s: float
    choices: Found
    times: Found
    per_frame: Accuracy | None = None
    per_hundred: Accuracy | None = None


def found_in(
    pairs: Sequence[tuple[Block, Block]], seen: Sequence[Seen]
) -> tuple[Found, Found, tuple[int, int], Accuracy | None, Accuracy | None]:
    """What the tests find: choices, times, requests of each kind, and how well departures tell the kinds apart."""
    mine = [(both, [one for one in seen if _within(both, one)]) for both in pairs]
    tables = [
        np.array([[features(block, rows) for block in both] for both, rows in mine])
        for features in (choices, times)
    ]
    found = [differs(t[:, 0], t[:, 1], names) for t, names in zip(tables, (CHOICES, TIMES), strict=True)]
    delays = [(departures_s(both[0], rows), departures_s(both[1], rows)) for both, rows in mine]
    counts = tables[0][:, :, 0].sum(axis=0)
    accuracies = departures.per_frame(delays), departures.per_hundred(delays)
    return found[0], found[1], (int(counts[0]), int(counts[1])), *accuracies


def _within(both: tuple[Block, Block], one: Seen) -> bool:
    return min(b.due_s[0] for b in both) <= one.at_s < max(b.end_s for b in both)


def claims(results: Sequence[Compared]) -> list[dict[str, Any]]:
    """A/B no more often than A/A; departure times only where the pace is fixed."""
    made = []
    for pace in dict.fromkeys(one.part.pace for one in results):
        for which in ("choices", "times"):
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


def _played(bundle: Bundle, photographs: Photographs, part: Part, folder: Path) -> list[Compared]:
    """Play a part, and compare each kind with noise."""
    made = kinds(bundle, photographs=photographs)
    makers = {"against": made[_AGAINST], **made}
    more = _REPORTS if part.reports else ""
    with opened(bundle, folder, pace=part.pace, split=part.split, more=more) as (device, server), hogged(part.hogs):
        played = scene(part.scene, device, makers.values())
        rounds = play(device, server, makers, played, frames=part.frames)
        seen = list(server.seen)
    rows = []
    for kind in made:
        pairs = [(blocks[kind], blocks["against"]) for blocks in rounds]
        first, second, requests, frame, hundred = found_in(pairs, seen)
        loads = [float(np.median([both[which].load for both in pairs])) for which in (0, 1)]
        rows.append(
            Compared(part, kind, requests, (loads[0], loads[1]), played.interval_s, first, second, frame, hundred)
        )
    return rows


def _code_digest() -> str:
    paths = [ROOT / name for name in _CODE]
    files = sorted(file for path in paths for file in (path.rglob("*.py") if path.is_dir() else (path,)))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _kept(path: Path, code: str) -> list[Compared] | None:
    """The rows of a part, if they are of this code."""
    try:
        kept = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return msgspec.convert(kept["rows"], list[Compared]) if kept["code"] == code else None


def _parts(options: argparse.Namespace) -> Iterator[Part]:
    for model, pace in itertools.product(options.models, options.pace):
        scenes = options.scenes if model not in _FIXED_SPLIT else SCENES[:1]
        for which in scenes:
            yield Part(model, pace, which, options.hogs, options.reports == "on", options.frames)


def _line(one: Compared) -> str:
    both = "  ".join(
        f"{name} p={found.p:.4f} ({found.feature} {found.difference:+.4g})"
        for name, found in (("choices", one.choices), ("times", one.times))
    )
    return f"{one.part.name} {one.kind:11} requests {one.requests}  load {one.load}  {both}"


def table(results: Sequence[Compared]) -> str:
    """All parts in Markdown, a row each."""
    columns = ["model", "pace, scene, busy processes", "requests of a kind", "p of choices: other kinds; noise"]
    columns += ["p of departures: other kinds; noise", "told apart by one departure"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for part, rows in itertools.groupby(results, key=lambda one: one.part):
        found = sorted(rows, key=lambda one: one.kind == _AGAINST)
        requests = [count for one in found for count in one.requests]
        ps = ["; ".join((", ".join(f"{getattr(one, which).p:.2g}" for one in found if one.kind != _AGAINST),
                         *(f"{getattr(one, which).p:.2g}" for one in found if one.kind == _AGAINST)))
              for which in ("choices", "times")]  # fmt: skip
        apart = ", ".join(
            f"{one.kind} {one.per_frame.value:.2f} [{one.per_frame.low:.2f}, {one.per_frame.high:.2f}]"
            for one in found
            if one.per_frame is not None
        )
        lines.append(
            f"| {part.model} | {part.pace}, {part.scene}, {part.hogs} | {min(requests):,} to {max(requests):,} "
            f"| {ps[0]} | {ps[1]} | {apart or '-'} |"
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
    parser.add_argument("--frames", type=int, default=2000, help="of each kind in each part (2000)")
    parser.add_argument("--models", nargs="+", choices=models, default=models)
    parser.add_argument("--pace", nargs="+", choices=("free", "fixed"), default=("free", "fixed"))
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=SCENES)
    parser.add_argument("--hogs", type=int, default=0, help="busy processes beside (0)")
    parser.add_argument("--reports", choices=("on", "off"), default="off", help="whether the device reports (off)")
    parser.add_argument("--keep", type=Path, default=bundles.BUILD / "server_view", help="folder of parts' rows")
    parser.add_argument("--kept", action="store_true", help="play nothing: all parts that are kept of this code")
    parser.add_argument("--json", action="store_true", help="each row as a line of JSON")
    options = parser.parse_args(arguments)
    code = _code_digest()
    results: list[Compared] = []
    with tempfile.TemporaryDirectory() as made:
        bundle_of = _models(Path(made))
        paths = sorted(options.keep.glob("*.json")) if options.kept else []
        for path in paths:
            results += _kept(path, code) or []
        for number, part in enumerate(() if options.kept else _parts(options)):
            path = options.keep / f"{part.name}.json"
            rows = _kept(path, code)
            if rows is None:
                rows = _played(*bundle_of[part.model](), part, Path(made) / str(number))
                kept = {"code": code, "rows": msgspec.to_builtins(rows)}
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, json.dumps(kept).encode())
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
