"""The stored audit of a bundle, which shows what a server can see: records, reading and writing.

``split-model audit --store`` writes them to ``audit.json`` in the bundle's folder, and the best network of each
release to ``audit/``; the device program reads the verdicts for ``planner.reveal_at_most``, and ``split-model
preview`` runs the networks. As with ``evaluation.json`` the manifest does not name these files, so an audit changes
neither the bundle's identity nor anything on the server; they name the bundle instead, and verdicts of another
bundle are never used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import msgspec

from split_model.bundle.records import FileRef
from split_model.bundle.store import Bundle, open_regular
from split_model.errors import BadBundleError, MissingInputError, OutputError
from split_model.privacy import CodebookSpec, NoiseSpec
from split_model.service.atomic_file import write_atomically

FORMAT = 1
FILE, FOLDER = "audit.json", "audit"
_MAX_BYTES = 16 << 20
_AGAIN = "remove it and run 'split-model audit ... --store' again"

#: Verdicts of what the strongest attack on one release sees.
Reveals = Literal["answer", "traces", "layout", "picture"]
#: The verdicts, from the least to the most.
LEVELS: tuple[Reveals, ...] = get_args(Reveals)
WORDS: dict[Reveals, str] = {
    "answer": "no more than the answer",
    "traces": "traces, not recognisable",
    "layout": "the layout is visible",
    "picture": "the picture is recognisable",
}


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all records."""


class Exposure(_Record, frozen=True):
    """The exposure of one release at one cut.

    ``spec``: of the noise release, ``codebook``: of the other one; neither for unprotected features.
    ``attacker``: the strongest on one release, ``ssim`` with its 95 % interval over ``pictures`` attacked ones.
    ``quick``: the attackers had little time. ``network``: a stored inverse network, with its SSIM ``network_ssim``;
    None if there is none.
    """

    cut: int
    spec: NoiseSpec | None
    codebook: CodebookSpec | None
    reveals: Reveals
    attacker: str
    ssim: float
    ssim_low: float
    ssim_high: float
    pictures: int
    quick: bool
    network: FileRef | None = None
    network_ssim: float | None = None

    @property
    def key(self) -> tuple[int, NoiseSpec | None, CodebookSpec | None]:
        """The cut and the release."""
        return self.cut, self.spec, self.codebook

    @property
    def text(self) -> str:
        """The verdict as text."""
        effort = ", a quick audit" if self.quick else ""
        return f"{WORDS[self.reveals]} (SSIM {self.ssim:.2f} by {self.attacker}, {self.pictures} pictures{effort})"


class Exposures(_Record, frozen=True):
    """All verdicts of a bundle. ``bundle``: its identity."""

    format: int
    bundle: str
    rows: tuple[Exposure, ...]
    made_by: str = ""

    def find(self, cut: int, spec: NoiseSpec | CodebookSpec | None) -> Exposure | None:
        """Find the verdict for exactly this release at a cut; None if it was not audited."""
        noise = spec if isinstance(spec, NoiseSpec) else None
        book = spec if isinstance(spec, CodebookSpec) else None
        return next((row for row in self.rows if row.key == (cut, noise, book)), None)


def at_most(reveals: Reveals, most: Reveals) -> bool:
    """Whether a verdict stays at or below another one."""
    return LEVELS.index(reveals) <= LEVELS.index(most)


def path_of(bundle: Bundle) -> Path:
    """Path of a bundle's verdicts."""
    return bundle.root / FILE


def load(bundle: Bundle) -> Exposures | None:
    """Read the stored verdicts of a bundle; None if there are none, or they are of another bundle.

    Raises:
        BadBundleError: The file has no valid verdicts.
        MissingInputError: It cannot be read.

    """
    path = path_of(bundle)
    try:
        with open_regular(path) as file:
            raw = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MissingInputError(
            f"{path}: {error.strerror or error}", remedy="audit the bundle, or make the file readable"
        ) from None
    if len(raw) > _MAX_BYTES:
        raise BadBundleError(f"{path}: over {_MAX_BYTES >> 20} MiB", remedy=_AGAIN)
    try:
        if (found := msgspec.json.decode(raw, type=_Head).format) != FORMAT:
            raise BadBundleError(f"{path}: format {found}, this version reads {FORMAT}", remedy=_AGAIN)
        known = msgspec.json.decode(raw, type=Exposures)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadBundleError(f"{path}: {error}", remedy=_AGAIN) from None
    return known if known.bundle == bundle.identity else None


def store(bundle: Bundle, found: Exposures, networks: dict[str, bytes]) -> Exposures:
    """Store verdicts with their bundle; returns all stored ones.

    Verdicts on other releases stay. One on the same release is replaced, but a full audit's never by a quick one's.
    The same verdicts give the same bytes.

    Args:
        bundle: The audited bundle.
        found: The verdicts.
        networks: The content of the networks that they name, by path in the bundle.

    Raises:
        OutputError: They cannot be written.

    """
    before = load(bundle)
    rows = {} if before is None else {row.key: row for row in before.rows}
    for row in found.rows:
        old = rows.get(row.key)
        if old is None or old.quick or not row.quick:
            rows[row.key] = row
    kept = msgspec.structs.replace(found, rows=tuple(sorted(rows.values(), key=_order)))
    path = path_of(bundle)
    wanted = {row.network.path for row in kept.rows if row.network is not None}
    try:
        (bundle.root / FOLDER).mkdir(exist_ok=True)
        for name in sorted(wanted & set(networks)):
            write_atomically(bundle.root / name, networks[name])
        write_atomically(path, msgspec.json.format(msgspec.json.encode(kept), indent=1) + b"\n")
        for old_file in (bundle.root / FOLDER).glob("*.npz"):
            if f"{FOLDER}/{old_file.name}" not in wanted:
                old_file.unlink()
    except OSError as error:
        raise OutputError(
            f"{path}: {error.strerror or error}", remedy="make the bundle's folder writable"
        ) from None
    return kept


def network_of(bundle: Bundle, row: Exposure) -> bytes | None:
    """Read a stored network, checked against the verdict; None if there is none.

    Raises:
        BadBundleError: The file is not the one that was stored.

    """
    return None if row.network is None else bundle.read(row.network)


class _Head(msgspec.Struct, frozen=True):
    format: int


def _order(row: Exposure) -> tuple[int, int, str, float, int, int]:
    if row.codebook is not None:
        return (row.cut, 2, "", -row.codebook.epsilon, row.codebook.codewords, row.codebook.groups)
    if row.spec is not None:
        return (row.cut, 1, row.spec.allocation, -row.spec.epsilon, row.spec.bits, 0)
    return (row.cut, 0, "", 0.0, 0, 0)
