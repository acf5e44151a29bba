"""The interface of every source: its frames, its table in the config, and the answers it is told of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import numpy as np

from edge_runtime.config.kind_table import KindTable, Label
from split_model.arrays import Array
from split_model.bundle.manifest import ImagePreprocess, TensorSpec
from split_model.errors import BadInputError, ConfigError
from split_model.features.placement import Placement
from split_model.features.preprocess import picture_tensor, to_stored

#: ``all``: every frame is answered, and a source that is faster than the answers has to wait. ``latest``: a frame
#: that nobody has taken yet gives way to the next one, counted as ``dropped``.
Policy: TypeAlias = Literal["all", "latest"]


class Frame(msgspec.Struct, frozen=True):
    """One input and when it was captured. ``tensors`` are the model's inputs, none where ``error`` says why.

    ``source``: the name of the source in the config. ``subject``: what the ledger's account is of. ``ticket``: what
    the source wants to find again in the answer. ``placement``: where the picture lies in the input, if it is one.
    """

    index: int
    name: str
    tensors: tuple[Array, ...]
    label: int | None
    captured_s: float
    error: str = ""
    source: str = ""
    subject: str = "default"
    ticket: Any = None
    placement: Placement | None = None


class Answer(msgspec.Struct, frozen=True):
    """How a frame ended: its record as the sinks write it, and the model's raw outputs, none where it failed."""

    frame: Frame
    record: Mapping[str, Any]
    outputs: Sequence[Array] = ()


@dataclass(frozen=True)
class Wanted:
    """What a source has to bring: tensors of these ``inputs``, or pictures where the model has ``preprocess``.

    ``outputs``: the tensors of an answer. ``labels``: the names of the classes, if the model has any.
    ``state``: a folder where a source may keep its state. ``model``: the bundle's name.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...] = ()
    preprocess: ImagePreprocess | None = None
    labels: tuple[str, ...] | None = None
    state: Path = field(default_factory=Path)
    model: str = ""

    def fit(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        """Arrays as the model's inputs. `BadInputError` says what does not fit.

        Each array is one input as the model stores it, its batch axis of 1 left out or in, or float32 in real units
        for a quantised input. One uint8 [height, width, channels] (or [height, width]) is taken for a picture where
        the model declares its pre-processing, unless it already is the model's input.
        """
        if len(arrays) != len(self.inputs):
            raise BadInputError(f"{len(arrays)} tensors, the model takes {len(self.inputs)}")
        return tuple(self._fit(array, spec) for array, spec in zip(arrays, self.inputs, strict=True))

    def placement(self, arrays: Sequence[Array]) -> Placement | None:
        """Where the one picture among arrays that `fit` takes lies in the model's input; None for other arrays."""
        if self.preprocess is None or len(arrays) != 1 or len(self.inputs) != 1:
            return None
        array, spec = arrays[0], self.inputs[0]
        is_input = array.dtype.name == spec.dtype and array.shape in (spec.shape, spec.shape[1:])
        if is_input or array.dtype != np.uint8 or array.ndim not in {2, 3}:
            return None
        return Placement.of(self.preprocess, *array.shape[:2])

    def _fit(self, array: Array, spec: TensorSpec) -> Array:
        stored = array.dtype.name == spec.dtype
        if array.shape not in (spec.shape, spec.shape[1:] if spec.shape[:1] == (1,) else spec.shape) or not (
            stored or (array.dtype == np.float32 and spec.scale)
        ):
            if self.preprocess is not None and array.dtype == np.uint8 and array.ndim in {2, 3}:
                return picture_tensor(array, self.preprocess, spec)
            also = ", or a picture uint8[height, width, channels]" if self.preprocess is not None else ""
            raise BadInputError(
                f"{array.dtype.name}{list(array.shape)}, the model takes {spec.dtype}{list(spec.shape)}{also}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BadInputError("holds values that are not finite")
        shaped = array.reshape(spec.shape)
        return shaped if stored else to_stored(shaped, spec)


class Source(ABC):
    """Makes frames in a thread of its own. What is wrong for good is raised; what comes back is waited for.

    ``on_demand``: a frame counts as captured when it is taken, as those of a file do. ``queue_frames``: the limit
    of waiting frames under the policy ``all``. ``waits_for_sinks``: it hears `unkept` instead of `answered` of an
    answer that not every sink has taken.
    """

    policy: Policy = "all"
    queue_frames: int = 1
    on_demand: bool = False
    waits_for_sinks: bool = False

    @abstractmethod
    def frames(self, stopped: Callable[[], bool]) -> Iterator[Frame | Callable[[], Frame]]:
        """Frames as they come, or a function that makes one, called only if it is taken.

        Their ``index``, ``source`` and ``subject`` are set by whoever takes them.

        Ends soon (within a quarter of a second) once ``stopped()`` holds, but not before it has given the
        frames that it has already accepted.
        """

    def answered(self, answer: Answer) -> None:  # noqa: B027  most sources do not care
        """Hear how one of its frames ended, after the sinks have it. In the frame loop's thread: be quick."""

    def unkept(self, answer: Answer) -> None:  # noqa: B027  most sources do not care
        """Hear of an answer that a sink could not take, if it ``waits_for_sinks``."""

    @property
    def trouble(self) -> str:
        """What keeps it from giving frames now, in a few words; empty while all is well. Read from any thread."""
        return ""

    def counters(self) -> dict[str, int]:
        """What happened to it, for the log and the status, in numbers with names."""
        return {}

    def renewed(self) -> Source | None:
        """Make its successor, with the same memory, because a call of this one does not return.

        None: open one from the config. This one may still come back: its ``stopped()`` holds from now on.
        """
        return None

    def close(self) -> None:  # noqa: B027  most sources hold nothing
        """Let go of its resources; `frames` has ended, and no answer will come any more."""


class SourceTable(KindTable, frozen=True, kw_only=True):
    """A source in the config. A kind of source is a subclass with its own keys and ``tag=`` its name.

    ``subject``: what the frames are of, by which the privacy ledger keeps accounts. ``frame_within_s``: how long
    one picture of a camera, or one call of another source, may take before it counts as hanging. Unless set: a
    camera has ten times what its rate says and five seconds at least, any other source thirty seconds.
    """

    subject: Label = "default"
    frame_within_s: Annotated[float, msgspec.Meta(gt=0.0, le=3600.0)] | None = None

    def check(self, wanted: Wanted) -> None:
        """Raise a fault of the config or the board, touching nothing that a running program uses."""

    def reach(self) -> str:
        """Try the way to a source on the network, for ``config check --connect``.

        Returns:
            What was tried, for people; empty for a source that is not on the network.

        Raises:
            SplitModelError: The way leads nowhere.

        """
        return ""

    def open(self, wanted: Wanted) -> Source:
        """Open the source, or raise a `SplitModelError` that says why it cannot be. Every kind has its own."""
        raise ConfigError(
            f"source {self.label}: kind {self.kind!r} has no method 'open' ({wanted.inputs})",
            remedy="define it in the kind's class",
        )
