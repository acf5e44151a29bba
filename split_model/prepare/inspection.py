"""The report of ``split-model inspect``: a model's ops, its cuts, and those offered by default."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence

import msgspec

from split_model.prepare.tflite.cuts import Cuts, find_cuts, front, offered
from split_model.prepare.tflite.graph import Graph, Tensor
from split_model.prepare.tflite.index_uses import unreleasable
from split_model.prepare.tflite.macs import op_macs, total_macs
from split_model.service.terminal_text import counted

WIDTH = 80


class TensorRow(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor by name."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class OpRow(msgspec.Struct, frozen=True, kw_only=True):
    """One op. ``params``: values of its weights, each stored tensor counted at the first op that uses it."""

    index: int
    op: str
    output: TensorRow | None
    macs: int
    params: int
    constant_only: bool
    needed: bool


class CutRow(msgspec.Struct, frozen=True, kw_only=True):
    """One legal cut. ``head_share``: head MACs over all MACs. ``offered``: by ``prepare`` by default.

    ``no_noise``: why noise cannot be added here; `prepare` with calibration data leaves the cut out.
    """

    index: int
    tensors: tuple[TensorRow, ...]
    raw_bytes: int
    head_macs: int
    tail_macs: int
    head_share: float
    dominated: bool
    offered: bool
    no_noise: str = ""


class ModelReport(msgspec.Struct, frozen=True, kw_only=True):
    """The whole report; ``msgspec.json.encode`` makes it JSON."""

    source: str
    inputs: tuple[TensorRow, ...]
    outputs: tuple[TensorRow, ...]
    macs: int
    params: int
    ops: tuple[OpRow, ...]
    cuts: tuple[CutRow, ...]
    excluded: tuple[tuple[int, str], ...]


def inspect_model(graph: Graph, *, count: int = 8) -> ModelReport:
    """Describe a graph; ``count``: number of offered cuts. Pure."""
    cuts: Cuts = find_cuts(graph)
    macs = total_macs(graph)
    on_front = {cut.index for cut in front(cuts.legal)}
    unfit = unreleasable(graph, cuts.legal)
    chosen = {cut.index for cut in offered([cut for cut in cuts.legal if cut.index not in unfit], count)}
    ops = _op_rows(graph)
    return ModelReport(
        source=graph.source,
        inputs=_rows(graph, graph.inputs),
        outputs=_rows(graph, graph.outputs),
        macs=macs,
        params=sum(op.params for op in ops),
        ops=ops,
        cuts=tuple(
            CutRow(
                index=cut.index,
                tensors=_rows(graph, cut.live),
                raw_bytes=cut.raw_bytes,
                head_macs=cut.head_macs,
                tail_macs=cut.tail_macs,
                head_share=cut.head_macs / macs if macs else 0.0,
                dominated=cut.index not in on_front,
                offered=cut.index in chosen,
                no_noise=unfit.get(cut.index, ""),
            )
            for cut in cuts.legal
        ),
        excluded=cuts.excluded,
    )


def _op_rows(graph: Graph) -> tuple[OpRow, ...]:
    seen: set[int] = set()
    rows = []
    for op in graph.ops:
        fresh = [graph.tensors[index] for index in op.inputs if index not in seen]
        seen.update(op.inputs)
        rows.append(
            OpRow(
                index=op.index,
                op=op.name,
                output=_row(graph.tensors[op.outputs[0]]) if op.outputs else None,
                macs=op_macs(graph, op),
                params=_params(fresh),
                constant_only=op.constant_only,
                needed=op.needed,
            )
        )
    return tuple(rows)


def _params(tensors: Iterable[Tensor]) -> int:
    """Stored values that are weights: integers without quantisation are shapes, paddings or axes, not weights."""
    return sum(
        tensor.size
        for tensor in tensors
        if tensor.constant and (tensor.quantised or tensor.dtype not in ("int32", "int64", "bool"))
    )


def _row(tensor: Tensor) -> TensorRow:
    return TensorRow(name=tensor.name, shape=tensor.shape, dtype=tensor.dtype)


def _rows(graph: Graph, indices: Iterable[int]) -> tuple[TensorRow, ...]:
    return tuple(_row(graph.tensors[index]) for index in indices)


def render(report: ModelReport) -> str:
    """Format the report as text of at most `WIDTH` columns."""
    lines = [
        report.source,
        f"{counted(len(report.ops), 'op')}, {_count(report.macs)} MACs, {_count(report.params)} parameters",
        *(f"  input  {_tensor(row)}" for row in report.inputs),
        *(f"  output {_tensor(row)}" for row in report.outputs),
        "",
        "   op  name                      output                         MACs   params",
        *map(_op_line, report.ops),
        "",
        "  cut        bytes  head MACs    share  live tensors",
        *map(_cut_line, report.cuts),
        *(line for index, reason in report.excluded for line in _reason(index, f"not possible: {reason}")),
        *(
            line
            for row in report.cuts
            if row.no_noise
            for line in _reason(row.index, f"not under noise: {row.no_noise}")
        ),
        "",
        f"{counted(len(report.cuts), 'cut')}; * offered by default, · dominated: another has no more MACs or bytes",
        "MACs count convolutions, dense layers and matrix products only.",
    ]
    return "\n".join(_clip(line) for line in lines) + "\n"


def _reason(index: int, text: str) -> list[str]:
    """Fold a reason, whose end matters as much as its beginning; names longer than a line are broken."""
    return textwrap.wrap(f"{index:5d}  {text}", WIDTH, subsequent_indent=" " * 7)


def _op_line(row: OpRow) -> str:
    output = f"{row.output.dtype} {_shape(row.output.shape)}" if row.output else "-"
    note = "  constants only" if row.constant_only else "" if row.needed else "  unused"
    return f"{row.index:5d}  {row.op[:24]:24s}  {output:24s}  {_count(row.macs):>8s} {_count(row.params):>8s}{note}"


def _cut_line(row: CutRow) -> str:
    mark = "*" if row.offered else "·" if row.dominated else " "
    tensors = " + ".join(f"{tensor.dtype} {_shape(tensor.shape)}" for tensor in row.tensors)
    return (
        f"{row.index:5d} {mark} {row.raw_bytes:10d} {_count(row.head_macs):>10s} {row.head_share:8.1%}  {tensors}"
    )


def _tensor(row: TensorRow) -> str:
    return f"{row.name} {row.dtype} {_shape(row.shape)}"


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _count(number: int) -> str:
    """Format a number with a unit prefix, as 384.6 M."""
    if number < 1000:
        return str(number)
    power = min(int(math.log10(number)) // 3, 5)
    return f"{number / 1000**power:.1f} {'_kMGTP'[power]}"


def _clip(line: str) -> str:
    """Clip a line to the report's width and make it printable, as names come from the file."""
    clean = "".join(sign if sign.isprintable() else "?" for sign in line)  # columns keep their spaces
    return clean if len(clean) <= WIDTH else clean[: WIDTH - 1] + "…"
