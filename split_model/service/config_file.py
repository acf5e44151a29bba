"""Reads TOML config files into a msgspec Struct; errors name the key and suggest a known one.

A config has several files: the named one, then every ``conf.d/*.toml`` beside it, in the order of their names.
Later files win, table by table and key by key; a list, such as the sources, is replaced as a whole. Relative paths
start at the folder of the named file, so a config and its files can be moved together.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from split_model.errors import ConfigError, MissingInputError
from split_model.service import text_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")
FOLDER = "conf.d"
_MAX_CONFIG_BYTES = 1 << 20
_WHERE = re.compile(r"^(?P<what>.*?)(?: - at `(?P<where>.*)`)?$", re.DOTALL)


def read_toml(path: Path) -> dict[str, Any]:
    """Read ``path`` as a tree of TOML values. Raises `MissingInputError` or `ConfigError`, which name the file."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_CONFIG_BYTES + 1)
    except PermissionError:
        raise MissingInputError(f"{path}: this user may not read it", remedy="run this command with sudo") from None
    except OSError as error:
        raise MissingInputError(f"{path}: {error.strerror}", remedy="name a config file with -c") from None
    if len(raw) > _MAX_CONFIG_BYTES:
        raise ConfigError(
            f"{path}: over {_MAX_CONFIG_BYTES >> 20} MiB, so not a config file", remedy="name another with -c"
        )
    try:
        return tomllib.loads(text_file.text(raw, str(path), error=ConfigError))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not TOML: {' '.join(str(error).split())}", remedy="mend this line") from None


def parse_tree(
    tree: dict[str, Any],
    type: type[T],  # noqa: A002  (the word msgspec uses for the same argument)
    *,
    where: str | Callable[[str], str],
    folder: Path,
) -> T:
    """Convert a tree of TOML values to ``type``, a msgspec Struct; its ``pathlib.Path`` fields become absolute.

    Raises `ConfigError` for an unknown key, or a value that does not fit. ``where`` begins the error: a text, or a
    function that returns one for the path of the key.
    """
    place = where if callable(where) else (lambda _: where)
    _refuse_unknown(tree, msgspec.inspect.type_info(type), place, "")

    def decode(kind: Any, value: Any) -> Any:
        if kind is Path and isinstance(value, str) and value:
            return folder / Path(value).expanduser()
        raise ValueError(f"Expected `{'path' if kind is Path else kind}`, got `{value!r}`")

    try:
        return msgspec.convert(tree, type, dec_hook=decode)
    except msgspec.ValidationError as error:
        found = _WHERE.match(str(error))
        key = (found["where"] if found and found["where"] else "").removeprefix("$").removeprefix(".")
        what = found["what"] if found else str(error)
        raise ConfigError(f"{place(key)}: {key + ': ' if key else ''}{what[:1].lower()}{what[1:]}") from None


def as_plain(config: Any) -> Any:
    """Convert a config to dicts, lists, numbers and texts, for ``config show``."""
    return msgspec.to_builtins(config, enc_hook=str)


def _refuse_unknown(value: Any, info: msgspec.inspect.Type, where: Callable[[str], str], key: str) -> None:
    """Refuse unknown keys by walking the tree along its type; msgspec refuses other misfits."""
    if isinstance(info, msgspec.inspect.Metadata):
        _refuse_unknown(value, info.type, where, key)
    elif isinstance(info, msgspec.inspect.UnionType):
        _refuse_unknown_kind(value, info, where, key)
        chosen = _chosen(value, info)
        if chosen is not None:
            _refuse_unknown(value, chosen, where, key)
    elif isinstance(info, msgspec.inspect.LiteralType):
        _refuse_other(value, info.values, f"{where(key)}: {key}")
    elif isinstance(value, dict):
        for name, item in value.items():
            path = f"{key}.{name}" if key else name
            _refuse_unknown(item, _type_of(name, info, f"{where(path)}: {path}"), where, path)
    elif isinstance(value, list) and isinstance(info, (msgspec.inspect.ListType, msgspec.inspect.VarTupleType)):
        for position, item in enumerate(value):
            _refuse_unknown(item, info.item_type, where, f"{key}[{position}]")


