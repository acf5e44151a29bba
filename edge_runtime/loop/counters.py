"""Counts of frames by outcome, and of releases with their epsilon."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal, get_args

from edge_runtime.link.link_view import LinkView

Outcome = Literal["offloaded", "local", "fallback", "failed", "dropped"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


class Counters:
    """Counters of one run; ``frames_in`` is the sum of the five outcomes once no frame is under way.

    ``whole_input_epsilon``: the sum over all releases made, per frame composed by addition (pure ε, whole input);
    of this run, for the log. The ledger has the exact total of the device's life. ``ledger_refused``: frames that
    stayed here while the ledger could not pay for one cut or more. ``moves``: decisions that moved the split point.
    ``failovers``: releases that were sent to another server as well, the same bytes.
    """

    def __init__(self) -> None:
        self.frames_in = 0
        self.releases = 0
        self.unprotected_releases = 0
        self.ledger_refused = 0
        self.whole_input_epsilon = 0.0
        self.per_value_epsilon_max = 0.0
        self.moves = 0
        self.failovers = 0
        self.late = 0
        self.reconnects = 0
        self._links_before = (0, 0)
        self._ends: Counter[Outcome] = Counter()

    def ended(self, outcome: Outcome) -> None:
        """Count a frame that is done."""
        self._ends[outcome] += 1

    def dropped(self, total: int) -> None:
        """Set the number of frames that the sources dropped since the start; they count as accepted and ended."""
        self.frames_in += total - self._ends["dropped"]
        self._ends["dropped"] = total

    def released(self, *, protected: bool, whole_input_epsilon: float, per_value_epsilon_max: float) -> None:
        """Count a release; call it before the first byte is sent."""
        self.releases += 1
        self.unprotected_releases += not protected
        self.whole_input_epsilon += whole_input_epsilon
        self.per_value_epsilon_max = max(self.per_value_epsilon_max, per_value_epsilon_max)

    def links(self, views: Iterable[LinkView]) -> None:
        """Set the counts of the present links, which they keep since their start."""
        late, reconnects = self._links_before
        for view in views:
            late += view.late
            reconnects += view.reconnects
        self.late, self.reconnects = late, reconnects

    def next_links(self) -> None:
        """Prepare for new links, which count from zero."""
        self._links_before = (self.late, self.reconnects)

    def as_dict(self) -> dict[str, int | float]:
        """All counters by name, the same names as in log, status and metrics."""
        return {
            "frames_in": self.frames_in,
            **{outcome: self._ends[outcome] for outcome in OUTCOMES},
            "late": self.late,
            "moves": self.moves,
            "failovers": self.failovers,
            "reconnects": self.reconnects,
            "releases": self.releases,
            "unprotected_releases": self.unprotected_releases,
            "ledger_refused": self.ledger_refused,
            "whole_input_epsilon": self.whole_input_epsilon,
            "per_value_epsilon_max": self.per_value_epsilon_max,
        }
