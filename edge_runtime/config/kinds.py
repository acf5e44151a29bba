"""Finds installed kinds of sources and sinks: ours, and the entry points of other packages.

A kind is imported when a config names it, so a board loads no other. Entry points are read only if a kind is not
ours: the module that reads them takes more than a megabyte of a board's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from importlib import import_module
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
    """The kinds of one table; each must load as a subclass of ``base``, tagged by its name.

    ``ours`` and the results of ``find``: the class of each kind, as ``module:name``.
    """

    table: str
    default: str
    base: type
    ours: Mapping[str, str]
    find: Callable[[], Mapping[str, str]]

    def load(self, kind: str, where: str) -> Any:
        """Return a kind's table type; `ConfigError` if it is not installed or does not load."""
        place = self.ours.get(kind) or self._found(kind, where)
        try:
            module, _, name = place.partition(":")
            loaded: Any = reduce(getattr, name.split("."), import_module(module))
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"{where}: kind {kind!r} ({place}) does not load: {error}",
                remedy="install its dependencies, or leave it out",
            ) from None
        if not (isinstance(loaded, type) and issubclass(loaded, self.base)):
            raise ConfigError(
                f"{where}: kind {kind!r} ({place}) is not a {self.base.__name__}",
                remedy=f"derive it from {self.base.__name__}",
            )
        if loaded.__struct_config__.tag != kind:  # type: ignore[attr-defined]
            raise ConfigError(
                f"{where}: kind {kind!r} ({place}) has another tag", remedy=f"declare it with tag={kind!r}"
            )
        return loaded

    def installed(self) -> dict[str, str]:
        """All kinds and their classes, including those of other packages."""
        return {**self.find(), **self.ours}

    def _found(self, kind: str, where: str) -> str:
        """Find a kind's class in other packages."""
        installed = self.installed()
        if kind in installed:
            return installed[kind]
        import difflib  # a hundred kilobytes that a correct config does not need

        near = difflib.get_close_matches(kind, installed, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"installed: {', '.join(sorted(installed))}"
        raise ConfigError(f"{where}: there is no kind {kind!r}", remedy=hint)


def _group(name: str) -> Callable[[], Mapping[str, str]]:
    """Return a function that reads a group's entry points from all installed packages."""

    def find() -> Mapping[str, str]:
        from importlib.metadata import entry_points

        return {entry.name: entry.value for entry in entry_points(group=name)}

    return find


OUR_SOURCES = {
    "files": "edge_runtime.sources.files:FilesTable",
    "watch": "edge_runtime.sources.watched_folder:WatchTable",
    "camera": "edge_runtime.sources.camera:CameraTable",
    "serial": "edge_runtime.sources.serial_port:SerialTable",
    "socket": "edge_runtime.sources.local_socket:SocketTable",
}
OUR_SINKS = {
    "jsonl": "edge_runtime.sinks.jsonl:JsonlTable",
    "pub": "edge_runtime.sinks.publisher:PublisherTable",
    "serial": "edge_runtime.sinks.serial_line:SerialLineTable",
}
SOURCES = Registry("source", "files", SourceTable, OUR_SOURCES, _group("edge_runtime.sources"))
SINKS = Registry("sink", "jsonl", SinkTable, OUR_SINKS, _group("edge_runtime.sinks"))


def with_kinds(config: type[C], layers: Layers) -> tuple[type[C], dict[str, Any]]:
    """Extend the config type by the kinds that a config names; also return the tree with every kind filled in.

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
    """Refuse a conf.d file that changes a table's kind but leaves keys of the previous kind in place."""
    by = layers.where(f"{table}.kind")
    for name in entries:
        where = layers.where(f"{table}.{name}")
        if name != "kind" and name not in kind.__struct_encode_fields__ and where != by and "kind" in entries:
            raise ConfigError(
                f"{by}: {table}.kind = {entries['kind']!r} does not know {table}.{name}, which {where} sets",
                remedy=f"write [[{table}]] in {by}: that replaces the whole table",
            )
