"""The interface of every sink of answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated

import msgspec

from split_model.errors import ConfigError

#: A name for logs, topics and the status.
Label = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z")]


class Sink(ABC):
    """A sink of records; only `AnswerSinks` calls it, in its thread."""

    @abstractmethod
    def write(self, topic: tuple[str, ...], record: bytes) -> None:
        """Take one record, JSON without line ends.

        Raises:
            OutputError: The record is lost. The sink may work again later.

        """

    def close(self) -> None:  # noqa: B027  some hold nothing
        """Deliver the waiting records, for a short time at most, and close."""


class SinkTable(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", forbid_unknown_fields=True):
    """One ``[[sink]]``. ``name``: distinguishes sinks of one kind in logs and the status."""

    name: Label | None = None

    @property
    def label(self) -> str:
        """The sink's name, or its kind if it has no name."""
        return self.name or str(self.__struct_config__.tag)

    def open(self) -> Sink:
        """Open the sink.

        Raises:
            SplitModelError: It cannot be opened.

        """
        raise ConfigError(f"sink {self.label} has no method 'open'", remedy="define it in the kind's class")
