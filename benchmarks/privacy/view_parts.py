"""The parts of `server_view`, and what the server saw of their rounds, in files, so that a run can go on later."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks import ROOT
from benchmarks.privacy.blocks import Observed
from split_model.service.atomic_file import write_atomically

#: What the figures depend on: the product from a frame to the wire, and how frames are played.
_CODE = (
    *(f"edge_runtime/{room}" for room in ("board", "daemon", "inference", "link", "loop", "planner", "privacy")),
    *(f"split_model/{room}" for room in ("interpreter", "privacy", "protocol")),
    *(
        f"benchmarks/privacy/{name}.py"
        for name in ("blocks", "departures", "pow_model", "view_play", "view_server")
    ),
)
#: A local run of the fashion model takes a fraction of a millisecond: left to itself the device would send nothing.
FIXED_SPLIT = {"fashion": 7}
#: By the kind of frames.
Round = dict[str, Observed]


class Part(msgspec.Struct, frozen=True):
    """What is played at once: all kinds of frames of a model, ``frames`` of each."""

    model: str
    pace: str
    scene: str
    hogs: int
    frames: int

    @property
    def name(self) -> str:
        """For its file."""
        return f"{self.model}-{self.pace}-{self.scene}-{self.hogs}-hogs-{self.frames}"

    @property
    def split(self) -> int | None:
        """The only split; None for the planner's choice."""
        return FIXED_SPLIT.get(self.model)


class _Code(msgspec.Struct, frozen=True):
    code: str


class _KeptPart(msgspec.Struct, frozen=True):
    code: str
    part: Part
    rounds: list[Round]


class Kept:
    """The rounds of parts in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        paths = [ROOT / name for name in _CODE]
        files = sorted(file for path in paths for file in (path.rglob("*.py") if path.is_dir() else (path,)))
        self._code = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()

    def parts(self) -> Iterator[Part]:
        """All parts of this code."""
        for path in sorted(self._folder.glob("*.json")):
            kept = self._read(path)
            if kept is not None:
                yield kept.part

    def rounds(self, part: Part) -> list[Round]:
        """Those of this code."""
        kept = self._read(self._path(part))
        return [] if kept is None else kept.rounds

    def keep(self, part: Part, rounds: list[Round]) -> None:
        """Write them all."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path(part), msgspec.json.encode(_KeptPart(self._code, part, rounds)))

    def _path(self, part: Part) -> Path:
        return self._folder / f"{part.name}.json"

    def _read(self, path: Path) -> _KeptPart | None:
        """A part, if it is there and of this code; other code may have written it in another form."""
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return None
        if msgspec.json.decode(raw, type=_Code).code != self._code:
            return None
        return msgspec.json.decode(raw, type=_KeptPart)
