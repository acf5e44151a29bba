"""ZeroMQ sockets in the file system: who may use them is who may open the file."""

from __future__ import annotations

import contextlib
import grp
import os
import socket
from pathlib import Path

import zmq

from split_model.errors import ConfigError, NotAllowedError, OutputError

#: Longer names do not fit into a socket's address.
_MAX_PATH_BYTES = 107


def check(path: Path, group: str | None, where: str) -> None:
    """Raise `ConfigError` where the path is too long or the group does not exist. ``where`` opens each error."""
    _group_id(group, where)
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise ConfigError(f"{where}: path {path} is over {_MAX_PATH_BYTES} bytes long; set a shorter one")


def bind(bound: zmq.Socket[bytes], path: Path, group: str | None, where: str) -> None:
    """Bind at ``path``, for this user and, where set, ``group``; in place of what a killed program left there."""
    group_id = _group_id(group, where)
    if _is_served(path):
        raise NotAllowedError(f"{where}: another program serves {path}; stop it or set another path")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = os.umask(0o177)  # nobody else may connect before the group is set
        try:
            bound.bind(f"ipc://{path}")
        finally:
            os.umask(before)
        if group_id is not None:
            if path.stat().st_gid != group_id:  # a hardened service may not call chown, and need not
                os.chown(path, -1, group_id)
            path.chmod(0o660)
    except PermissionError:
        whose = f" for group {group}" if group else ""
        raise NotAllowedError(f"{where}: no permission to make {path}{whose}; set another path") from None
    except (OSError, zmq.ZMQError) as error:
        raise OutputError(f"{where}: {path}: {error.strerror}; set another path") from None


def remove(path: Path) -> None:
    """Remove the file of a socket that was bound there and is closed: ZeroMQ leaves it."""
    path.unlink(missing_ok=True)


def _group_id(group: str | None, where: str) -> int | None:
    try:
        return None if group is None else grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(f"{where}: there is no group {group!r} on this machine") from None


def _is_served(path: Path) -> bool:
    """Whether somebody listens there: the socket of a program that was killed is only a file."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        probe.setblocking(False)
        return probe.connect_ex(os.fspath(path)) in (0, zmq.EAGAIN)
