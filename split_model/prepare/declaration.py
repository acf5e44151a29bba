"""Reads declarations in JSON files; errors list the valid keys and values."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from split_model.errors import BadInputError, MissingInputError
from split_model.service import text_file

T = TypeVar("T")


def read_json(path: Path | None, kind: type[T], what: str) -> T | None:
    """Read one declaration; None if no file is given.

    Raises:
        MissingInputError: There is no such file.
        BadInputError: It is not JSON, or has other keys or values than ``kind``; the message lists the valid ones.

    """
    if path is None:
        return None
    try:
        return msgspec.json.decode(text_file.text(path.read_bytes(), str(path)), type=kind)
    except OSError as error:
        raise MissingInputError(f"{path}: {error.strerror}", remedy=f"give a JSON file, {what}") from None
    except msgspec.DecodeError as error:
        raise BadInputError(f"{path}: not {what}: {error}", remedy=f"valid keys: {valid_keys(kind)}") from None


def valid_keys(kind: Any) -> str:
    """The keys of a record, or of the records of a list, with their choices if they have some."""
    record = next((part for part in get_args(kind) if isinstance(part, type)), kind)
    hints = get_type_hints(record)
    told = []
    for field in msgspec.structs.fields(record):
        literals = [one for one in (hints[field.name], *get_args(hints[field.name])) if get_origin(one) is Literal]
        choices = f" ({', '.join(str(value) for one in literals for value in get_args(one))})" if literals else ""
        told.append(f"{field.encode_name}{choices}")
    return ", ".join(told)
