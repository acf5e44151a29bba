"""Root steps down to the service's user before a command runs what a bundle brings.

``doctor`` and ``bench`` are started with sudo, because the secret key is root's. A model may have the backend do
what its maker wants, so they read the key first and go on as the service's user. There is no way back.
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
    """Whom to become. ``name`` is empty where the system has only a number for it."""

    uid: int
    gid: int
    name: str = ""

    def __str__(self) -> str:
        return self.name or f"user {self.uid}"


def service_user(service: str, *, config: Path, state: Path | None = None) -> User | None:
    """Find the user that a service with this config runs as; None if nothing tells, or if that is root.

    Args:
        service: The name of the service, which is also its user's and that of its folder in ``/etc``.
        config: The config file. One in the service's own folder is the service's.
        state: The folder that the program keeps its state in. Its owner is the user, whatever the config's place.

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
    """As root, become the service's user for good; for anyone else, do nothing.

    The service's own folder in ``/var/lib`` is made, or given to that user, as systemd does when it starts it.

    Returns:
        The user that this process is now. None where it was not root, and where no user is found: then the log says
        that models run as root.

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
    """Make a folder that belongs to a user. A disk that is read-only is for the command to tell of."""
    try:
        state.mkdir(mode=0o700, exist_ok=True)
        if state.lstat().st_uid != user.uid:
            os.chown(state, user.uid, -1, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        log.warning("%s is on a read-only file system", state)


def another_user(service: str, *, config: Path, state: Path | None = None) -> str:
    """The user that a service with this config runs as, if this process is somebody else; empty if not."""
    user = service_user(service, config=config, state=state)
    return "" if user is None or user.uid == os.geteuid() else str(user)


def warn_root(service: str) -> None:
    """Say in the log that models run as root, if they do."""
    if os.geteuid() == 0:
        log.warning("models run as root here; better: as a user of their own, as the service %s does", service)


def refuse_root_for(service: str, *, config: Path, state: Path) -> None:
    """Refuse to run the program itself as root on the state of another user, who could not use it any more."""
    if os.geteuid() != 0:
        return
    user = service_user(service, config=config, state=state)
    if user is not None and state.exists() and state.stat().st_uid == user.uid:
        raise NotAllowedError(
            f"{state} belongs to {user}, and this is root",
            remedy=f"run 'systemctl start {service}', or this as that user",
        )
    warn_root(service)
