"""Finds the cuts that are accurate enough under the present release, by the bundle's measurements. Pure.

The floor is on the agreement with the unsplit model. It is on unless the config switches it off. A bundle of an
older version has no such measurements; its cuts are used with a warning, so that an update stops no board.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from split_model.bundle import Cut
from split_model.bundle.evaluation import Evaluation, Row
from split_model.bundle.floor import DEFAULT_FLOOR, ENOUGH, Floor, cheapest, release_of
from split_model.privacy import CodebookSpec, NoiseSpec
from split_model.service.terminal_text import counted

Spec: TypeAlias = "NoiseSpec | CodebookSpec | None"

#: ``passes``: measured as good enough. ``below``: measured, and not good enough. ``unmeasured``: the bundle has
#: figures, but none for this release. ``no figures``: it has none at all. ``unprotected``: the features leave
#: unchanged, so the answer is the unsplit model's.
Verdict = Literal["passes", "below", "unmeasured", "no figures", "unprotected"]


class Line(NamedTuple):
    """One line for the log, with its `logging` level."""

    level: int
    text: str


@dataclass(frozen=True)
class CutAccuracy:
    """The accuracy of one cut. ``row``: the nearest measurement; ``relation``: see `evaluation.Nearest`."""

    cut: int
    verdict: Verdict
    used: bool
    row: Row | None = None
    relation: str = ""

    @property
    def agreement(self) -> float | None:
        """The expected share of answers that agree with the unsplit model."""
        if self.verdict == "unprotected":
            return 1.0
        return None if self.row is None or self.row.agreement is None else self.row.agreement.value

    @property
    def bound(self) -> float | None:
        """The one-sided 80 % lower bound of the agreement."""
        return 1.0 if self.verdict == "unprotected" else self.row.bound if self.row is not None else None

    @property
    def pictures(self) -> int | None:
        """Number of pictures of the measurement."""
        return None if self.row is None or self.row.agreement is None else self.row.agreement.samples

    @property
    def text(self) -> str:
        """The figure as text for the user."""
        if self.verdict == "unprotected":
            return "unprotected: it answers as the unsplit model does"
        if self.agreement is None or self.row is None:
            return "its agreement with the unsplit model was not measured under this release"
        text = (
            f"agreement with the unsplit model {self.agreement:.2f}, at least {self.bound or 0.0:.2f} "
            f"(one-sided 80 %, {self.pictures} pictures)"
        )
        if self.relation == "same":
            return text
        word = "at least this, as" if self.relation == "weaker" else "at most this, as"
        return f"{text}; {word} measured at {release_of(self.row)}"


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of all cuts of a bundle under the present release. ``floor``: None if it is off."""

    floor: Floor | None
    cuts: tuple[CutAccuracy, ...]
    measured: Evaluation | None = None

    @classmethod
    def of(
        cls, cuts: Sequence[Cut], specs: Mapping[int, Spec], floor: Floor | None, found: Evaluation | None
    ) -> Accuracy:
        """Judge every cut.

        Args:
            cuts: The cuts at which the release can be made.
            specs: The release at each, None for unprotected features.
            floor: The minimum agreement, None to use every cut.
            found: The bundle's measurements, None if there are none.

        """
        return cls(floor, tuple(_judge(cut.index, specs[cut.index], floor, found) for cut in cuts), found)

    def __getitem__(self, cut: int) -> CutAccuracy:
        """The accuracy of one cut."""
        return next(one for one in self.cuts if one.cut == cut)

    @property
    def used(self) -> frozenset[int]:
        """The cuts that the floor allows."""
        return frozenset(one.cut for one in self.cuts if one.used)

    def remedy(self, cuts: Iterable[int]) -> str:
        """The change of the release with which one of these cuts reaches the floor; empty if none is known."""
        wanted = frozenset(cuts)
        if self.measured is None or self.floor is None:
            return ""
        kinds = {one.row.mechanism for one in self.cuts if one.row is not None} or {"noise"}
        now = {one.cut: one.row.spec for one in self.cuts if one.row is not None}
        rows = [
            row for row in self.measured.all_rows
            if row.cut in wanted and row.mechanism in kinds
            and _shared_alike(row.spec, now.get(row.cut))
        ]  # fmt: skip
        best = cheapest(rows, self.floor)
        return "" if best is None else f"release.{release_of(best)} passes at cut {best.cut}"

    def lines(self, allowed: frozenset[int]) -> Iterator[Line]:
        """Log lines: one for the cuts in use, one for each that is not used, with remedies.

        ``allowed``: the cuts that the config does not forbid.
        """
        chosen = [one for one in self.cuts if one.cut in allowed]
        used = [one for one in chosen if one.used]
        unknown = [one for one in used if one.verdict in ("no figures", "unmeasured")]
        for of_level, level in ((unknown, logging.WARNING), ([o for o in used if o not in unknown], logging.INFO)):
            if text := self.summary(one.cut for one in of_level):
                yield Line(level, text)
        for one in chosen:
            if not one.used:
                remedy = self.remedy([one.cut])
                yield Line(
                    logging.WARNING, f"cut {one.cut} is NOT USED: {one.text}{f'; {remedy}' if remedy else ''}"
                )
        yield from self.conclusion(allowed)

    def summary(self, cuts: Iterable[int]) -> str:
        """How well some cuts answer, in one line for people; empty where there is none."""
        chosen = [self[cut] for cut in sorted(cuts)]
        if len(chosen) < 2:
            return "".join(f"cut {one.cut}: {one.text}" for one in chosen)
        names = ", ".join(str(one.cut) for one in chosen)
        known = [one for one in chosen if one.agreement is not None]
        if not known:
            return f"cuts {names}: agreement with the unsplit model not measured under this release"
        if all(one.verdict == "unprotected" for one in known):
            return f"cuts {names}: unprotected, they answer as the unsplit model does"
        lowest, highest = (f"{end(one.agreement or 0.0 for one in known):.2f}" for end in (min, max))
        shares = lowest if lowest == highest else f"{lowest} to {highest}"
        pictures = min(one.pictures or 0 for one in known)
        text = f"cuts {names}: agreement with the unsplit model {shares}, at least "
        text += f"{min(one.bound or 0.0 for one in known):.2f} (one-sided 80 %, {counted(pictures, 'picture')})"
        if any(one.relation not in ("", "same") for one in known):
            text += "; some as measured at another release"
        return text if len(known) == len(chosen) else f"{text}; {len(chosen) - len(known)} of them not measured"

    def conclusion(self, allowed: frozenset[int]) -> Iterator[Line]:
        """Log lines about all these cuts together; none if all is well."""
        chosen = [one for one in self.cuts if one.cut in allowed]
        if any(one.verdict == "no figures" for one in chosen):
            yield Line(
                logging.WARNING,
                "this bundle has no accuracy measured under a release, so the quality of its answers is unknown; "
                "prepare it again with this version, or run 'split-model evaluate ... --store'",
            )
        if self.floor is not None and chosen and not any(one.used for one in chosen):
            remedy = self.remedy(allowed) or "no measured release reaches it"
            floor = f"{self.floor.value:g} (bound {self.floor.bound:g})"
            yield Line(
                logging.WARNING,
                f"no cut reaches the accuracy floor of {floor}: everything runs here; {remedy}; "
                "planner.accuracy_floor changes the floor or switches it off",
            )
        if wanted := self.pictures_wanted(allowed):
            yield Line(logging.WARNING, wanted)

    def pictures_wanted(self, allowed: frozenset[int]) -> str:
        """A line if the figures are of too few pictures to rely on; else empty."""
        known = [one.pictures for one in self.cuts if one.cut in allowed and one.pictures is not None]
        if not known or max(known) >= ENOUGH:
            return ""
        return (
            f"these figures are of {max(known)} pictures: {ENOUGH - max(known)} more are wanted to rely on them; "
            "prepare the bundle with more, or evaluate it with --store"
        )


def _shared_alike(spec: NoiseSpec | None, now: NoiseSpec | None) -> bool:
    """Whether both releases allocate noise in the same way.

    If not, texts would mislead, as they do not name the allocation.
    """
    return spec is None or now is None or spec.allocation == now.allocation


def _judge(cut: int, spec: Spec, floor: Floor | None, found: Evaluation | None) -> CutAccuracy:
    if spec is None:
        return CutAccuracy(cut, "unprotected", used=True)
    if found is None:
        return CutAccuracy(cut, "no figures", used=True)
    nearest = found.nearest(cut, spec)
    if nearest is None or nearest.row.agreement is None:
        return CutAccuracy(cut, "unmeasured", used=floor is None)
    row, relation = nearest
    judged_by = floor or DEFAULT_FLOOR
    passes = relation != "stronger" and judged_by.admits(row)
    # A pass that was measured at a larger epsilon proves nothing for this release.
    verdict: Verdict = (
        "passes" if passes else "unmeasured" if relation == "stronger" and judged_by.admits(row) else "below"
    )
    return CutAccuracy(cut, verdict, used=passes or floor is None, row=row, relation=relation)