def _refuse_unknown_kind(
    value: Any, info: msgspec.inspect.UnionType, where: Callable[[str], str], key: str
) -> None:
    """Refuse an unknown kind of a table, and name the valid kinds."""
    structs = [member for member in info.types if isinstance(member, msgspec.inspect.StructType)]
    fields = {member.tag_field for member in structs if member.tag_field}
    if len(structs) > 1 and len(fields) == 1 and isinstance(value, dict):
        name = str(fields.pop())
        path = f"{key}.{name}"
        if name not in value:
            raise ConfigError(f"{where(key)}: {path} is missing", remedy=f"it is one of {_listed(structs)}")
        _refuse_other(value[name], [member.tag for member in structs], f"{where(path)}: {path}")


def _listed(structs: list[msgspec.inspect.StructType]) -> str:
    return ", ".join(sorted(repr(member.tag) for member in structs))


def _refuse_other(value: Any, allowed: Sequence[Any], where: str) -> None:
    if not any(value == one and isinstance(value, type(one)) for one in allowed):
        valid = ", ".join(repr(one) for one in sorted(allowed, key=str))
        raise ConfigError(f"{where} = {value!r}", remedy=f"it is one of {valid}")


def _type_of(name: str, info: msgspec.inspect.Type, where: str) -> msgspec.inspect.Type:
    """The type of one entry of a table; an unknown entry is an error."""
    if isinstance(info, msgspec.inspect.DictType):
        return info.value_type
    if not isinstance(info, msgspec.inspect.StructType) or name == info.tag_field:
        return msgspec.inspect.AnyType()
    known = {field.encode_name: field.type for field in info.fields}
    if name not in known:
        raise ConfigError(f"{where}: unknown key", remedy=_suggestion(name, list(known)))
    return known[name]


def _chosen(value: Any, info: msgspec.inspect.UnionType) -> msgspec.inspect.Type | None:
    """The member of a union for a value: by its tag, or the only one of its form."""
    structs = [member for member in info.types if isinstance(member, msgspec.inspect.StructType)]
    if isinstance(value, dict) and len(structs) > 1:
        return next((s for s in structs if s.tag_field and value.get(s.tag_field) == s.tag), None)
    if isinstance(value, dict) and structs:
        return structs[0]
    lists = (msgspec.inspect.ListType, msgspec.inspect.VarTupleType)
    return next((member for member in info.types if isinstance(member, lists)), None)


def _suggestion(name: str, known: list[str]) -> str:
    import difflib  # a hundred kilobytes that a correct config does not need

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"known here: {', '.join(sorted(known))}" if known else ""


@dataclass(frozen=True)
class Layers:
    """The merged config files. ``origins``: for each key path, as ``planner.split``, the deciding file.

    Relative paths start at the folder of ``path``, also those in ``conf.d``.
    """

    path: Path
    files: tuple[Path, ...]
    tree: dict[str, Any]
    origins: Mapping[str, Path] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The folder where relative paths start."""
        return self.path.absolute().parent

    def where(self, *keys: str) -> str:
        """The file to name in an error about some key paths: the last read one of their files.

        List indices, and keys below a value, are ignored.
        """
        return str(max((self._file_of(key) for key in keys), key=self.files.index, default=self.path))

    def _file_of(self, key: str) -> Path:
        while key:
            found = self.origins.get(key)
            if found is not None:
                return found
            key = key[: max(key.rfind("."), key.rfind("["), 0)]
        return self.path

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
    """Drop the origins below a table that a value replaces, or the reverse."""
    for known in [known for known in origins if known.startswith(f"{key}.")]:
        del origins[known]
