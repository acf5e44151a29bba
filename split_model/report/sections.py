"""The report's text and tables as HTML; everything that comes from the log is escaped here."""

from __future__ import annotations

from html import escape

from split_model.report.figures import (
    compared,
    count,
    epsilon,
    epsilon_range,
    kilobytes,
    milliseconds,
    percent,
)
from split_model.report.log import Policy, Privacy, RunLog
from split_model.report.summary import OUTCOMES, Summary

LINK_CAPTION = (
    "Above: what the emulated uplink could carry, and what the board believed when it answered a frame. "
    "Beneath: where the network was cut, and how each frame was finished."
)
LATENCY_CAPTION = (
    "From the picture to its answer. The best fixed split is the one with the lowest mean on this very trace, "
    "known only in hindsight."
)
SHARE_CAPTION = "Left: further left is faster. Right: mean payload over all frames, local ones included."
LITTLE_PROTECTION = 100.0
"""A whole-input ε from here on is said to protect little: e to that power bounds nothing in practice."""


def header(log: RunLog) -> str:
    """Return the page's head: bundle, trace and time of the run."""
    run = log.run
    told = [f"bundle <b>{escape(run.bundle)}</b>", f"trace <b>{escape(run.trace)}</b>", escape(run.started)]
    return f'<header><h1>{escape(run.title)}</h1><p class="muted">{" · ".join(told)}</p></header>'


def hero(log: RunLog) -> str:
    """Return the headline figures."""
    compare = _compared_policies(log)
    name, ours = compare[0][0].name, log.summaries[compare[0][0].name]
    others = [
        f"{compared(ours['latency_mean_s'], log.summaries[policy.name]['latency_mean_s'])} {escape(text)}"
        for policy, text, _ in compare[1:]
    ]
    verdict = f"<b>{escape(name)}</b> answered in <b>{milliseconds(ours['latency_mean_s'])}</b> on average"
    verdict += f": {', and '.join(others)}." if others else "."
    cards = [_latency_card(log, compare, key, title) for key, title in _LATENCIES]
    return (
        f'<section><p class="verdict">{verdict}</p><div class="cards three">{"".join(cards)}</div>'
        f'<div class="cards four">{"".join(_fact_cards(log, compare[0][0], ours))}</div></section>'
    )


_LATENCIES = (
    ("latency_mean_s", "Mean latency"),
    ("latency_p50_s", "Median latency (p50)"),
    ("latency_p95_s", "95th percentile (p95)"),
)


def _compared_policies(log: RunLog) -> list[tuple[Policy, str, str]]:
    """The policies of the headline with their text and colour, ours first."""
    chosen = [(policy, policy.name, "adaptive") for policy in log.of_role("adaptive")[:1]]
    chosen += [(policy, policy.name, "local") for policy in log.of_role("local")[:1]]
    chosen += [(policy, f"the best fixed split ({policy.name})", "fixed") for policy in log.of_role("fixed")[:1]]
    return chosen


def _latency_card(log: RunLog, compare: list[tuple[Policy, str, str]], key: str, title: str) -> str:
    values: list[float | None] = [dict(log.summaries[policy.name])[key] for policy, _, _ in compare]  # type: ignore[misc]  # the keys of _LATENCIES are floats or None
    longest = max((value for value in values if value is not None), default=0.0) or 1.0
    bars = "".join(
        f'<div class="bar"><span class="barname">{escape(policy.name)}</span><span class="track">'
        f'<span class="fill" style="width:{(value or 0.0) / longest * 100:.1f}%;background:var(--{colour})"></span>'
        f'</span><span class="barvalue">{milliseconds(value)}</span></div>'
        for (policy, _, colour), value in zip(compare, values, strict=True)
    )
    return f'<div class="card"><h3>{title}</h3><div class="big">{milliseconds(values[0])}</div>{bars}</div>'


