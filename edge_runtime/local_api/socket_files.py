"""Makes Unix sockets in the file system; the file's permissions decide who may connect."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import socket
import stat
from pathlib import Path

from edge_runtime.local_api import framing
from split_model.errors import ConfigError, NotAllowedError, OutputError
from split_model.service.writable import why_no_entry

#: Maximum length of a path in a socket's address.
_MAX_PATH_BYTES = 107
#: Maximum number of connections that wait to be accepted.
_BACKLOG = 64


def check(path: Path, group: str | None, where: str) -> None:
    """Refuse a socket that this user cannot make. ``where``: begins each error text.

    Raises:
        ConfigError: The path is too long, or the group does not exist.
        NotAllowedError: This user may not make a file there, or is not in the group.

    """
    group_id = _group_id(group, where)
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise ConfigError(f"{where}: path {path} is over {_MAX_PATH_BYTES} bytes long", remedy="set a shorter path")
    reason = why_no_entry(path, made_later=framing.RUNTIME_FOLDER)
    if reason == os.strerror(errno.ENOTDIR):
        raise OutputError(f"{where}: {path}: {reason}", remedy="set another path")
    if reason:
        raise NotAllowedError(
            f"{where}: no permission to make {path}: {reason}",
            remedy="set a path where the program's user may write",
        )
    if group_id is not None and not _may_give_to(group_id, path.parent):
        raise NotAllowedError(
            f"{where}: this user is not in group {group}, so may not give {path} to it",
            remedy=f"put the program's user into it: usermod -aG {group} USER",
        )


def _may_give_to(group_id: int, folder: Path) -> bool:
    if os.geteuid() == 0 or group_id in {os.getegid(), *os.getgroups()}:
        return True
    try:
        status = folder.stat()
    except OSError:
        return False
    return bool(status.st_mode & stat.S_ISGID) and status.st_gid == group_id  # files in it get this group anyway


class Listener:
    """A listening socket and its file, which this user and, where set, ``group`` may open.

    Replaces a file that a killed program left. ``where``: begins each error text.
    """

    def __init__(self, path: Path, group: str | None, where: str) -> None:
        group_id = _group_id(group, where)
        self._path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            _make_way(path, where)
            path.parent.mkdir(parents=True, exist_ok=True)
            os.fchmod(self.socket.fileno(), 0o600)  # nobody else may connect before the group is set
            self.socket.bind(os.fspath(path))
            if group_id is not None:
                if path.stat().st_gid != group_id:  # a hardened service may not call chown, and need not
                    os.chown(path, -1, group_id)
                path.chmod(0o660)
            self.socket.listen(_BACKLOG)
            self._file = _identity(path)
        except (NotAllowedError, OutputError):
            self.socket.close()
            raise
        except PermissionError:
            self.socket.close()
            whose = f" for group {group}" if group else ""
            raise NotAllowedError(
                f"{where}: no permission to make {path}{whose}", remedy="set another path"
            ) from None
        except OSError as error:
            self.socket.close()
            raise OutputError(f"{where}: {path}: {error.strerror}", remedy="set another path") from None

    def close(self) -> None:
        """Close the socket and remove its file, unless another program's lies there by now."""
        self.socket.close()
        with contextlib.suppress(OSError):
            if _identity(self._path) == self._file:
                self._path.unlink()


def _make_way(path: Path, where: str) -> None:
    """Remove a socket file without a listener. Anything else stays, and is an error."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISSOCK(mode):
        raise OutputError(f"{where}: {path} exists and is not a socket", remedy="remove it or set another path")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        probe.setblocking(False)
        if probe.connect_ex(os.fspath(path)) in (0, errno.EAGAIN):
            raise NotAllowedError(f"{where}: another program serves {path}", remedy="stop it or set another path")
    path.unlink()


def _identity(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino


def _group_id(group: str | None, where: str) -> int | None:
    try:
        return None if group is None else grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(
            f"{where}: there is no group {group!r} on this machine", remedy="make the group, or name another"
        ) from None
