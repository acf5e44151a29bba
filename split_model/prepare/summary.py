"""The summary that ``split-model prepare`` prints: cuts, size, omissions, and the cost of allocations."""

from __future__ import annotations

from pathlib import Path

from split_model.bundle import Bundle, Manifest, NoiseTail, evaluation
from split_model.prepare.calibrate import allocators
from split_model.prepare.codebook import codebooks
from split_model.prepare.evaluate.prepared_text import prepared_parts
from split_model.prepare.tflite.cuts import find_cuts, front
from split_model.prepare.tflite.shapes import open_model
from split_model.service.terminal_text import counted, size
from split_model.terminal import Part, Table


def summarise(bundle: Bundle) -> list[Part]:
    """Lines and tables for people."""
    manifest = bundle.manifest
    rows = []
    for cut in manifest.cuts:
        tensors = ", ".join(f"{t.dtype}{list(t.shape)}" for t in cut.tensors)
        share = cut.head_macs / max(1, manifest.macs)
        rows.append((str(cut.index), f"{cut.values:,}", size(cut.raw_bytes), f"{share:.1%}", tensors))
    total = sum(ref.size_bytes for ref in manifest.files())
    parts: list[Part] = [
        f"{bundle.root}: {manifest.name}, bundle {bundle.identity[:12]}",
        Table(("cut", "values", "unprotected", "head MACs", "tensors"), rows, left=frozenset({"tensors"})),
        f"{counted(len(manifest.cuts), 'cut')}, {size(total)} in all; 'local' is always possible",
        *left_out_lines(manifest),
    ]
    known = {cut.index for cut in manifest.cuts} | {left.index for left in manifest.left_out}
    parts.append(_left_out(bundle.path(manifest.model), known, useless=len(manifest.left_out)))
    if all(cut.calibration is None for cut in manifest.cuts):
        others = "'codebook' and 'none'" if any(cut.codebooks for cut in manifest.cuts) else "'none'"
        parts.append(f"no calibration: only release.mechanism = {others} can use this bundle")
    for of_release in (
        allocators.parts(manifest.cuts),
        codebooks.lines(manifest.cuts),
        prepared_parts(evaluation.load(bundle), manifest.cuts),
    ):
        parts += ["", *of_release] if of_release else []
    for cut in manifest.cuts:
        if cut.noise_tails:
            epsilons = " and ".join(f"{noisy.epsilon:g}{_auto(noisy)}" for noisy in cut.noise_tails)
            parts.append(f"cut {cut.index}: noise-aware tails for a mean per-value epsilon of {epsilons}")
    return parts


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
