"""Base of the config tables of sources and sinks: a kind and a name."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

Label: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class KindTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    """A table with the key ``kind``. ``name``: in records and logs; the kind unless set."""

    name: Label | None = None

    @property
    def kind(self) -> str:
        """The name of the kind."""
        return str(type(self).__struct_config__.tag)

    @property
    def label(self) -> str:
        """The label of this source or sink: its name, or its kind."""
        return self.name or self.kind
