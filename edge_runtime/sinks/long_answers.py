"""Writes values too long for a line into files beside the lines, within a limit on the disk."""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from split_model.answers.lines import MAX_INLINE_BYTES, without_png
from split_model.arrays import Array
from split_model.errors import OutputError
from split_model.service.atomic_file import write_atomically

_ENDINGS = (".npz", ".png")


class ValueFiles:
    """A folder of files that records name as ``file``; each is written atomically.

    The folder holds at most ``most_bytes``, files of earlier runs included: the oldest are deleted first.
    """

    def __init__(self, folder: Path, *, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._run = os.urandom(4).hex()  # a frame's index starts at 0 in every run
        self._written = 0
        self._sizes: deque[tuple[str, int]] | None = None
        self._bytes = 0

    def take(self, record: Mapping[str, Any], outputs: Sequence[Array]) -> Mapping[str, Any]:
        """Write values that are too long for a line into a file.

        Raises:
            OutputError: The file cannot be written.

        """
        found = record.get("map")
        if found is not None and len(found["png"]) > MAX_INLINE_BYTES:
            name = self._write(found["png"], ".png")
            return {**record, "map": {**without_png(found), "file": name}}
        missing = [at for at, told in enumerate(record.get("outputs", ())) if "values" not in told]
        if "vector" in record and "values" not in record["vector"]:
            missing = list(range(len(outputs)))
        if not missing or not outputs:
            return record
        content = io.BytesIO()
        named: dict[str, Any] = {f"output_{at}": outputs[at] for at in missing}
        np.savez(content, **named)
        return {**record, "file": self._write(content.getvalue(), ".npz")}

    def _write(self, content: bytes, ending: str) -> str:
        name = f"{self._run}-{self._written:08d}{ending}"
        self._written += 1
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            sizes = self._known()
            while sizes and self._bytes + len(content) > self._most_bytes:
                old, size = sizes.popleft()
                (self._folder / old).unlink(missing_ok=True)
                self._bytes -= size
            write_atomically(self._folder / name, content, durable=False)
        except OSError as error:
            raise OutputError(
                f"{self._folder}: {error.strerror}", remedy="make room, or set sink.values elsewhere"
            ) from None
        sizes.append((name, len(content)))
        self._bytes += len(content)
        return name

    def _known(self) -> deque[tuple[str, int]]:
        """The existing files, the oldest first."""
        if self._sizes is None:
            found = [
                (entry.stat().st_mtime_ns, entry.name, entry.stat().st_size)
                for entry in os.scandir(self._folder)
                if entry.is_file(follow_symlinks=False) and entry.name.endswith(_ENDINGS)
            ]
            self._sizes = deque((name, size) for _, name, size in sorted(found))
            self._bytes = sum(size for _, size in self._sizes)
        return self._sizes
