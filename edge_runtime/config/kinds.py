"""The kinds of sources and sinks that are installed: entry points, ours and those of other packages.

A kind is looked up when a config names it, so a board pays for no other.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from importlib.metadata import EntryPoint, entry_points
from operator import or_
from typing import Any, TypeVar, cast

import msgspec

from edge_runtime.sinks.sink import SinkTable
from edge_runtime.sources.source import SourceTable
from split_model.errors import ConfigError
from split_model.service.config_file import Layers

C = TypeVar("C", bound=msgspec.Struct)


@dataclass(frozen=True)
class Registry:
    """The kinds of one group of entry points; each must load as a subclass of ``base``, tagged by its name."""

    table: str
    default: str
    base: type
    find: Callable[[], Mapping[str, EntryPoint]]

    def load(self, kind: str, where: str) -> Any:
        """The table's type of a kind; `ConfigError` for one that is not installed, or that does not load."""
        found = self.find()
        if kind not in found:
            near = difflib.get_close_matches(kind, found, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"installed: {', '.join(sorted(found)) or 'none'}"
            if self.default not in found:
                hint = "this package's metadata is missing or of an older version; install it again"
            raise ConfigError(f"{where}: there is no kind {kind!r}", remedy=hint)
        try:
            loaded = found[kind].load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"{where}: kind {kind!r} ({found[kind].value}) does not load: {error}",
                remedy="install its dependencies, or leave it out",
            ) from None
        if not (isinstance(loaded, type) and issubclass(loaded, self.base)):
            raise ConfigError(
                f"{where}: kind {kind!r} ({found[kind].value}) is no {self.base.__name__}",
                remedy=f"derive it from {self.base.__name__}",
            )
        if loaded.__struct_config__.tag != kind:  # type: ignore[attr-defined]
            raise ConfigError(
                f"{where}: kind {kind!r} ({found[kind].value}) has another tag",
                remedy=f"declare it with tag={kind!r}",
            )
        return loaded


def _group(name: str) -> Callable[[], Mapping[str, EntryPoint]]:
    return lambda: {entry.name: entry for entry in entry_points(group=name)}


SOURCES = Registry("source", "files", SourceTable, _group("edge_runtime.sources"))
SINKS = Registry("sink", "jsonl", SinkTable, _group("edge_runtime.sinks"))


def with_kinds(config: type[C], layers: Layers) -> tuple[type[C], dict[str, Any]]:
    """A config type that knows the kinds that a config names, and the tree with every kind spelled out.

    Args:
        config: The type to widen.
        layers: The config as the files say it.

    Raises:
        ConfigError: A kind is not installed, or a table mixes keys of two kinds; the file that says so is named.

    """
    told = dict(layers.tree)
    fields = []
    for registry in (SOURCES, SINKS):
        entries = layers.tree.get(registry.table)
        if entries is None:
            continue
        if isinstance(entries, list):
            told[registry.table] = [_told(entry, registry.default) for entry in entries]
            named = [(entry, f"{registry.table}[{number}]") for number, entry in enumerate(told[registry.table])]
        else:
            told[registry.table] = _told(entries, registry.default)
            named = [(told[registry.table], registry.table)]
        kinds = {
            entry["kind"]: registry.load(entry["kind"], f"{layers.where(f'{key}.kind')}: {key}.kind")
            for entry, key in named
            if isinstance(entry, dict) and isinstance(entry["kind"], str)
        }
        if isinstance(entries, dict) and len(kinds) == 1:
            _refuse_mixed(entries, next(iter(kinds.values())), layers, registry.table)
        one = (
            reduce(or_, kinds.values()) if kinds else registry.load(registry.default, layers.where(registry.table))
        )
        fields.append((registry.table, one | tuple[one, ...]))  # type: ignore[valid-type]
    made = msgspec.defstruct(
        config.__name__, fields, bases=(config,), frozen=True, kw_only=True, forbid_unknown_fields=True
    )
    return cast("type[C]", made), told


def _told(entry: Any, default: str) -> Any:
    return {"kind": default, **entry} if isinstance(entry, dict) else entry


def _refuse_mixed(entries: Mapping[str, Any], kind: type[msgspec.Struct], layers: Layers, table: str) -> None:
    """A file of conf.d that changes a table's kind leaves the keys of the kind before: say how to replace it."""
    by = layers.where(f"{table}.kind")
    for name in entries:
        where = layers.where(f"{table}.{name}")
        if name != "kind" and name not in kind.__struct_encode_fields__ and where != by and "kind" in entries:
            raise ConfigError(
                f"{by}: {table}.kind = {entries['kind']!r} does not know {table}.{name}, which {where} sets",
                remedy=f"write [[{table}]] in {by}: that replaces the whole table",
            )
