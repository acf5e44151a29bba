"""Reads and writes CURVE key pairs: a secret file that only its owner can read, and a public one.

``NAME.key`` has the secret key and ``NAME.pub`` the public key, each 40 characters of Z85 and a newline.
Both programs use this; the secret of a pair never leaves the machine that made it.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import zmq
from zmq.utils import z85

from split_model.errors import BadInputError, MissingInputError, NotAllowedError, OutputError
from split_model.service import text_file

KEY_CHARS = 40
#: Maximum bytes of a key file.
_MAX_FILE_BYTES = 256


@dataclass(frozen=True)
class KeyPair:
    """A CURVE key pair in Z85, the text form of ZeroMQ."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"KeyPair(public={self.public.decode()})"


def parse_public(text: str, where: str) -> bytes:
    """Check that a text is a public key in Z85; `BadInputError` names its origin ``where``."""
    key = text.strip().encode("ascii", "replace")
    try:
        if len(key) == KEY_CHARS and len(z85.decode(key)) == 32:
            return key
    except (KeyError, ValueError, struct.error):
        pass  # not Z85: the one message below covers it
    raise BadInputError(
        f"{where}: not a CURVE public key (40 characters of Z85)", remedy="use the output of 'keys show'"
    )


def read_public(path: Path) -> bytes:
    """Read a ``.pub`` file."""
    try:
        with path.open("rb") as file:
            return parse_public(text_file.text(file.read(_MAX_FILE_BYTES), str(path)), str(path))
    except OSError as error:
        raise MissingInputError(f"{path}: {error.strerror}", remedy="make keys with the 'keys' command") from None


def credential(path: Path, environment: Mapping[str, str] = os.environ) -> Path | None:
    """Path of the file that systemd loaded for the service (``LoadCredential=``), if it did."""
    folder = environment.get("CREDENTIALS_DIRECTORY")
    found = Path(folder) / path.name if folder else None
    return found if found is not None and os.access(found, os.R_OK) else None


class UnreadableKeyError(MissingInputError):
    """A secret key exists, but this user may not read it (exit code 66)."""


def read_pair(path: Path) -> KeyPair:
    """Read the secret key at ``path`` and derive the public one. Refuses a file that others can read.

    A `credential` of systemd takes precedence; its folder is protected by more than file modes.
    """
    loaded = credential(path)
    try:
        with (loaded or path).open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            raw = file.read(_MAX_FILE_BYTES)
    except PermissionError:
        raise UnreadableKeyError(
            f"{path}: this user may not read it", remedy="run this command with sudo"
        ) from None
    except OSError as error:
        raise MissingInputError(f"{path}: {error.strerror}", remedy="make keys with the 'keys' command") from None
    if mode & 0o077 and loaded is None:
        raise NotAllowedError(
            f"{path}: others can read this secret key (mode {mode:04o})", remedy=f"run 'chmod 600 {path}'"
        )
    secret = text_file.text(raw, str(path)).strip().encode()
    try:
        return KeyPair(public=zmq.curve_public(secret), secret=secret)
    except (zmq.ZMQError, ValueError):
        raise BadInputError(
            f"{path}: not a CURVE secret key (40 characters of Z85)", remedy="make new keys"
        ) from None


def make_pair(folder: Path, name: str) -> KeyPair:
    """Make a new pair ``NAME.key`` (mode 0600) and ``NAME.pub``; never overwrites a secret.

    A pair whose public key begins with a dash (one in 85) is discarded, as command lines would take it as an
    option.
    """
    public, secret = zmq.curve_keypair()
    while public.startswith(b"-"):
        public, secret = zmq.curve_keypair()
    secret_path = folder / f"{name}.key"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(secret_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(secret + b"\n")
        (folder / f"{name}.pub").write_bytes(public + b"\n")
    except FileExistsError:
        raise OutputError(f"{secret_path}: exists already", remedy="move it away first to make a new key") from None
    except OSError as error:
        raise OutputError(f"{secret_path}: {error.strerror}", remedy="choose a folder you can write to") from None
    return KeyPair(public=public, secret=secret)


def _stage(path: Path, stage: str) -> Path:
    """Path of a key at a stage of its rotation: ``device.next.key``, ``device.old.key``."""
    return path.with_name(f"{path.name.removesuffix('.key')}.{stage}.key")


def make_next(path: Path) -> KeyPair:
    """Make the next pair beside the one at ``path``; an existing next pair is kept."""
    fresh = _stage(path, "next")
    return read_pair(fresh) if fresh.exists() else make_pair(path.parent, fresh.name.removesuffix(".key"))


def read_next(path: Path) -> KeyPair:
    """Read the pair of `make_next`; `MissingInputError` if there is none."""
    fresh = _stage(path, "next")
    if not fresh.exists():
        raise MissingInputError(f"{fresh}: not there", remedy="'keys rotate' makes it")
    return read_pair(fresh)


def switch_to_next(path: Path) -> KeyPair:
    """Replace the pair at ``path`` by the next pair; the old one stays as ``NAME.old.key``.

    There is a key at every moment; after an interruption it can be done again.
    """
    pair = read_next(path)
    try:
        for suffix in (".pub", ".key"):  # the secret last: it is the one that counts
            now, fresh, old = (
                place.with_suffix(suffix) for place in (path, _stage(path, "next"), _stage(path, "old"))
            )
            if not fresh.exists():
                continue
            if now.exists():
                spare = old.with_suffix(suffix + ".new")
                spare.unlink(missing_ok=True)
                spare.hardlink_to(now)
                spare.replace(old)
            fresh.replace(now)
    except OSError as error:
        raise OutputError(
            f"{path}: {error.strerror}", remedy="run this as a user who may write to its folder"
        ) from None
    return pair
