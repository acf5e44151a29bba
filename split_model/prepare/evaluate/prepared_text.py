"""Formats the figures of `prepare`: the agreement of every cut by epsilon and bits, and its meaning."""

from __future__ import annotations

from collections.abc import Sequence

from split_model.bundle import Cut
from split_model.bundle.evaluation import Evaluation, Prepared, Row
from split_model.bundle.floor import DEFAULT_FLOOR, ENOUGH, Floor, cheapest, release_of
from split_model.privacy import NoiseSpec, default_bits, settle
from split_model.privacy.plan import DEFAULT_EPSILON
from split_model.terminal import Part, Table


def prepared_parts(found: Evaluation | None, cuts: Sequence[Cut], floor: Floor = DEFAULT_FLOOR) -> list[Part]:
    """Lines and a table for people; none where nothing was measured since nothing could be."""
    prepared = None if found is None else found.prepared
    if prepared is None:
        return []
    if not prepared.rows:
        few = (
            f"agreement with the unsplit model was not measured: that takes two {prepared.unit} at least, and "
            f"{ENOUGH} to rely on it. Without figures no cut is used"
        )
        return [few]
    about = (
        f"agreement with the unsplit model ({prepared.measure}), measured on {prepared.unit} that did not choose "
        f"clip ranges or allocation, at the default bits a value; * reaches the accuracy floor of {floor.value:g}, "
        f"with a one-sided 80 % bound of {floor.bound:g}"
    )
    parts: list[Part] = [about]
    noise = [row for row in prepared.rows if row.spec is not None]
    if noise:
        parts += [_ladder(noise, cuts, floor), *_default(noise, cuts, floor)]
    parts += [_codebook(row, floor) for row in prepared.rows if row.codebook is not None]
    if wanted := how_many_more(prepared):
        parts.append(wanted)
    return parts


def how_many_more(prepared: Prepared) -> str:
    """A line if the figures are of too few pictures to rely on; else empty."""
    pictures = max((row.agreement.samples for row in prepared.rows if row.agreement is not None), default=0)
    if pictures >= ENOUGH:
        return ""
    return f"measured on {pictures} {prepared.unit}: {ENOUGH - pictures} more are wanted for figures to rely on"


def _ladder(rows: Sequence[Row], cuts: Sequence[Cut], floor: Floor) -> Table:
    """A line a cut, a column a per-value epsilon; default bits, and the allocation that ``auto`` takes."""
    epsilons = sorted({row.spec.epsilon for row in rows if row.spec is not None})
    lines = []
    for cut in cuts:
        found = {
            row.spec.epsilon: row
            for row in rows
            if row.spec is not None and row.cut == cut.index
            and row.spec.allocation == settle("auto", cut, row.spec.epsilon)
            and row.spec.bits == default_bits(row.spec.epsilon)
        }  # fmt: skip
        if found:
            lines.append((str(cut.index), *(_cell(found.get(epsilon), floor) for epsilon in epsilons)))
    return Table(("cut", *(f"eps {epsilon:g}" for epsilon in epsilons)), lines)


def _cell(row: Row | None, floor: Floor) -> str:
    if row is None or row.agreement is None:
        return ""
    return f"{row.agreement.value:.2f}{'*' if floor.admits(row) else ' '}"


def _default(rows: Sequence[Row], cuts: Sequence[Cut], floor: Floor) -> list[str]:
    """The behaviour of a device with the default config."""
    bits = default_bits(DEFAULT_EPSILON)
    used = []
    for cut in cuts:
        spec = NoiseSpec(epsilon=DEFAULT_EPSILON, allocation=settle("auto", cut, DEFAULT_EPSILON), bits=bits)
        used += [cut.index for row in rows if row.cut == cut.index and row.spec == spec and floor.admits(row)]
    release = f"epsilon {DEFAULT_EPSILON:g} with {bits} bits a value"
    if used:
        return [f"a device's default, {release}: cuts {', '.join(map(str, used))} are used"]
    by_cut = {cut.index: cut for cut in cuts}
    as_auto = [
        row for row in rows
        if row.spec is not None and row.spec.allocation == settle("auto", by_cut[row.cut], row.spec.epsilon)
    ]  # fmt: skip
    better = cheapest(as_auto, floor)
    would = "no measured release reaches the floor"
    if better is not None:
        would = f"{release_of(better)} would do at cut {better.cut}"
    said = f"a device's default, {release}: NO CUT is used, everything runs on the board; {would}"
    return [f"{said}; --cuts offers others"]


def _codebook(row: Row, floor: Floor) -> str:
    book, share = row.codebook, row.agreement
    assert book is not None
    assert share is not None
    size = f"{book.codewords} codewords" + (f" in each of {book.groups} groups" if book.groups > 1 else "")
    return (
        f"cut {row.cut}: codebook of {size} at whole-input epsilon {book.epsilon:g}: "
        f"{_cell(row, floor).strip()}, at least {row.bound or 0.0:.2f} ({share.samples} held-out samples)"
    )
