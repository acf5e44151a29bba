"""The report of `adaptive`: claims and tables of the scenes that were played."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.adaptive.simulator.comparison import FORESIGHT_S, Compared

MEAN_GOAL, P95_GOAL, SINGLE_SIDE_GOAL = 1.10, 1.25, 1.03
#: A claim on the oracle's latency is made where it uses at least this many splits, each for a tenth of the frames.
MOVING_SPLITS = 3
#: Our own program with knowledge that it cannot have: the capacity of this moment, or of the time to come.
KNOWING = ("ours, knowing the rate", *(f"ours, seeing {s:g} s" for s in FORESIGHT_S))
#: Columns of the tables, and whose figures they hold.
_OURS = {
    "hedged": "ours, hedged",
    "anew": "ours, anew",
    "knowing": KNOWING[0],
    **{f"sees {s:g} s": f"ours, seeing {s:g} s" for s in FORESIGHT_S},
}
_OTHERS = {
    "perfect rate": "perfect rate",
    "last sample": "last sample",
    "static": "static",
    "edge-only": "edge-only",
    "cloud-only": "cloud-only",
    "permitted": "cloud-only as permitted",
    "JPEG": "JPEG-then-cloud",
}
LEGEND = """\
mean/p95 latency in ms; x: ours over the oracle's; * the oracle uses three or more splits, each for a tenth or more
hedged: ours with planner.hedge = true; anew: with device.local_tail_memory_mb = 0, local runs begin anew;
knowing, sees: ours, knowing the present capacity, or the mean of the time to come; last, static: ours,
believing the newest sample, or one measured at the start; perfect rate: knows the present capacity, hysteresis,
no local rescue;
cloud-only, JPEG: the raw input, unprotected; permitted: always the earliest cut offered, no rescue;
probes: share of the link; extra: local runs beside a transfer, per frame"""


def claims(results: Sequence[Compared]) -> list[dict[str, Any]]:
    """Return the goals, scene by scene. A missed goal also has the figure of a policy that knows the future."""
    return [claim for result in results for claim in _scene_claims(result)]


def _scene_claims(result: Compared) -> list[dict[str, Any]]:
    name = result.setting.name + (" (held out)" if result.setting.held_out else "")
    made = []
    if len(result.used) >= MOVING_SPLITS:
        for goal, p95 in ((MEAN_GOAL, False), (P95_GOAL, True)):
            made.append(
                _claim(result, f"{name}: {'p95' if p95 else 'mean'} over the oracle's", "oracle", goal, p95=p95)
            )
    for cloud in ("cloud-only", "cloud-only as permitted"):
        side = result.better("edge-only", cloud)
        against = f"{name}: mean over the better of edge-only and {cloud}"
        made.append(_claim(result, against, side, SINGLE_SIDE_GOAL))
    made.append(_claim(result, f"{name}: mean over that of 'perfect rate'", "perfect rate", 1.0))
    return made


def _claim(result: Compared, name: str, to: str, goal: float, *, p95: bool = False) -> dict[str, Any]:
    """``beside``: the same ratio of those who know more. It is out of reach if none of them gets there who knows no
    more than the present, which nobody knows better, or if the future does not help either.
    """
    strict = goal == 1.0

    def met(value: float) -> bool:
        return value < goal if strict else value <= goal

    value = result.ratio("ours", to, p95=p95)
    made: dict[str, Any] = {
        "name": name,
        "value": round(value, 3),
        "goal": f"{'<' if strict else '<='} {goal:g}",
        "holds": met(value),
    }
    if not met(value):
        beside = {policy: result.ratio(policy, to, p95=p95) for policy in (*KNOWING, "oracle")}
        made["beside"] = {policy: round(ratio, 3) for policy, ratio in beside.items()}
        made["not_causally_reachable"] = not met(beside[KNOWING[0]])
    return made


def missed(made: Sequence[Mapping[str, Any]]) -> str:
    """Return one line per claim that does not hold, with its figures."""
    lines = []
    for claim in made:
        if claim["holds"]:
            continue
        beside = ", ".join(f"{policy} {value:.3f}" for policy, value in claim["beside"].items())
        verdict = "; not causally reachable" if claim["not_causally_reachable"] else ""
        lines.append(f"- {claim['name']}: {claim['value']:.3f}, goal {claim['goal']} ({beside}{verdict})")
    return "\n".join(lines) or "- none"


def table(results: Sequence[Compared]) -> str:
    """One line a scene, for a terminal."""
    head = ["scene", "oracle", "ours", "x mean", "x p95", *_OURS, *_OTHERS, "best fixed", "probes", "extra"]
    rows = [head]
    for held_out in (False, True):
        chosen = [r for r in results if r.setting.held_out == held_out]
        if chosen:
            rows.append(["held out of all tuning:" if held_out else "used in tuning:"] + [""] * (len(head) - 1))
        rows += [
            [
                ("* " if len(r.used) >= MOVING_SPLITS else "  ") + r.setting.name,
                *_own(r),
                *_cells(r, _OTHERS),
                _best_fixed(r),
                f"{r.probe_share:.1%}",
                _extra(r),
            ]
            for r in chosen
        ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join([LEGEND, *(line.rstrip() for line in lines)])


def markdown(results: Sequence[Compared]) -> str:
    """Three tables for the documentation: ours and the oracle; the others; answers a second, back-to-back."""
    ours = [["", "scene", "oracle", "ours", "mean x", "p95 x", *_OURS, "extra"]]
    others = [["scene", "ours", *_OTHERS, "best fixed"]]
    for result in results:
        name = result.setting.name + (" (held out)" if result.setting.held_out else "")
        star = "\\*" if len(result.used) >= MOVING_SPLITS else ""
        ours.append([star, name, *_own(result), _extra(result)])
        others.append([name, _cell(result, "ours"), *_cells(result, _OTHERS), _best_fixed(result)])
    pace = [["scene", "one at a time", "ours", "slowest stage", "latency x"], *_paces(results)]
    return "\n\n".join("\n".join(_lines(rows)) for rows in (ours, others, pace))


def _paces(results: Sequence[Compared]) -> list[list[str]]:
    """Answers a second of the back-to-back scenes, and ours' mean latency over that of one frame at a time."""
    return [
        [
            result.setting.name + (" (held out)" if result.setting.held_out else ""),
            *(f"{value:.2f}" for value in (found.alone, found.ours, found.bound)),
            f"{result.runs['ours'].mean_s / found.alone_mean_s:.3f}",
        ]
        for result in results
        if (found := result.answers_s) is not None
    ]


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def _own(result: Compared) -> list[str]:
    return [
        _cell(result, "oracle"),
        _cell(result, "ours"),
        f"{result.ratio('ours', 'oracle'):.3f}",
        f"{result.ratio('ours', 'oracle', p95=True):.2f}",
        *_cells(result, _OURS),
    ]


