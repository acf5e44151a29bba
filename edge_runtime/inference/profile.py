"""Measures the time of every split on this board, and keeps the profile in the state folder."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from edge_runtime.board.board import Board
from edge_runtime.board.cpu_load import Speed
from edge_runtime.board.cpu_speed import speed_of
from edge_runtime.inference.heads import Head, Heads
from split_model.arrays import Array
from split_model.bundle import Bundle, Cut
from split_model.bundle.manifest import TensorSpec
from split_model.errors import OutputError
from split_model.service.atomic_file import write_atomically
from split_model.service.state_folder import make_state_folder

log = logging.getLogger(__name__)

_WARM_UPS = 2
#: A slot is the longest measured time, times the first, plus the second (seconds) for the program's own work.
_SLOT, _SLOT_S = 1.25, 0.001


class SplitTiming(msgspec.Struct, frozen=True, kw_only=True):
    """Median seconds of a head and its release on an idle board, and the payload of one frame in bytes.

    ``head_slot_s`` and ``release_slot_s``: upper bounds of their times over `worst_inputs`; None if not measured.
    """

    split: int
    head_s: float
    head_p95_s: float
    release_s: float
    payload_bytes: int
    head_slot_s: float | None = None
    release_slot_s: float | None = None


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Timings of all offered splits, ``local`` last, and their conditions.

    ``spin_cpu_s``, ``clock_mhz``, ``cpus``: the processor's speed meanwhile (`cpu_load.Speed`), where it is known.
    """

    bundle: str
    backend: str
    threads: int
    slowdown: float
    release: str
    splits: tuple[SplitTiming, ...]
    spin_cpu_s: float | None = None
    clock_mhz: float | None = None
    cpus: float | None = None

    @property
    def speed(self) -> Speed:
        """The processor's speed when this was measured."""
        return Speed(self.spin_cpu_s, self.clock_mhz, self.cpus)

    @property
    def has_slots(self) -> bool:
        """Whether the longest times were measured, too."""
        return all(timing.head_slot_s is not None and timing.release_slot_s is not None for timing in self.splits)

    def in_slots(self) -> Profile:
        """Return the profile of a board whose work always fills its slot."""
        return msgspec.structs.replace(self, splits=tuple(_in_slots(timing) for timing in self.splits))

    @property
    def local(self) -> SplitTiming:
        """The whole model's timing."""
        return self.splits[-1]


def measure(
    bundle: Bundle,
    heads: Heads,
    board: Board,
    *,
    release: str,
    threads: int,
    slots: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    runs: int = 5,
    progress: Callable[[str], None] = log.info,
) -> Profile | None:
    """Time every offered head and the whole model on this board (medians over ``runs`` after a warm-up).

    With ``slots`` it also measures the longest times, on `worst_inputs`. Returns None as soon as ``stopped`` holds:
    on a slow board this takes minutes.
    """
    inputs = plausible(bundle.manifest.inputs)
    worst = worst_inputs(bundle.manifest.inputs) if slots else []
    speed = speed_of(board)
    splits = []
    for cut in bundle.manifest.cuts:
        if stopped():
            return None
        splits.append(_time_cut(cut, heads, board, inputs, runs, worst=worst))
        progress(f"cut {cut.index}: head {splits[-1].head_s * 1e3:.1f} ms")
    whole = _time_whole(heads, board, inputs, runs)
    longest = [took_s for one in worst for took_s in _time_whole(heads, board, one, runs)]
    local = SplitTiming(
        split=bundle.local,
        head_s=float(np.median(whole)),
        head_p95_s=max(whole),
        release_s=0.0,
        payload_bytes=0,
        head_slot_s=_slot_s([*whole, *longest]) if slots else None,
        release_slot_s=0.0 if slots else None,
    )
    progress(f"local: {local.head_s * 1e3:.1f} ms")
    return Profile(
        bundle=bundle.identity,
        backend=heads.whole.backend,
        threads=threads,
        slowdown=board.slowdown,
        release=release,
        splits=(*splits, local),
        spin_cpu_s=speed.spin_s,
        clock_mhz=speed.clock_mhz,
        cpus=speed.cpus,
    )


def _time_cut(
    cut: Cut, heads: Heads, board: Board, inputs: Sequence[Array], runs: int, *, worst: Sequence[Sequence[Array]]
) -> SplitTiming:
    """Load a head, time it, and drop it before the next one is loaded: the board's memory may not hold two."""
    head = heads.load(cut.index)
    for _ in range(_WARM_UPS):
        head.release(head.features(inputs))
    pairs = _time_head(head, board, inputs, runs)
    longest = [*pairs, *(pair for one in worst for pair in _time_head(head, board, one, runs))]
    head_times = [pair[0] for pair in pairs] if cut.head is not None else [0.0]
    return SplitTiming(
        split=cut.index,
        head_s=float(np.median(head_times)),
        head_p95_s=max(head_times),
        release_s=float(np.median([pair[1] for pair in pairs])),
        payload_bytes=head.release.payload_bytes,
        head_slot_s=_slot_s([pair[0] for pair in longest]) if worst else None,
        release_slot_s=_slot_s([pair[1] for pair in longest]) if worst else None,
    )


def _time_head(head: Head, board: Board, inputs: Sequence[Array], runs: int) -> list[tuple[float, float]]:
    """Seconds of head and release, one pair for each run."""
    pairs = []
    for _ in range(runs):
        features, head_s = board.run(lambda: head.features(inputs))
        _, release_s = board.run(lambda x=features: head.release(x))  # type: ignore[misc]
        pairs.append((head_s, release_s))
    return pairs


