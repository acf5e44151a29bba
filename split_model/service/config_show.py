"""``config show``: prints every key with its effective value and origin, as TOML or JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from split_model.service import toml_text
from split_model.service.config_file import Layers

_COMMENTS_FROM = 48


def origin_rows(plain: Mapping[str, Any], layers: Layers) -> dict[str, str]:
    """The origin of every key path of a plain config: a file, or ``default``."""
    rows: dict[str, str] = {}
    for table, entries in plain.items():
        if isinstance(entries, dict):
            for name in entries:
                rows[f"{table}.{name}"] = _origin(f"{table}.{name}", layers)
        else:
            rows[table] = _origin(table, layers)
    return rows


def as_toml(plain: Mapping[str, Any], layers: Layers, in_force: Mapping[str, str] | None = None) -> str:
    """Return a plain config as TOML that reads back as the same config, each value with its origin.

    None and texts that are not UTF-8, which TOML cannot express, become comments.

    Args:
        plain: Tables and values.
        layers: The files of the config.
        in_force: The effective value of unset keys, by key path.

    """
    told = in_force or {}
    origins = origin_rows(plain, layers)
    lines = [toml_text.comment(str(file)) for file in layers.files]
    tables = {name: entries for name, entries in plain.items() if _is_table(entries)}
    for name, entry in plain.items():
        if name not in tables:
            lines += ["", _line(name, entry, origins[name])]
    for table, entries in tables.items():
        key = toml_text.key(table)
        if isinstance(entries, dict):
            lines += ["", f"[{key}]"]
            paths = {name: f"{table}.{name}" for name in entries}
            lines += [
                _line(name, entry, origins[paths[name]], told.get(paths[name], ""))
                for name, entry in entries.items()
            ]
            continue
        for row in entries:
            lines += ["", f"[[{key}]]  {toml_text.comment(origins[table])}"]
            lines += [_line(name, entry, "") for name, entry in row.items()]
    return "\n".join(lines)


def as_json(plain: Mapping[str, Any], layers: Layers, **more: str) -> str:
    """Convert a plain config to JSON, with ``origins`` and ``more``; infinity becomes the text ``inf``."""
    return json.dumps({**_finite(plain), **more, "origins": origin_rows(plain, layers)}, indent=1, allow_nan=False)


def _origin(key: str, layers: Layers) -> str:
    found = layers.origins.get(key)
    return str(found) if found is not None else "default"


def _is_table(entries: Any) -> bool:
    if isinstance(entries, (list, tuple)):
        return bool(entries) and all(isinstance(entry, dict) for entry in entries)
    return isinstance(entries, dict)


def _line(name: str, entry: Any, origin: str, in_force: str = "") -> str:
    if entry is None:
        return toml_text.comment(f"{name} is not set{in_force and f': {in_force}'}")
    try:
        text = f"{toml_text.key(name)} = {toml_text.value(entry)}"
    except ValueError as error:
        return toml_text.comment(f"{name} = {entry!r} cannot be written in TOML: {error}")
    return f"{text:<{_COMMENTS_FROM}} {toml_text.comment(origin)}" if origin else text


def _finite(entry: Any) -> Any:
    if isinstance(entry, float) and not math.isfinite(entry):
        return str(entry)
    if isinstance(entry, Mapping):
        return {name: _finite(value) for name, value in entry.items()}
    return [_finite(value) for value in entry] if isinstance(entry, (list, tuple)) else entry
