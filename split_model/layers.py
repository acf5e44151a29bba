"""A config out of several files: the one that is named, then every ``conf.d/*.toml`` beside it, by their names.

Later files win, table by table and key by key; a list, as of sources, is replaced as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from split_model.config import parse_tree, read_toml

T = TypeVar("T")

FOLDER = "conf.d"


@dataclass(frozen=True)
class Layers:
    """What the files say together. ``origins``: for each key path, as ``planner.split``, the file that decides.

    Relative paths start at the folder of ``path``, in the files of ``conf.d`` too.
    """

    path: Path
    files: tuple[Path, ...]
    tree: dict[str, Any]
    origins: Mapping[str, Path] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where relative paths start."""
        return self.path.absolute().parent

    def where(self, key: str) -> str:
        """The file to name in an error about a key path; list indices and what is below a value are let go."""
        while key:
            found = self.origins.get(key)
            if found is not None:
                return str(found)
            key = key[: max(key.rfind("."), key.rfind("["), 0)]
        return str(self.path)

    def parse(self, type: type[T]) -> T:  # noqa: A002  (the word msgspec uses)
        """See `parse_tree`; errors name the file that holds the key."""
        return parse_tree(self.tree, type, where=self.where, folder=self.folder)


def read_layers(path: Path) -> Layers:
    """Read a config file and its ``conf.d``. Raises `MissingInputError` or `ConfigError`, which name the file."""
    files = (path, *sorted((path.parent / FOLDER).glob("*.toml")))
    tree: dict[str, Any] = {}
    origins: dict[str, Path] = {}
    for file in files:
        _lay(read_toml(file), tree, "", file, origins)
    return Layers(path, files, tree, origins)


def _lay(over: Mapping[str, Any], under: dict[str, Any], prefix: str, file: Path, origins: dict[str, Path]) -> None:
    for name, value in over.items():
        key = prefix + name
        if isinstance(value, dict):
            if not isinstance(under.get(name), dict):
                _forget(key, origins)
                under[name] = {}
                origins[key] = file
            _lay(value, under[name], f"{key}.", file, origins)
        else:
            _forget(key, origins)
            under[name] = value
            origins[key] = file


def _forget(key: str, origins: dict[str, Path]) -> None:
    """A value takes a table's place, or the other way round."""
    for known in [known for known in origins if known.startswith(f"{key}.")]:
        del origins[known]


def origin_rows(plain: Mapping[str, Any], layers: Layers) -> dict[str, str]:
    """For ``config show``: of every key path of a plain config the file that its value is from, or ``default``."""
    rows: dict[str, str] = {}
    for table, entries in plain.items():
        if isinstance(entries, dict):
            for name in entries:
                found = layers.origins.get(f"{table}.{name}")
                rows[f"{table}.{name}"] = str(found) if found is not None else "default"
        else:
            found = layers.origins.get(table)
            rows[table] = str(found) if found is not None else "default"
    return rows


def for_terminal(plain: Mapping[str, Any], layers: Layers, *, dumps: Any) -> str:
    """For ``config show``: the config as TOML, each value with its origin. ``dumps`` writes one value."""
    origins = origin_rows(plain, layers)
    lines = [f"# {file}" for file in layers.files]
    for table, entries in plain.items():
        if entries is None:
            lines += ["", f"# [{table}] is not set"]
            continue
        if isinstance(entries, dict):
            lines += ["", f"[{table}]"]
            lines += [_line(name, value, origins[f"{table}.{name}"], dumps) for name, value in entries.items()]
            continue
        for entry in entries:
            lines += ["", f"[[{table}]]  # {origins[table]}"]
            lines += [_line(name, value, "", dumps) for name, value in entry.items()]
    return "\n".join(lines)


def _line(name: str, value: Any, origin: str, dumps: Any) -> str:
    if value is None:
        return f"# {name} is not set"
    text = f"{name} = {dumps(value)}"
    return f"{text:<48} # {origin}" if origin else text
