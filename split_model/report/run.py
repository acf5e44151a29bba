"""Draws a run's log as a page: the policies side by side, the link, the split point, every photograph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from split_model.report.figures import compared
from split_model.report.log import Policy, RunLog
from split_model.report.page import Plot, plot, render_page
from split_model.report.style import LIGHT
from split_model.report.summary import OUTCOMES

LINK_CAPTION = "Above: {uplink}. Below: the split point of each frame, and how it was finished."
TRUE_UPLINK = "the capacity of the emulated uplink, and the board's estimate of it when it answered a frame"
ESTIMATED_UPLINK = "the uplink as the board estimated it when it answered a frame"
LATENCY_CAPTION = (
    "From the picture to its answer. The best fixed split is the one with the lowest mean on this very trace, "
    "known only in hindsight."
)
SHARE_CAPTION = "Left: further left is faster. Right: mean payload over all frames, local ones included."
LITTLE_PROTECTION = 100.0
"""A whole-input ε from here on is said to protect little: e to that power bounds nothing in practice."""

_LATENCIES = (
    ("latency_mean_s", "Mean latency"),
    ("latency_p50_s", "Median latency (p50)"),
    ("latency_p95_s", "95th percentile (p95)"),
)


def render(log: RunLog, folder: Path) -> str:
    """Return the page of a run whose photographs lie in ``folder``."""
    from split_model.report.gallery import photographs

    headline = _headline(log)
    ours = headline[0][0]
    policies = log.of_role("adaptive") or [policy for policy in log.policies if log.frames[policy.name]]
    shown, unread = photographs(log.frames[policies[0].name], folder)
    return render_page(
        "run.html",
        log.run.title,
        run=log.run,
        ours=_ours(log, ours),
        compared=_compared(log, headline),
        latencies=[_latency(log, headline, key, title) for key, title in _LATENCIES],
        little_protection=_little_protection(log),
        plots=_plots(log),
        outcome_names=list(OUTCOMES),
        policies=_policies(log),
        decisions=_decisions(log),
        shown=policies[0].name,
        photographs=shown,
        notes=_notes(log, unread),
    )


def _headline(log: RunLog) -> list[tuple[Policy, str, str]]:
    """The policies of the headline with their text and colour, ours first."""
    chosen = [(policy, policy.name, "adaptive") for policy in log.of_role("adaptive")[:1]]
    chosen += [(policy, policy.name, "local") for policy in log.of_role("local")[:1]]
    chosen += [(policy, f"the best fixed split ({policy.name})", "fixed") for policy in log.of_role("fixed")[:1]]
    return chosen


def _ours(log: RunLog, policy: Policy) -> dict[str, Any]:
    frames, summary = log.frames[policy.name], log.summaries[policy.name]
    splits = {frame.split: frame.split_label for frame in frames if frame.outcome != "failed"}
    counts = summary["counts"]
    return {
        "name": policy.name,
        "summary": summary,
        "labelled": sum(frame.truth is not None for frame in frames),
        "judged": sum(frame.unprotected_top1 is not None for frame in frames),
        "splits": [splits[split] for split in sorted(splits)],
        "outcomes": [f"{counts[o]:,} {o}" for o in OUTCOMES if counts.get(o, 0)],
    }


def _compared(log: RunLog, headline: Sequence[tuple[Policy, str, str]]) -> list[str]:
    mean_s = log.summaries[headline[0][0].name]["latency_mean_s"]
    return [
        f"{compared(mean_s, log.summaries[policy.name]['latency_mean_s'])} {text}"
        for policy, text, _ in headline[1:]
    ]


def _latency(log: RunLog, headline: Sequence[tuple[Policy, str, str]], key: str, title: str) -> dict[str, Any]:
    values: list[float | None] = [dict(log.summaries[policy.name])[key] for policy, _, _ in headline]  # type: ignore[misc]  # the keys of _LATENCIES are floats or None
    longest = max((value for value in values if value is not None), default=0.0) or 1.0
    bars = [
        {
            "name": policy.name,
            "colour": colour,
            "seconds": value,
            "width": f"{(value or 0.0) / longest * 100:.1f}",
        }
        for (policy, _, colour), value in zip(headline, values, strict=True)
    ]
    return {"title": title, "bars": bars}


def _little_protection(log: RunLog) -> float | None:
    """The smallest whole-input ε of the run where even that protects little, else None."""
    known = [row.whole_input_epsilon for row in log.run.privacy if row.whole_input_epsilon is not None]
    return min(known) if known and min(known) >= LITTLE_PROTECTION else None


def _plots(log: RunLog) -> list[Plot]:
    from split_model.report import plots

    uplink = TRUE_UPLINK if log.link else ESTIMATED_UPLINK
    latency = LATENCY_CAPTION if log.of_role("fixed") else "From the picture to its answer."
    drawn = (
        (plots.link_and_split, 5.2, "The link and the split point", LINK_CAPTION.format(uplink=uplink)),
        (plots.latency_over_time, 3.9, "Latency of every frame", latency),
        (plots.distribution_and_bytes, 3.7, "Distribution of latency, and bytes sent", SHARE_CAPTION),
    )
    return [
        plot(heading, caption, plots.svg(draw, log, LIGHT, height_in))
        for draw, height_in, heading, caption in drawn
    ]


def _policies(log: RunLog) -> list[dict[str, Any]]:
    best = [policy.name for policy in log.of_role("fixed")[:1]]
    return [
        {
            "name": policy.name,
            "role": policy.role,
            "best": policy.name in best,
            "summary": log.summaries[policy.name],
        }
        for policy in log.policies
        if policy.name in log.summaries
    ]


def _decisions(log: RunLog) -> list[dict[str, Any]]:
    names = {frame.split: frame.split_label for frames in log.frames.values() for frame in frames}
    return [
        {
            "policy": decision.policy,
            "at_s": decision.at_s,
            "moved_from": names.get(decision.from_split, str(decision.from_split)),
            "moved_to": names.get(decision.to_split, str(decision.to_split)),
            "why": decision.why,
        }
        for decision in log.decisions
    ]


def _notes(log: RunLog, unread: int) -> list[str]:
    """Definitions, and everything that the report had to leave out."""
    notes = list(log.run.notes)
    if unread:
        notes.append(f"{unread} photographs could not be read, and are shown as 'no picture'.")
    if log.unknown:
        notes.append(f"{log.unknown} lines of the log are of a kind this report does not know; they are left out.")
    return [
        *notes,
        "Latency is over frames with an answer; percentiles by nearest rank.",
        "Failed frames count as wrong in agreement and accuracy. kB is 1000 bytes. Every ε is rounded up.",
    ]