def _slot_s(times_s: Sequence[float]) -> float:
    return _SLOT * max(times_s) + _SLOT_S


def _in_slots(timing: SplitTiming) -> SplitTiming:
    head_s, release_s = timing.head_slot_s, timing.release_slot_s
    assert head_s is not None  # `has_slots`
    assert release_s is not None
    return msgspec.structs.replace(timing, head_s=head_s, head_p95_s=head_s, release_s=release_s)


def _time_whole(heads: Heads, board: Board, inputs: Sequence[Array], runs: int) -> list[float]:
    for _ in range(_WARM_UPS):
        heads.whole.run(inputs)
    return [board.run(lambda: heads.whole.run(inputs))[1] for _ in range(runs)]


def plausible(specs: Sequence[TensorSpec]) -> list[Array]:
    """Make inputs for measuring, in the model's shapes and dtypes: waves, as zeros may run faster than data.

    `numpy.random` is not used, as it takes 4 MB of a board's memory.
    """
    return [_wave(spec.shape, spec.dtype) for spec in specs]


def worst_inputs(specs: Sequence[TensorSpec]) -> list[list[Array]]:
    """Make inputs on which a head may run longest, to find the length of its slot.

    For floats: denormal numbers (the smallest are slowest on some processors), numbers with denormal products,
    large numbers, and all zeros. For integers: all zeros, and the limits of the type in turn.
    """
    scales = (1e-44, 1e-40, 1e-20, 1e3, 0.0)
    return [[_scaled(array, scale) for array in plausible(specs)] for scale in scales]


def _scaled(array: Array, scale: float) -> Array:
    kind = array.dtype.kind
    if kind == "f":
        least = float(np.finfo(array.dtype).smallest_subnormal)  # float16: all the small numbers are denormal
        sizes = np.abs(array).astype(np.float64) * scale
        return (np.maximum(sizes, 2 * least) if 0.0 < scale < 1.0 else sizes).astype(array.dtype)
    if scale == 0.0 or kind == "b" or array.dtype.itemsize > 2:  # indices must stay within their tables
        return np.zeros_like(array) if scale == 0.0 else array
    limits = np.iinfo(array.dtype)
    return np.where(np.arange(array.size).reshape(array.shape) % 2 == 0, limits.min, limits.max).astype(array.dtype)


def _wave(shape: tuple[int, ...], dtype: str) -> Array:
    kind = np.dtype(dtype)
    wave: Array = np.sin(np.arange(math.prod(shape), dtype=np.float32) * np.float32(0.7)).reshape(shape)
    if kind.kind == "f":
        return wave.astype(kind)
    if kind.kind == "b" or kind.itemsize > 2:  # indices or lengths: the table has at least two entries
        return (wave > 0).astype(kind)
    limits = np.iinfo(kind)
    low, high = max(limits.min, -128), min(limits.max, 127)
    return (low + (wave + 1.0) * ((high - low) / 2)).astype(kind)


def path_in(state: Path, identity: str) -> Path:
    """Path of a bundle's profile in a state folder."""
    return state / f"profile-{identity[:16]}.json"


def find(
    path: Path,
    bundle: Bundle,
    heads: Heads,
    board: Board,
    *,
    release: str,
    threads: int,
    slots: bool = False,
    stopped: Callable[[], bool],
    progress: Callable[[str], None],
    keep: bool,
) -> Profile | None:
    """Return the stored profile if it still fits, else measure one; None if ``stopped`` held first.

    Args:
        path: Where profiles of this bundle are stored.
        bundle: The bundle, with the offered cuts only.
        heads: Its heads.
        board: What they run on.
        release: The release's name.
        threads: CPU threads of one inference.
        slots: Measure the longest times, too.
        stopped: Called between two cuts; ends the measurement when it returns true.
        progress: Called with the name of each measurement.
        keep: Store a new profile. One that a board measures while it answers frames must not be used later.

    """
    stored = load(path)
    splits = [*(cut.index for cut in bundle.manifest.cuts), bundle.local]
    wanted = (bundle.identity, heads.whole.backend, threads, board.slowdown, release)
    if stored is not None and [timing.split for timing in stored.splits] == splits:
        found = (stored.bundle, stored.backend, stored.threads, stored.slowdown, stored.release)
        if found == wanted and (stored.has_slots or not slots):
            return stored
    log.info("measuring this board, at %d cuts and the whole model", len(bundle.manifest.cuts))
    profile = measure(
        bundle, heads, board, release=release, threads=threads, slots=slots, stopped=stopped, progress=progress
    )
    if profile is not None and keep:
        keep_for_later(path, profile)
    return profile


def load(path: Path) -> Profile | None:
    """Read a stored profile; None if there is none or it cannot be read (it is then measured again)."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Profile)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        log.warning("%s: %s; measuring again", path, error)
        return None


def keep_for_later(path: Path, profile: Profile) -> None:
    """Store a profile. A failure is logged and means only that the next start measures again."""
    try:
        store(path, profile)
    except OutputError as error:
        log.warning("%s; the board is measured again at the next start", error)


def store(path: Path, profile: Profile) -> None:
    """Write a profile atomically; `OutputError` if it cannot be written."""
    try:
        make_state_folder(path.parent)
        write_atomically(path, msgspec.json.format(msgspec.json.encode(profile), indent=1))
    except OSError as error:
        raise OutputError(
            f"{path}: {error.strerror}", remedy="set device.state to a folder that this program may write to"
        ) from None
