"""Drops root privileges to the service's user before a command runs any code of a bundle.

``doctor`` and ``bench`` are started with sudo, because the secret key belongs to root. A malicious model may
control the backend, so they read the key first and go on as the service's user. The change is final.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from split_model.errors import NotAllowedError

log = logging.getLogger(__name__)

_PR_SET_NO_NEW_PRIVS = 38


@dataclass(frozen=True)
class User:
    """A user to change to. ``name`` is empty if the system has only a number for it."""

    uid: int
    gid: int
    name: str = ""

    def __str__(self) -> str:
        return self.name or f"user {self.uid}"


def service_user(service: str, *, config: Path, state: Path | None = None) -> User | None:
    """Find the user of the service with this config; None if unknown, or if it is root.

    Args:
        service: The name of the service, of its user, and of its folder in ``/etc``.
        config: The config file. One in the service's own folder belongs to the service.
        state: The program's state folder. Its owner is the user, wherever the config is.

    """
    if state is not None and state.exists() and (uid := state.stat().st_uid) != 0:
        try:
            return _from_entry(pwd.getpwuid(uid))
        except KeyError:
            return User(uid, state.stat().st_gid)
    if config.absolute().parent == Path("/etc") / service:
        try:
            return _from_entry(pwd.getpwnam(service))
        except KeyError:
            return None
    return None


def _from_entry(entry: pwd.struct_passwd) -> User:
    return User(entry.pw_uid, entry.pw_gid, entry.pw_name)


def step_down(service: str, *, config: Path, state: Path | None = None) -> User | None:
    """As root, change to the service's user for good; as another user, do nothing.

    The service's own folder in ``/var/lib`` is made, or given to that user, as systemd does at a start.

    Returns:
        The new user of this process. None if it was not root, or if no user is found; the log then says that models
        run
                as root.

    """
    if os.geteuid() != 0:
        return None
    user = service_user(service, config=config, state=state)
    if user is None:
        warn_root(service)
        return None
    if state == Path("/var/lib") / service:
        _give(state, user)
    if user.name:
        os.initgroups(user.name, user.gid)
    else:
        os.setgroups([])
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise NotAllowedError(f"root could not step down to {user}: {os.strerror(ctypes.get_errno())}")
    return user


def _give(state: Path, user: User) -> None:
    """Make a folder that belongs to a user. A read-only disk is reported by the command itself."""
    try:
        state.mkdir(mode=0o700, exist_ok=True)
        if state.lstat().st_uid != user.uid:
            os.chown(state, user.uid, -1, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        log.warning("%s is on a read-only file system", state)


def another_user(service: str, *, config: Path, state: Path | None = None) -> str:
    """The user of the service with this config, if this process runs as another one; else empty."""
    user = service_user(service, config=config, state=state)
    return "" if user is None or user.uid == os.geteuid() else str(user)


def warn_root(service: str) -> None:
    """Log that models run as root, if they do."""
    if os.geteuid() == 0:
        log.warning("models run as root here; use an unprivileged user instead, as the service %s does", service)


def refuse_root_for(service: str, *, config: Path, state: Path) -> None:
    """Refuse to run the program as root on another user's state, which that user could then no longer use."""
    if os.geteuid() != 0:
        return
    user = service_user(service, config=config, state=state)
    if user is not None and state.exists() and state.stat().st_uid == user.uid:
        raise NotAllowedError(
            f"{state} belongs to {user}, but this is root",
            remedy=f"run 'systemctl start {service}', or this as that user",
        )
    warn_root(service)
