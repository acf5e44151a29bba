"""What every sink has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from edge_runtime.config.kind_table import KindTable
from split_model.arrays import Array
from split_model.errors import ConfigError


class Sink(ABC):
    """Takes records in the frame loop's thread. What may take long or go away and come back is not waited for."""

    @abstractmethod
    def write(self, record: Mapping[str, Any], outputs: Sequence[Array] = ()) -> None:
        """Take a record, of kind ``frame`` with the model's raw outputs, and none where the frame failed.

        Raises `OutputError` where a file cannot be written; a peer that is away is counted and not an error.
        """

    def counters(self) -> dict[str, int]:
        """What happened to it, for the log and the status, in numbers with names."""
        return {}

    def close(self) -> None:  # noqa: B027  some hold nothing
        """Write the waiting answers, for a short while, and let go."""


class SinkTable(KindTable, frozen=True, kw_only=True):
    """A sink in the config. A kind of sink is a subclass with its own keys and ``tag=`` its name.

    ``keeps``: its records are there after the program, so that a source may forget what was answered.
    """

    keeps: ClassVar[bool] = False

    def check(self) -> None:
        """Raise a fault of the config, touching nothing that a running program uses."""

    def open(self) -> Sink:
        """Open the sink, or raise a `SplitModelError` that says why it cannot be. Every kind has its own."""
        raise ConfigError(
            f"sink {self.label}: kind {self.kind!r} has no method 'open'", remedy="define it in the kind's class"
        )
