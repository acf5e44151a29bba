"""Finds the cuts that reveal little enough under the present release, by the bundle's audit. Pure.

``planner.reveal_at_most`` is the most that the strongest attack may see. Without it every cut is used, and an
audit's findings are only logged. With it, a cut that was not audited under exactly this release is not used,
because its exposure is unknown.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from edge_runtime.planner.accuracy import Line, Spec
from split_model.bundle import Cut
from split_model.bundle.exposure import WORDS, Exposure, Exposures, Reveals, at_most
from split_model.errors import ConfigError


@dataclass(frozen=True)
class CutExposure:
    """The exposure of one cut. ``row``: the stored verdict for exactly this release; None without one."""

    cut: int
    used: bool
    row: Exposure | None

    @property
    def reveals(self) -> str:
        """The verdict; empty without one."""
        return "" if self.row is None else self.row.reveals

    @property
    def text(self) -> str:
        """The exposure as text for the user."""
        return "not audited under this release" if self.row is None else f"a server sees: {self.row.text}"


@dataclass(frozen=True)
class Exposed:
    """The exposure of all cuts of a bundle under the present release.

    Attributes:
        most: ``planner.reveal_at_most``; None if unset.
        cuts: The exposure of each.
        command: The command that audits the release.

    """

    most: Reveals | None
    cuts: tuple[CutExposure, ...]
    command: str

    @classmethod
    def of(
        cls,
        cuts: Sequence[Cut],
        specs: Mapping[int, Spec],
        most: Reveals | None,
        found: Exposures | None,
        command: str,
    ) -> Exposed:
        """Judge every cut.

        Args:
            cuts: The cuts at which the release can be made.
            specs: The release at each, None for unprotected features.
            most: The most that may be revealed; None to use every cut.
            found: The stored audit, None if there is none.
            command: See `Exposed`.

        """
        judged = []
        for cut in cuts:
            row = None if found is None else found.find(cut.index, specs[cut.index])
            used = most is None or (row is not None and at_most(row.reveals, most))
            judged.append(CutExposure(cut.index, used, row))
        return cls(most, tuple(judged), command)

    def __getitem__(self, cut: int) -> CutExposure:
        """The exposure of one cut."""
        return next(one for one in self.cuts if one.cut == cut)

    @property
    def used(self) -> frozenset[int]:
        """The cuts that reveal little enough."""
        return frozenset(one.cut for one in self.cuts if one.used)

    def check_split(self, split: object) -> None:
        """Refuse a fixed split that is not used.

        Raises:
            ConfigError: ``planner.split`` names a cut that reveals more, or that was not audited.

        """
        if self.most is None or not isinstance(split, int) or split in self.used:
            return
        known = self[split]
        if known.row is None:
            raise ConfigError(
                f"planner.reveal_at_most = '{self.most}': cut {split} was not audited under this release",
                remedy=self.remedy,
            )
        raise ConfigError(
            f"planner.split = {split} reveals more than planner.reveal_at_most = '{self.most}': {known.row.text}",
            remedy="change one of them, or make the release stronger and audit it",
        )

    @property
    def remedy(self) -> str:
        """The remedy for a cut that was not audited."""
        return f"run '{self.command}' and copy the bundle here again"

    def lines(self, allowed: frozenset[int]) -> Iterator[Line]:
        """Log lines, one for each verdict. ``allowed``: the cuts that nothing else forbids."""
        chosen = [one for one in self.cuts if one.cut in allowed and not (one.row is None and self.most is None)]
        for text in self.told(one.cut for one in chosen if one.used):
            yield Line(logging.INFO, text)
        for one in chosen:
            if not one.used:
                yield Line(logging.WARNING, f"cut {one.cut} is NOT USED: {self.why_unused(one)}")
        yield from self.conclusion(allowed)

    def told(self, cuts: Iterable[int]) -> list[str]:
        """What a server sees of some cuts: a line for those of which it sees the same; not of those unaudited."""
        alike: dict[str, list[str]] = {}
        for cut in sorted(cuts):
            if self[cut].row is not None:
                alike.setdefault(self[cut].text, []).append(str(cut))
        return [f"cut{'s' if len(names) > 1 else ''} {', '.join(names)}: {text}" for text, names in alike.items()]

    def why_unused(self, one: CutExposure) -> str:
        """Why a cut is not used, with the remedy."""
        if one.row is None:
            return f"{one.text}; {self.remedy}"
        return f"{one.text}; planner.reveal_at_most = '{self.most}'"

    def conclusion(self, allowed: frozenset[int]) -> Iterator[Line]:
        """Log lines about all these cuts together; none if one of them is used."""
        chosen = [one for one in self.cuts if one.cut in allowed]
        if self.most is None or not chosen or any(one.used for one in chosen):
            return
        what = f"no cut is known to reveal at most '{self.most}' ({WORDS[self.most]}) under this release"
        audited = any(one.row is not None for one in chosen)
        remedy = "a stronger release reveals less: audit it with --store" if audited else self.remedy
        yield Line(logging.WARNING, f"{what}: everything runs here; {remedy}; planner.reveal_at_most allows more")
