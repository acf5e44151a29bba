"""What a source and a sink have in common in the config: a kind, and a name that stands for it."""

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
        """What this source or sink is called."""
        return self.name or self.kind
