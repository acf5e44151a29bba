"""What a server sees of two kinds of frames that differ as much as can be: it must not tell them apart.

    python -m benchmarks.privacy.server_view [--json] [--frames N] [--models NAME ...] [--pace ...] [--scenes ...]
    python -m benchmarks.privacy.server_view --of FILE ...     the claims of runs whose output was kept

Kinds: constant, denormal, photographs (of EfficientNet-Lite0 only), each beside noise; noise beside noise tells
what the tests find where there is nothing. They are played as in `view_play`, ``--frames`` of each kind in each of
two scenes: ``near``, in which nearly every frame is sent, and ``edge``, in which a load that was believed to be
higher for one kind would show at once, since sending would seem faster.

Three tests of each comparison (`blocks`): cut, size, order and number (choices), departure times, and what the
device says in its reports. All
comparisons of a pace are one family: Holm's method finds any difference, where there is none, in one run of a
hundred. Under ``pace = "fixed"`` both must find nothing; under ``free`` a release leaves when its head is done, and
what that tells is given as a figure (`departures`). With all models this takes an hour and a half.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.demo.prepared import PHOTOGRAPHS, prepare_all
from benchmarks.privacy import bundles, departures, pow_model
from benchmarks.privacy.blocks import (
    CHOICES,
    REPORTS,
    TIMES,
    Block,
    Found,
    choices,
    departures_s,
    differs,
    rejected,
    said,
    times,
)
from benchmarks.privacy.departures import Accuracy
from benchmarks.privacy.view_play import SCENES, Pair, kinds, opened, play, scene
from benchmarks.privacy.view_server import Seen, ViewServer
from edge_runtime.daemon.device import Device
from split_model.arrays import Array
from split_model.bundle import Bundle
from split_model.features.data import open_data
from split_model.protocol.messages import Report

_LEVEL = 0.01
#: A local run of the fashion model takes a fraction of a millisecond: left to itself the device would send nothing.
#: In slots nothing of the model with POW would be sent on a busy machine, and no departures could be compared.
_FIXED_SPLIT = {("fashion", "free"): 7, ("fashion", "fixed"): 7, ("powers", "fixed"): 120}
Photographs = Sequence[tuple[Array, ...]]


class Compared(msgspec.Struct, frozen=True):
    """One kind of frames beside noise, of one model, pace and scene; ``requests``: of each kind."""

    model: str
    pace: str
    scene: str
    kind: str
    frames: int
    requests: tuple[int, int]
    choices: Found
    times: Found
    reports: Found | None = None
    per_frame: Accuracy | None = None
    per_hundred: Accuracy | None = None


def compare(
    device: Device, server: ViewServer, pair: Pair, *, name: str, frames: int, **options: Any
) -> list[tuple[Block, Block]]:
    """Play two kinds in a scene; the pairs of blocks."""
    return play(device, server, pair, scene(name, device, pair), frames=frames, **options)


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


def found_in_reports(pairs: Sequence[tuple[Block, Block]], reports: Sequence[tuple[float, Report]]) -> Found:
    """What the test finds in what the device says of itself."""
    table = np.array([[said(block, reports) for block in both] for both in pairs])
    return differs(table[:, 0], table[:, 1], REPORTS)


def _within(both: tuple[Block, Block], one: Seen) -> bool:
    return min(b.due_s[0] for b in both) <= one.at_s < max(b.end_s for b in both)


def claims(results: Sequence[Compared]) -> list[dict[str, Any]]:
    """A/B no more often than A/A; departure times only where the pace is fixed."""
    made = []
    for pace in dict.fromkeys(one.pace for one in results):
        for which in ("choices", "times", "reports"):
            if which == "times" and pace == "free":
                continue
            mine = [one for one in results if one.pace == pace and getattr(one, which) is not None]
            if not mine:  # rows of before there were reports
                continue
            ps = {same: [getattr(one, which).p for one in mine if (one.kind == "noise") == same]
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
        "powers": lambda: (pow_model.prepared(folder / "powers"), ()),
    }


def _measured(
    models: Sequence[str],
    paces: Sequence[str],
    scenes: Sequence[str],
    frames: int,
    tell: Callable[[Compared], None],
) -> None:
    with tempfile.TemporaryDirectory() as made:
        for name in models:
            bundle, photographs = _models(Path(made))[name]()
            makers = kinds(bundle, photographs=photographs)
            for pace in paces:
                folder, split = Path(made) / f"{name}-{pace}", _FIXED_SPLIT.get((name, pace))
                with opened(bundle, folder, pace=pace, split=split) as (device, server):
                    for which in scenes if split is None else SCENES[:1]:
                        for kind, maker in makers.items():
                            pairs = compare(device, server, (maker, makers["noise"]), name=which, frames=frames)
                            first, second, requests, frame, hundred = found_in(pairs, list(server.seen))
                            third = found_in_reports(pairs, list(server.reports))
                            server.seen.clear()
                            server.reports.clear()
                            row = Compared(
                                name, pace, which, kind, frames, requests, first, second, third, frame, hundred
                            )
                            tell(row)


def _kept(path: Path) -> list[Compared]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [row for line in lines if '"rows"' in line
            for row in msgspec.convert(json.loads(line)["rows"], list[Compared])]  # fmt: skip


def _line(one: Compared) -> str:
    both = "  ".join(
        f"{name} p={found.p:.4f} ({found.feature} {found.difference:+.4g})"
        for name, found in (("choices", one.choices), ("times", one.times), ("reports", one.reports))
        if found is not None
    )
    apart = "  ".join(
        "-" if found is None else f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
        for found in (one.per_frame, one.per_hundred)
    )
    return (
        f"{one.model:18} {one.pace:5} {one.scene:4} {one.kind:11} requests {one.requests}  {both}  "
        f"told apart {apart}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the last line is the claims."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.privacy.server_view",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    models = tuple(_models(Path()))
    parser.add_argument("--frames", type=int, default=2000, help="of each kind in each comparison (2000)")
    parser.add_argument("--models", nargs="+", choices=models, default=models)
    parser.add_argument("--pace", nargs="+", choices=("free", "fixed"), default=("free", "fixed"))
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=SCENES)
    parser.add_argument("--of", nargs="+", type=Path, metavar="FILE", help="play nothing: the rows of earlier runs")
    parser.add_argument("--json", action="store_true", help="each row as a line of JSON")
    options = parser.parse_args(arguments)
    results: list[Compared] = []

    def told(one: Compared) -> None:
        results.append(one)
        print(json.dumps({"rows": [msgspec.to_builtins(one)]}) if options.json else _line(one), flush=True)

    if options.of:
        for row in (row for path in options.of for row in _kept(path)):
            told(row)
    else:
        _measured(options.models, options.pace, options.scenes, options.frames, told)
    if options.json:
        facts = {"machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
        print(json.dumps({"machine": facts}))
    print(json.dumps({"claims": claims(results)}))
    return os.EX_OK


if __name__ == "__main__":
    raise SystemExit(main())
