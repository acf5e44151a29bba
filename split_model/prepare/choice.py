"""Chooses the cuts that a bundle offers, among those at which a release can be made."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from split_model.bundle import LeftOut
from split_model.errors import BadModelError, UsageError
from split_model.prepare.assemble import choose
from split_model.prepare.tflite.cuts import CutPoint, find_cuts, offered
from split_model.prepare.tflite.index_uses import unreleasable
from split_model.prepare.tflite.reading import ModelFile
from split_model.prepare.tflite.tables import printable


def choose_cuts(
    model: ModelFile,
    *,
    wanted: int | tuple[int, ...] | None,
    left_out_by_hand: Sequence[int],
    for_noise: bool,
    with_codebook: Collection[int],
) -> tuple[list[CutPoint], tuple[LeftOut, ...]]:
    """Choose the cuts to offer; also returns those that were left out.

    A calibrated bundle is for noise releases (``for_noise``), so cuts that cannot take noise are left out, unless a
    codebook is wanted there. ``wanted``: their number, op indices, or None for all. If ``wanted`` is a number, cuts
    ``with_codebook`` are offered in addition. Raises `UsageError` for a position that is not a cut, `BadModelError`
    if none is left.
    """
    cuts = find_cuts(model.graph)
    if not cuts.legal:
        reason = cuts.excluded[0][1] if cuts.excluded else "it has no ops"
        raise UsageError(f"{model.graph.source}: no position to cut at: {reason}")
    reasons = {cut.index: "left out by --without" for cut in choose(cuts, left_out_by_hand)}
    if for_noise:
        candidates = [cut for cut in cuts.legal if cut.index not in reasons and cut.index not in with_codebook]
        reasons |= unreleasable(model.graph, candidates)
    booked = choose(cuts, sorted(with_codebook))
    for cut in booked:
        if cut.index in reasons or (isinstance(wanted, tuple) and cut.index not in wanted):
            why = "is left out by --without" if cut.index in reasons else "is not among those of --cuts"
            raise UsageError(f"--codebook: cut {cut.index} {why}", remedy="name the same cuts in both")
    asked = choose(cuts, wanted) if isinstance(wanted, tuple) else cuts.legal
    usable = [cut for cut in asked if cut.index not in reasons]
    if not usable:
        index, reason = next((cut.index, reasons[cut.index]) for cut in asked)
        raise BadModelError(
            f"{model.graph.source}: no cut is left; cut {index}: {reason}",
            remedy="take other cuts ('split-model inspect' lists them), or prepare it without --calibration to send"
            " features unprotected",
        )
    left_out = tuple(
        LeftOut(index=cut.index, reason=printable(reasons[cut.index])) for cut in asked if cut.index in reasons
    )
    if not isinstance(wanted, int):
        return usable, left_out
    chosen = {cut.index: cut for cut in (*offered(usable, wanted), *booked)}
    return [chosen[index] for index in sorted(chosen)], left_out
