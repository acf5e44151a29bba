"""Finds all legal cuts of a graph, and chooses those to offer.

A cut is an index into the stored op order. Its *live tensors* cross it: activations written before it (or model
inputs) that an op after it, or the model's answer, still needs. Constant-only ops are on the side of their
consumers, or on both sides: they are neither cut points nor traffic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from split_model.bundle.manifest import ITEM_BYTES, TensorSpec
from split_model.prepare.tflite.graph import Graph, Tensor
from split_model.prepare.tflite.macs import op_macs, total_macs

#: Maximum number of live tensors of a useful cut; it also bounds the work on hostile files.
MAX_LIVE = 64
#: For dominated cuts, if the Pareto front has too few: maximum ratio of bytes, and minimum distance to other cuts.
FILL_BYTES = 2.0
FILL_GAP = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class CutPoint:
    """One legal cut: ``live`` are tensor indices in the order of head outputs and tail inputs."""

    index: int
    live: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    raw_bytes: int
    head_macs: int
    tail_macs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cuts:
    """All legal cuts in op order, and the illegal positions: (index, reason)."""

    legal: tuple[CutPoint, ...]
    excluded: tuple[tuple[int, str], ...]


def tensor_spec(tensor: Tensor) -> TensorSpec:
    """Describe a tensor for the manifest; the dtype must be one of `ITEM_BYTES`."""
    return TensorSpec(
        name=tensor.name,
        shape=tensor.shape,
        dtype=tensor.dtype,  # type: ignore[arg-type]  # checked against ITEM_BYTES where cuts are found
        scale=tensor.scale,
        zero_point=tensor.zero_point,
        open_axes=tensor.open_axes,
    )


def find_cuts(graph: Graph) -> Cuts:
    """List the cuts. Positions that differ by ops without effect on the live tensors are listed once, at the first.

    A model output made in the head is live to the end: it is an input and an output of the tail. The live tensors
    of cut 0 are all the model's inputs, in the model's order.
    """
    total = total_macs(graph)
    legal: list[CutPoint] = []
    excluded: list[tuple[int, str]] = []
    for index, live, head_macs in _boundaries(graph):
        if len(live) > MAX_LIVE:
            excluded.append((index, f"{len(live)} tensors are live, over {MAX_LIVE}"))
            continue
        tensors = [graph.tensors[tensor] for tensor in (sorted(live) if index else graph.inputs)]
        reason = "no tensor is live" if not tensors else next(filter(None, map(_why_not, tensors)), None)
        if reason is not None:
            excluded.append((index, reason))
            continue
        legal.append(
            CutPoint(
                index=index,
                live=tuple(tensor.index for tensor in tensors),
                shapes=tuple(tensor.shape for tensor in tensors),
                raw_bytes=sum(tensor.size * ITEM_BYTES[tensor.dtype] for tensor in tensors),
                head_macs=head_macs,
                tail_macs=total - head_macs,
            )
        )
    return Cuts(legal=tuple(legal), excluded=tuple(excluded))


def _boundaries(graph: Graph) -> Iterator[tuple[int, set[int], int]]:
    """Yield (index, live tensors, MACs before it) in op order; the set is reused, so use it at once."""
    last_use = _last_uses(graph)
    counting = [op for op in graph.ops if op.counts]
    dying: dict[int, list[int]] = {}
    for tensor, position in last_use.items():
        dying.setdefault(position, []).append(tensor)
    live = {tensor for tensor in graph.inputs if tensor in last_use}
    head_macs = 0
    if counting:
        yield 0, live, head_macs
    for op in counting[:-1]:  # after the last op a tail would be empty
        live.update(tensor for tensor in op.outputs if tensor in last_use)
        live.difference_update(dying.get(op.index, ()))
        head_macs += op_macs(graph, op)
        yield op.index + 1, live, head_macs


def _last_uses(graph: Graph) -> dict[int, int]:
    """Activation -> index of the last op that reads it; the number of ops for a model output."""
    activations = set(graph.inputs) | {tensor for op in graph.ops if op.counts for tensor in op.outputs}
    last_use = {tensor: op.index for op in graph.ops if op.counts for tensor in op.inputs if tensor in activations}
    last_use |= {tensor: len(graph.ops) for tensor in graph.outputs if tensor in activations}
    return last_use


def _why_not(tensor: Tensor) -> str | None:
    if tensor.dtype not in ITEM_BYTES:
        return f"live tensor {tensor.name!r} is {tensor.dtype}, which no release carries"
    if tensor.open_axes:
        return f"live tensor {tensor.name!r} has a size that depends on the data, which no release carries"
    if not tensor.shape or min(tensor.shape) < 1:
        return f"live tensor {tensor.name!r} has shape {list(tensor.shape)}, which no release carries"
    return None


def front(cuts: Sequence[CutPoint]) -> list[CutPoint]:
    """The Pareto front, by rising head MACs and falling bytes.

    A cut is dominated if another has no more head MACs and no more bytes. Of cuts equal in both, the
    last one whose live tensors have the shapes of the first's is kept: it lies behind the activation
    function, whose narrower range needs less noise, but not behind a reshape that mixes the channels.
    """
    best: list[CutPoint] = []
    for cut in sorted(cuts, key=lambda cut: (cut.head_macs, cut.raw_bytes, cut.index)):
        if not best or cut.raw_bytes < best[-1].raw_bytes:
            best.append(cut)
        elif _twins(best[-1], cut) and cut.head_macs > 0:
            best[-1] = cut
    return best


def _twins(first: CutPoint, second: CutPoint) -> bool:
    return (first.raw_bytes, first.head_macs, first.shapes) == (second.raw_bytes, second.head_macs, second.shapes)


def offered(cuts: Sequence[CutPoint], count: int = 8) -> list[CutPoint]:
    """Choose the cuts to offer, at most ``count``, in op order.

    Candidates are the `front` and cut 0, which sends the input itself. If they are too many: first and
    last stay; half of the other places go to the largest drops in bytes (as a ratio, against the
    candidate before); the rest to those farthest, in MACs, from everything chosen so far.

    If they are too few, the free places go to dominated cuts, because a later one with a few more
    bytes may lose less accuracy under release: those with at most `FILL_BYTES` times the bytes of the
    leanest cut so early (the input aside) and at least `FILL_GAP` of all MACs away from every other;
    each time the one whose distance in MACs, divided by that ratio of bytes, is the largest.
    """
    candidates = front(cuts)
    candidates = [cut for cut in cuts if cut.index == 0 and cut not in candidates] + candidates
    if len(candidates) <= count:
        return sorted(_filled(candidates, cuts, count), key=lambda cut: cut.index)
    chosen = {0, len(candidates) - 1} if count > 1 else {len(candidates) - 1}
    drops = sorted(
        range(1, len(candidates)),
        key=lambda at: math.log(candidates[at].raw_bytes) - math.log(candidates[at - 1].raw_bytes),
    )
    by_drop = len(chosen) + (count - len(chosen) + 1) // 2
    for at in drops:
        if len(chosen) < by_drop:
            chosen.add(at)
    while len(chosen) < count:
        rest = [at for at in range(len(candidates)) if at not in chosen]
        chosen.add(
            max(rest, key=lambda at: min(abs(candidates[at].head_macs - candidates[to].head_macs) for to in chosen))
        )
    return sorted((candidates[at] for at in chosen), key=lambda cut: cut.index)


def _filled(chosen: Sequence[CutPoint], cuts: Sequence[CutPoint], count: int) -> list[CutPoint]:
    """Fill the free places after ``chosen`` with dominated cuts, by the rule of `offered`."""
    taken = list(chosen)
    gap = max(1, math.ceil(FILL_GAP * max((cut.head_macs + cut.tail_macs for cut in cuts), default=0)))
    excess = {cut.index: ratio for cut, ratio in _excess(cuts) if ratio <= FILL_BYTES}
    rest = [cut for cut in cuts if cut.index in excess]

    def distance(cut: CutPoint) -> int:
        return min(abs(cut.head_macs - other.head_macs) for other in taken)

    while len(taken) < count:
        rest = [cut for cut in rest if distance(cut) >= gap]
        if not rest:
            break
        best = max(rest, key=lambda cut: distance(cut) / excess[cut.index])
        taken.append([cut for cut in rest if _twins(best, cut)][-1])
    return taken


def _excess(cuts: Sequence[CutPoint]) -> Iterator[tuple[CutPoint, float]]:
    """Each cut except the input, with its bytes over those of the leanest cut with no more head MACs.

    The input is left out: in a small model it has fewer bytes than most features, but users rarely want it to
    leave.
    """
    least = math.inf
    for cut in sorted(cuts, key=lambda cut: (cut.head_macs, cut.raw_bytes)):
        if cut.index > 0:
            least = min(least, cut.raw_bytes)
            yield cut, cut.raw_bytes / least
