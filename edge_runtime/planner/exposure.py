"""Which cuts reveal little enough under the release in force, by the bundle's audit. Pure.

``planner.reveal_at_most`` names the most that the strongest attack may see. Without it every cut is used, and the
findings of an audit are told. With it a cut that was not audited under exactly this release is not used, because
nothing is known of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from edge_runtime.planner.accuracy import Line, Spec
from split_model.bundle import Cut
from split_model.bundle.exposure import WORDS, Exposure, Exposures, Reveals, at_most
from split_model.errors import ConfigError


@dataclass(frozen=True)
class CutExposure:
    """What is known of one cut. ``row``: the stored verdict on this very release; None without one."""

    cut: int
    used: bool
    row: Exposure | None

    @property
    def reveals(self) -> str:
        """The verdict; empty without one."""
        return "" if self.row is None else self.row.reveals

    @property
    def text(self) -> str:
        """What a server sees of it, for people."""
        return "not audited under this release" if self.row is None else f"a server sees: {self.row.text}"


@dataclass(frozen=True)
class Exposed:
    """All cuts of a bundle under the release in force.

    Attributes:
        most: ``planner.reveal_at_most``; None where the config does not say.
        cuts: What is known of each.
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
            cuts: Those at which something may leave.
            specs: The release at each, None for features that leave as they are.
            most: The most that may be revealed; None to use every cut.
            found: What an audit stored, None where there is none.
            command: See `Exposed`.

        """
        judged = []
        for cut in cuts:
            row = None if found is None else found.find(cut.index, specs[cut.index])
            used = most is None or (row is not None and at_most(row.reveals, most))
            judged.append(CutExposure(cut.index, used, row))
        return cls(most, tuple(judged), command)

    def __getitem__(self, cut: int) -> CutExposure:
        """Of one cut."""
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
        """What to do of a cut that was not audited."""
        return f"run '{self.command}' and copy the bundle here again"

    def lines(self, allowed: frozenset[int]) -> Iterator[Line]:
        """For the log: a line a cut. ``allowed``: the cuts that nothing else forbids."""
        for one in self.cuts:
            if one.cut not in allowed or (one.row is None and self.most is None):
                continue
            if one.used:
                yield Line(logging.INFO, f"cut {one.cut}: {one.text}")
            else:
                yield Line(logging.WARNING, f"cut {one.cut} is NOT USED: {self.why_unused(one)}")
        yield from self.conclusion(allowed)

    def why_unused(self, one: CutExposure) -> str:
        """Why a cut is not used, and what to do."""
        if one.row is None:
            return f"{one.text}; {self.remedy}"
        return f"{one.text}; planner.reveal_at_most = '{self.most}'"

    def conclusion(self, allowed: frozenset[int]) -> Iterator[Line]:
        """What there is to say of all these cuts together; nothing where one is used."""
        chosen = [one for one in self.cuts if one.cut in allowed]
        if self.most is None or not chosen or any(one.used for one in chosen):
            return
        what = f"no cut is known to reveal at most '{self.most}' ({WORDS[self.most]}) under this release"
        audited = any(one.row is not None for one in chosen)
        remedy = "a stronger release reveals less: audit it with --store" if audited else self.remedy
        yield Line(logging.WARNING, f"{what}: everything runs here; {remedy}; planner.reveal_at_most allows more")
