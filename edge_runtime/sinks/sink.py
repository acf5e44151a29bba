"""The interface of every sink, and its table in the config."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from edge_runtime.config.kind_table import KindTable
from split_model.arrays import Array
from split_model.errors import ConfigError


class Sink(ABC):
    """A sink of records. It is called in the frame loop's thread, so it never waits for a slow or absent peer."""

    @abstractmethod
    def write(self, record: Mapping[str, Any], outputs: Sequence[Array] = ()) -> None:
        """Take a record; one of kind ``frame`` comes with the model's raw outputs, none if the frame failed.

        Raises `OutputError` if a file cannot be written. A missing peer is counted, and not an error.
        """

    def counters(self) -> dict[str, int]:
        """The sink's own counters by name, for the log and the status."""
        return {}

    def close(self) -> None:  # noqa: B027  some hold nothing
        """Write the waiting answers, for a short time at most, and close."""


class SinkTable(KindTable, frozen=True, kw_only=True):
    """A sink in the config. A kind of sink is a subclass with its own keys and ``tag=`` its name.

    ``keeps``: its records outlast the program, so a source may discard a frame once it is answered.
    """

    keeps: ClassVar[bool] = False

    def check(self) -> None:
        """Raise a fault of the config, touching nothing that a running program uses."""

    def open(self) -> Sink:
        """Open the sink, or raise a `SplitModelError` with the reason. Every kind defines this method."""
        raise ConfigError(
            f"sink {self.label}: kind {self.kind!r} has no method 'open'", remedy="define it in the kind's class"
        )