def _fact_cards(log: RunLog, policy: Policy, ours: Summary) -> list[str]:
    frames = log.frames[policy.name]
    labelled = sum(frame.truth is not None for frame in frames)
    judged = sum(frame.unprotected_top1 is not None for frame in frames)
    splits = {frame.split: frame.split_label for frame in frames if frame.outcome != "failed"}
    outcomes = [
        f"{ours['counts'].get(outcome, 0)} {outcome}"
        for outcome in OUTCOMES
        if ours["counts"].get(outcome, 0) or outcome != "failed"
    ]
    return [
        _fact("Agreement", percent(ours["agreement"]), f"first label as the unprotected model's, {judged} frames"),
        _fact(
            "Agreement, offloaded",
            percent(ours["agreement_offloaded"]),
            f"the same of the {ours['counts'].get('offloaded', 0)} frames that the server answered",
        ),
        _fact("Accuracy", percent(ours["accuracy"]), f"first label true, {labelled} frames with a label"),
        _fact("Sent per frame", kilobytes(ours["bytes_per_frame"]), "mean over all frames, local ones included"),
        _fact(
            "Split points used",
            str(len(splits)),
            escape(", ".join(splits[split] for split in sorted(splits))) + f"<br>{', '.join(outcomes)}",
        ),
    ]


def _fact(title: str, big: str, small: str) -> str:
    return f'<div class="card"><h3>{title}</h3><div class="big">{big}</div><div class="small">{small}</div></div>'


def emulated(log: RunLog) -> str:
    """Return what in this run is not the real thing, or nothing when all of it is."""
    if not log.run.emulated:
        return ""
    parts = "".join(f"<li>{escape(part)}</li>" for part in log.run.emulated)
    return f'<section class="callout"><h2>Emulated in this run</h2><ul>{parts}</ul></section>'


def privacy(log: RunLog) -> str:
    """Return both kinds of ε with their units and their meaning."""
    release, rows = log.run.release, log.run.privacy
    if release is None and not rows:
        return (
            '<section class="callout"><h2>Privacy</h2><p>The log tells of no release: '
            "take the features as sent unprotected.</p></section>"
        )
    told = ""
    if release is not None:
        settings = [f"mechanism <b>{escape(release.mechanism)}</b>"]
        settings += (
            [f"budget ε = <b>{epsilon(release.epsilon)}</b> per value, on average"]
            if release.epsilon is not None
            else []
        )
        settings += [f"allocation <b>{escape(release.allocation)}</b>"] if release.allocation else []
        settings += [f"<b>{release.bits}</b> bits a value"] if release.bits is not None else []
        told = f'<p class="muted">Set for this run: {" · ".join(settings)}</p>'
    largest = [row.per_value_epsilon_max for row in rows]
    mean = epsilon_range([row.per_value_epsilon_mean for row in rows])
    whole = [row.whole_input_epsilon for row in rows]
    cards = _fact("Per-value ε", epsilon_range(largest), f"per feature value, largest over channels; mean {mean}")
    cards += _fact("Whole-input ε", epsilon_range(whole), "per frame that is offloaded; frames add up")
    return (
        f'<section><h2>Privacy</h2>{told}<div class="cards two">{cards}</div>'
        f"<p>{_meaning(whole)}</p>{_privacy_table(rows)}</section>"
    )


def _meaning(whole: list[float | None]) -> str:
    text = (
        "<b>Per-value ε</b> is the unit of the paper this follows: each feature value is protected by itself. "
        "<b>Whole-input ε</b> is the actual local-differential-privacy guarantee, any frame replaced by any other, "
        "and is the sum over all values of the frame. "
    )
    known = [value for value in whole if value is not None]
    if known and min(known) >= LITTLE_PROTECTION:
        text += (
            f"At {epsilon(min(known))} and more it <b>guarantees next to nothing</b> about a frame as a whole: "
            "the noise hides single values, it is no proof that the picture cannot be made out."
        )
    return text


