"""Verifies that head and tail together equal the whole model, bit for bit.

`verify_bundle` checks the files of a bundle and needs a TFLite backend only, so a board can run it.
`verify_all_cuts` slices a model at every legal cut in memory, for which it needs the schema too.
Within one backend on one machine the answer is exact; nothing is rounded and no tolerance applies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from split_model.arrays import Array
from split_model.bundle import Bundle, ImagePreprocess
from split_model.errors import BackendError, BadInputError, BadModelError
from split_model.interpreter import Interpreter, open_interpreter
from split_model.prepare.random_inputs import random_inputs

#: Called with the name of the step, the items done, and all items.
Progress = Callable[[str, int, int], None]
InputSet = Sequence[Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class CutCheck:
    """The result of one cut. ``max_abs_difference``: over all outputs and inputs; NaN if undefined.

    ``message`` names the error, and is empty for a cut that is identical.
    """

    index: int
    tensors: tuple[str, ...]
    identical: bool
    max_abs_difference: float
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Halves:
    """Head and tail of one cut, to be opened; without a head the tail takes the model's inputs."""

    index: int
    tensors: tuple[str, ...]
    head: Callable[[], Interpreter] | None
    tail: Callable[[], Interpreter]


def verify_bundle(
    bundle: Bundle,
    *,
    backend: str | None = None,
    inputs: Sequence[InputSet] = (),
    random_sets: int = 2,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[CutCheck, ...]:
    """Check the hash of every file, then every offered cut on random inputs and on ``inputs``.

    ``inputs``: sets of arrays in the order of the model's inputs. Raises `BadBundleError` for a file that does not
    match the manifest, `BackendError` or `BadModelError` if the whole model does not run.
    """
    bundle.check_files()
    manifest = bundle.manifest

    def opener(path: Path) -> Callable[[], Interpreter]:
        return lambda: open_interpreter(path, backend=backend)

    halves = (
        _Halves(
            index=cut.index,
            tensors=tuple(spec.name for spec in cut.tensors),
            head=None if cut.head is None else opener(bundle.path(cut.head)),
            tail=opener(bundle.path(cut.tail)),
        )
        for cut in manifest.cuts
    )
    whole = opener(bundle.path(manifest.model))()
    rng = np.random.default_rng(seed)
    sets = [
        *(random_inputs(whole.inputs, rng, preprocess=manifest.preprocess) for _ in range(random_sets)),
        *inputs,
    ]
    return tuple(_compare(whole, halves, sets, len(manifest.cuts), progress))


def verify_all_cuts(
    model_path: Path,
    *,
    backend: str | None = None,
    inputs: Sequence[InputSet] = (),
    random_sets: int = 1,
    seed: int = 0,
    preprocess: ImagePreprocess | None = None,
    progress: Progress | None = None,
) -> tuple[CutCheck, ...]:
    """Slice at every legal cut, one at a time in memory, and compare. Errors as in `verify_bundle`."""
    from split_model.prepare.tflite.cuts import CutPoint, find_cuts
    from split_model.prepare.tflite.shapes import open_model
    from split_model.prepare.tflite.slicing import head_part, pack_part, tail_part

    model = open_model(model_path, backend=backend)
    graph = model.graph
    legal = find_cuts(graph).legal

    def halves_of(cut: CutPoint) -> _Halves:
        def head() -> Interpreter:
            return open_interpreter(bytes(pack_part(model, head_part(graph, cut))), backend=backend)

        return _Halves(
            index=cut.index,
            tensors=tuple(graph.tensors[tensor].name for tensor in cut.live),
            head=head if cut.index else None,
            tail=lambda: open_interpreter(bytes(pack_part(model, tail_part(graph, cut))), backend=backend),
        )

    whole = open_interpreter(model_path, backend=backend)
    rng = np.random.default_rng(seed)
    sets = [*(random_inputs(whole.inputs, rng, preprocess=preprocess) for _ in range(random_sets)), *inputs]
    return tuple(_compare(whole, map(halves_of, legal), sets, len(legal), progress))


def _compare(
    whole: Interpreter,
    halves: Iterable[_Halves],
    sets: Sequence[InputSet],
    total: int,
    progress: Progress | None,
) -> Iterator[CutCheck]:
    expected = [whole.run(one) for one in sets]
    for done, half in enumerate(halves):
        if progress is not None:
            progress("verifying", done, total)
        try:
            answers = _answers(half, sets)
        except (BackendError, BadInputError, BadModelError) as error:
            yield CutCheck(
                index=half.index,
                tensors=half.tensors,
                identical=False,
                max_abs_difference=math.nan,
                message=str(error),
            )
            continue
        yield _verdict(half, expected, answers)
    if progress is not None:
        progress("verifying", total, total)


def _answers(half: _Halves, sets: Sequence[InputSet]) -> list[list[Array]]:
    """Every input set through the head, then the tail; one of the two is loaded at a time."""
    if half.head is None:
        features = [list(one) for one in sets]
    else:
        head = half.head()
        features = [head.run(one) for one in sets]
        del head
    tail = half.tail()
    return [tail.run(one) for one in features]


def _verdict(half: _Halves, expected: Sequence[list[Array]], answers: Sequence[list[Array]]) -> CutCheck:
    identical, difference, message = True, 0.0, ""
    for one, other in zip(expected, answers, strict=True):
        for output, (left, right) in enumerate(zip(one, other, strict=True)):
            if (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes()):
                continue
            gap = _gap(left, right)
            identical, difference = False, gap if math.isnan(gap) else max(difference, gap)
            message = f"output {output} differs from the whole model's by up to {difference:.3g}"
    return CutCheck(
        index=half.index, tensors=half.tensors, identical=identical, max_abs_difference=difference, message=message
    )


def _gap(left: Array, right: Array) -> float:
    """Largest absolute difference; NaN for other shapes or if only one side is NaN."""
    if left.shape != right.shape:
        return math.nan
    left64, right64 = left.astype(np.float64), right.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        gaps = np.asarray(np.abs(left64 - right64))  # for scalars it is not an array
    gaps[(left == right) | (np.isnan(left64) & np.isnan(right64))] = 0.0  # equal infinities, NaN on both sides
    return float(gaps.max(initial=0.0))