def _cells(result: Compared, columns: Mapping[str, str]) -> list[str]:
    return [_cell(result, policy) for policy in columns.values()]


def _cell(result: Compared, policy: str) -> str:
    run = result.runs[policy]
    return f"{run.mean_s * 1e3:.0f}/{run.p95_s * 1e3:.0f}"


def _best_fixed(result: Compared) -> str:
    return f"{result.best_fixed.removeprefix('fixed ')}: {_cell(result, result.best_fixed)}"


def _extra(result: Compared) -> str:
    ours = result.runs["ours"]
    return f"{ours.background_runs / max(1, len(ours.rows)):.1%}"


def as_plain(result: Compared) -> dict[str, Any]:
    """One scene for ``--json``; seconds."""
    return {
        "scene": result.setting.name,
        "held_out": result.setting.held_out,
        "oracle_uses": list(result.used),
        "best_fixed": result.best_fixed,
        "probe_share_of_link": result.probe_share,
        "answers_s": None if result.answers_s is None else asdict(result.answers_s),
        "policies": {
            name: {
                "mean_s": run.mean_s if run.rows else None,
                "p95_s": run.p95_s if run.rows else None,
                "frames": len(run.rows),
                "splits": {str(s): run.share(s) for s in sorted({row.split for row in run.rows})},
                "background_runs": run.background_runs,
                "fallbacks": sum(row.outcome == "fallback" for row in run.rows),
            }
            for name, run in result.runs.items()
        },
    }
