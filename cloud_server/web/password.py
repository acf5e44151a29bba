"""Files of secrets: the page's password as a scrypt hash, and tokens; only the service may read them."""

from __future__ import annotations

import base64
import getpass
import grp
import hashlib
import hmac
import os
import re
import secrets
import sys
from pathlib import Path

from split_model.errors import BadInputError, MissingInputError, NotAllowedError, OutputError
from split_model.service.atomic_file import write_atomically

#: scrypt's cost: 16 MiB and some 40 ms of a server's core for each attempt.
_N, _R, _P = 1 << 14, 8, 1
_MAX_MEMORY_BYTES = 64 << 20
_LINE = re.compile(r"scrypt\$16384\$8\$1\$([A-Za-z0-9+/=]{24})\$([A-Za-z0-9+/=]{44})\n?")
_LEAST_CHARACTERS = 10
_MOST_BYTES = 1024
_GROUP = "cloud-server"


def made() -> str:
    """Make a new secret of 120 bits that is easy to type."""
    return secrets.token_urlsafe(15)


def asked_for() -> str:
    """Ask for a password twice, or read the first line of standard input. Raises `BadInputError`."""
    if sys.stdin.isatty():
        text = getpass.getpass("password of the page: ")
        if text != getpass.getpass("once more: "):
            raise BadInputError("the two differ", remedy="try again")
    else:
        text = sys.stdin.readline().rstrip("\n")
    if len(text) < _LEAST_CHARACTERS or len(text.encode()) > _MOST_BYTES:
        raise BadInputError(
            f"a password of {len(text)} characters",
            remedy=f"use {_LEAST_CHARACTERS} or more, or let --make make one",
        )
    return text


def write(path: Path, text: str) -> None:
    """Write the hash of a password. Raises `OutputError`."""
    salt = os.urandom(16)
    parts = (base64.b64encode(part).decode() for part in (salt, _hash(text, salt)))
    write_for_service(path, f"scrypt${_N}${_R}${_P}${'$'.join(parts)}\n".encode())


def write_for_service(path: Path, content: bytes) -> None:
    """Write a file that only its owner and the service's group may read. Raises `OutputError`."""
    try:
        write_atomically(path, content, mode=0o600)
        if os.geteuid() == 0 and (group := _service_group()) is not None:
            os.chown(path, 0, group)
            path.chmod(0o640)
    except OSError as error:
        raise OutputError(
            f"{path}: {error.strerror}", remedy="run this as a user who may write to its folder"
        ) from None


def read(path: Path, *, make: str = "web password") -> bytes:
    """Read the file's one line.

    Args:
        path: The file of a password or of a token.
        make: The command that makes it, for messages.

    Raises:
        MissingInputError: There is no file yet.
        NotAllowedError: This user may not read it, or others may.

    """
    try:
        is_open, content = bool(path.stat().st_mode & 0o007), path.read_bytes()
    except FileNotFoundError:
        raise MissingInputError(f"{path}: no such file yet", remedy=f"run: cloud-server {make}") from None
    except PermissionError:
        raise NotAllowedError(
            f"{path}: permission denied", remedy=f"run: chgrp {_GROUP} {path} && chmod 640 {path}"
        ) from None
    except OSError as error:
        raise MissingInputError(f"{path}: {error.strerror}", remedy=f"run: cloud-server {make}") from None
    if is_open:
        raise NotAllowedError(f"{path}: others may read or change it", remedy=f"run: chmod o= {path}")
    return content


def is_right(text: str, stored: bytes) -> bool:
    """Whether a password matches the stored hash; always takes the time of one scrypt."""
    found = _LINE.fullmatch(stored.decode("ascii", "replace"))
    salt = base64.b64decode(found[1]) if found else bytes(16)
    wanted = base64.b64decode(found[2]) if found else bytes(32)
    given = text.encode()
    same = hmac.compare_digest(_hash(text if len(given) <= _MOST_BYTES else "", salt), wanted)
    return same and found is not None and len(given) <= _MOST_BYTES


def _hash(text: str, salt: bytes) -> bytes:
    return hashlib.scrypt(text.encode(), salt=salt, n=_N, r=_R, p=_P, maxmem=_MAX_MEMORY_BYTES, dklen=32)


def _service_group() -> int | None:
    try:
        return grp.getgrnam(_GROUP).gr_gid
    except KeyError:
        return None
