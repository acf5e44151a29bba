"""The summary that ``split-model prepare`` prints: cuts, size, omissions, and the cost of allocations."""

from __future__ import annotations

from pathlib import Path

from split_model.bundle import Bundle, Manifest, NoiseTail, evaluation
from split_model.prepare.calibrate import allocators
from split_model.prepare.codebook import codebooks
from split_model.prepare.evaluate.prepared_text import render_prepared
from split_model.prepare.tflite.cuts import find_cuts, front
from split_model.prepare.tflite.shapes import open_model


def summarise(bundle: Bundle) -> str:
    """Several lines for a terminal."""
    manifest = bundle.manifest
    lines = [
        f"{bundle.root}: {manifest.name}, bundle {bundle.identity[:12]}",
        f"{'cut':>5}  {'values':>8}  {'raw bytes':>9}  {'head MACs':>9}  tensors",
    ]
    for cut in manifest.cuts:
        names = ", ".join(f"{t.dtype}{list(t.shape)}" for t in cut.tensors)
        share = cut.head_macs / max(1, manifest.macs)
        lines.append(f"{cut.index:5d}  {cut.values:8d}  {cut.raw_bytes:9d}  {share:9.1%}  {names}")
    size = sum(ref.size_bytes for ref in manifest.files())
    lines.append(f"{len(manifest.cuts)} cuts, {size / 1e6:.1f} MB in all; 'local' is always possible")
    lines += left_out_lines(manifest)
    known = {cut.index for cut in manifest.cuts} | {left.index for left in manifest.left_out}
    lines.append(_left_out(bundle.path(manifest.model), known, useless=len(manifest.left_out)))
    if all(cut.calibration is None for cut in manifest.cuts):
        others = "'codebook' and 'none'" if any(cut.codebooks for cut in manifest.cuts) else "'none'"
        lines.append(f"no calibration: only release.mechanism = {others} can use this bundle")
    if tried := allocators.render(manifest.cuts):
        lines.append(tried)
    if rendered := codebooks.render(manifest.cuts):
        lines.append(rendered)
    if figures := render_prepared(evaluation.load(bundle), manifest.cuts):
        lines.append(figures)
    for cut in manifest.cuts:
        if cut.noise_tails:
            epsilons = " and ".join(f"{noisy.epsilon:g}{_auto(noisy)}" for noisy in cut.noise_tails)
            lines.append(f"cut {cut.index}: noise-aware tails for a mean per-value epsilon of {epsilons}")
    return "\n".join(lines)


def _auto(noisy: NoiseTail) -> str:
    return "" if noisy.allocation is None else f" (auto: {noisy.allocation.best})"


def left_out_lines(manifest: Manifest) -> tuple[str, ...]:
    """A line for each reason for which cuts were left out of a bundle."""
    reasons: dict[str, list[str]] = {}
    for left in manifest.left_out:
        reasons.setdefault(left.reason, []).append(str(left.index))
    return tuple(
        f"cut{'s' if len(cuts) > 1 else ''} {', '.join(cuts)} left out: {reason}"
        for reason, cuts in reasons.items()
    )


def _left_out(model: Path, taken: set[int], *, useless: int) -> str:
    """The cuts that a bundle does not offer, and the option to get them."""
    legal = find_cuts(open_model(model, try_it=False).graph).legal
    rest = [cut for cut in legal if cut.index not in taken]
    if not rest:
        return "every other legal cut is in it" if useless else "every legal cut is in it"
    lean = [str(cut.index) for cut in front(legal) if cut.index not in taken]
    what = f"on the Pareto front of them: {', '.join(lean)}" if lean else "none of them on the Pareto front"
    return f"left out: {len(rest)} of {len(legal)} legal cuts, {what}; --cuts takes others"
