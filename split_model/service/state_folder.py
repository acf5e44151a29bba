"""Makes a program's own folders, whatever the umask."""

from __future__ import annotations

import os
from pathlib import Path

#: The owner's; the group may look, as the local clients of a device do.
MODE = 0o750


def make_state_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing; one that is there stays as it is.

    A folder that root makes in another user's is that user's: a benchmark that an administrator runs must not keep
    the service out of its own state.

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
