"""Plot uplink, split point and latency over time, of our policy and of the oracle: one picture per trace."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.adaptive.simulator.scene import Row, Run, Scene

_SHOWN_S = 140.0
_DRAWN = {"oracle": "tab:gray", "ours": "tab:blue"}


def draw(title: str, scene: Scene, runs: Mapping[str, Run], path: Path) -> None:
    """Write a PNG of the first minutes of a scene."""
    from matplotlib.figure import Figure

    shown_s = min(_SHOWN_S, scene.trace.duration_s)
    figure = Figure(figsize=(11, 7), layout="constrained")
    uplink, split, latency = figure.subplots(3, 1, sharex=True, height_ratios=(2, 2, 3))
    figure.suptitle(f"{title} (first {shown_s:.0f} s)")
    edges = [edge for edge in scene.trace.edges_s if edge <= shown_s]
    uplink.stairs(scene.trace.mbit_s[: len(edges) - 1], edges, color="tab:gray", label="capacity")
    rows = {name: [row for row in runs[name].rows if row.captured_s <= shown_s] for name in _DRAWN}
    believed = [(row.captured_s, row.believed_mbit_s) for row in rows["ours"] if row.believed_mbit_s is not None]
    uplink.plot(*zip(*believed, strict=True), ".", color="tab:blue", markersize=3, label="believed")
    uplink.set_ylabel("uplink, Mbit/s")
    uplink.legend(loc="upper right")
    names = [timing.split for timing in scene.profile.splits]
    for name, color in _DRAWN.items():
        run = runs[name]
        times = [row.captured_s for row in rows[name]]
        split.step(times, [names.index(row.split) for row in rows[name]], color=color, where="post", label=name)
        label = f"{name}: mean {run.mean_s * 1e3:.0f} ms, p95 {run.p95_s * 1e3:.0f} ms"
        latency.step(times, [row.latency_s * 1e3 for row in rows[name]], color=color, where="post", label=label)
    fallbacks: list[Row] = [row for row in rows["ours"] if row.outcome == "fallback"]
    if fallbacks:
        times = [row.captured_s for row in fallbacks]
        latency.plot(times, [row.latency_s * 1e3 for row in fallbacks], "r.", label="finished here after all")
    split.set_yticks(range(len(names)), [*(f"cut {name}" for name in names[:-1]), "local"])
    split.legend(loc="upper right")
    latency.set_ylabel("latency, ms")
    latency.set_xlabel("time, s")
    latency.set_ylim(top=1.2 * latency.get_ylim()[1])
    latency.legend(loc="upper right", ncols=3)
    figure.savefig(path, dpi=110)
