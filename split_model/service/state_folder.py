"""Makes a program's own folders, independent of the umask."""

from __future__ import annotations

import os
from pathlib import Path

#: For the owner; the group may read, as the local clients of a device do.
MODE = 0o750


def make_state_folder(folder: Path) -> None:
    """Make a folder and its missing parents; an existing one is not changed.

    A folder that root makes inside another user's folder belongs to that user: a benchmark that an administrator
    runs must not lock the service out of its own state.

    Raises:
        OSError: It cannot be made.

    """
    if folder.is_dir():
        return
    above = next(place for place in folder.absolute().parents if place.exists())
    folder.mkdir(mode=MODE, parents=True, exist_ok=True)
    owner = above.stat()
    for made in (folder, *folder.parents):
        if made.absolute() == above:
            break
        made.chmod(MODE)
        if os.geteuid() == 0 and owner.st_uid != 0:
            os.chown(made, owner.st_uid, owner.st_gid)