def _privacy_table(rows: list[Privacy]) -> str:
    lines = "".join(
        f"<tr><td>cut {row.cut}{'' if row.cut else ' (the input itself)'}</td><td>{count(row.values)}</td>"
        f"<td>{kilobytes(row.payload_bytes)}</td><td>{epsilon(row.per_value_epsilon_max)}</td>"
        f"<td>{epsilon(row.per_value_epsilon_mean)}</td><td>{epsilon(row.whole_input_epsilon)}</td>"
        f"<td>{escape(row.seen or 'not audited')}</td></tr>"
        for row in rows
    )
    heads = ("", "values", "payload", "per-value ε, largest", "per-value ε, mean", "whole-input ε, per frame")
    return _table((*heads, "a server sees"), lines) if rows else ""


def policies_table(log: RunLog) -> str:
    """Return every policy's figures."""
    best = [policy.name for policy in log.of_role("fixed")[:1]]
    lines = "".join(
        _policy_row(policy, log.summaries[policy.name], policy.name in best)
        for policy in log.policies
        if policy.name in log.summaries
    )
    heads = ("policy", "frames", "mean", "p50", "p95", "sent/frame", "agreement", "accuracy", *OUTCOMES)
    return f"<section><h2>All policies</h2>{_table(heads, lines)}</section>"


def _policy_row(policy: Policy, summary: Summary, best: bool) -> str:
    name = escape(policy.name) + (' <span class="tag best">best fixed</span>' if best else "")
    cells = [
        name,
        count(summary["frames"]),
        milliseconds(summary["latency_mean_s"]),
        milliseconds(summary["latency_p50_s"]),
        milliseconds(summary["latency_p95_s"]),
        kilobytes(summary["bytes_per_frame"]),
        percent(summary["agreement"]),
        percent(summary["accuracy"]),
        *(count(summary["counts"].get(outcome, 0)) for outcome in OUTCOMES),
    ]
    row = ' class="ours"' if policy.role == "adaptive" else ""
    return f"<tr{row}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def decisions(log: RunLog) -> str:
    """Return every switch of the split point, folded away; nothing when none is in the log."""
    if not log.decisions:
        return ""
    names = {frame.split: frame.split_label for frames in log.frames.values() for frame in frames}
    lines = "".join(
        f"<tr><td>{escape(decision.policy)}</td><td>{decision.at_s:.1f} s</td>"
        f"<td>{escape(names.get(decision.from_split, str(decision.from_split)))}</td>"
        f"<td>{escape(names.get(decision.to_split, str(decision.to_split)))}</td>"
        f'<td class="why">{escape(decision.why)}</td></tr>'
        for decision in log.decisions
    )
    table = _table(("policy", "at", "from", "to", "why"), lines)
    return f"<section><details><summary>Every switch ({len(log.decisions)})</summary>{table}</details></section>"


def footer(log: RunLog, unread: int) -> str:
    """Return machine, versions, definitions, and what the report had to leave out."""
    notes = [escape(note) for note in log.run.notes]
    if unread:
        notes.append(f"{unread} photographs could not be read, and are shown as 'no picture'.")
    if log.unknown:
        notes.append(f"{log.unknown} lines of the log are of a kind this report does not know; they are left out.")
    notes.append("Latency is over frames with an answer; percentiles by nearest rank.")
    notes.append("Failed frames count as wrong in agreement and accuracy. kB is 1000 bytes. Every ε is rounded up.")
    versions = ", ".join(f"{escape(name)} {escape(str(value))}" for name, value in log.run.versions.items())
    lines = "".join(f"<p>{note}</p>" for note in notes)
    machine = f"Machine: {escape(log.run.machine)}. {versions}"
    return f"<footer>{lines}<p>{machine}</p></footer>"


def _table(heads: tuple[str, ...], lines: str) -> str:
    head = "".join(f"<th>{cell}</th>" for cell in heads)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'
