"""The interface of every source: its frames, the answers to them, and its table in the config."""

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

#: ``all``: every frame is answered, and a source that is faster than the answers has to wait. ``latest``: a new
#: frame #: replaces a waiting one, which counts as ``dropped``.
Policy: TypeAlias = Literal["all", "latest"]


class Frame(msgspec.Struct, frozen=True):
    """One input and the time of its capture. ``tensors``: the model's inputs, none if there is an ``error``.

    ``source``: the name of the source in the config. ``subject``: its account in the ledger. ``ticket``: any value
    for the source, which comes back with the answer. ``placement``: the picture's place in the input, if it is one.
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
    """The outcome of a frame: its record as in the sinks, and the model's raw outputs, none if it failed."""

    frame: Frame
    record: Mapping[str, Any]
    outputs: Sequence[Array] = ()


@dataclass(frozen=True)
class Wanted:
    """The frames that a source has to give: tensors of ``inputs``, or pictures if there is a ``preprocess``.

    ``outputs``: the tensors of an answer. ``labels``: the class names, if the model has any. ``state``: a folder
    for the source's own state. ``model``: the bundle's name.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...] = ()
    preprocess: ImagePreprocess | None = None
    labels: tuple[str, ...] | None = None
    state: Path = field(default_factory=Path)
    model: str = ""

    def fit(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        """Convert arrays to the model's inputs; `BadInputError` if they do not fit.

        Each array is one input as the model stores it, with or without the batch axis of 1, or float32 in real
        units for a quantised input. If the model declares its pre-processing, one uint8 [height, width, channels]
        (or [height, width]) is taken as a picture, unless it already is the model's input.
        """
        if len(arrays) != len(self.inputs):
            raise BadInputError(f"{len(arrays)} tensors, the model takes {len(self.inputs)}")
        return tuple(self._fit(array, spec) for array, spec in zip(arrays, self.inputs, strict=True))

    def placement(self, arrays: Sequence[Array]) -> Placement | None:
        """The place in the model's input of a picture that `fit` accepts; None for other arrays."""
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
    """A source of frames, read in its own thread. It raises lasting faults, and waits for passing ones.

    ``on_demand``: a frame counts as captured when it is taken, like a sample of a file. ``queue_frames``: the limit
    of waiting frames under the policy ``all``. ``waits_for_sinks``: `unkept` is called instead of `answered` for an
    answer that not every sink has taken.
    """

    policy: Policy = "all"
    queue_frames: int = 1
    on_demand: bool = False
    waits_for_sinks: bool = False

    @abstractmethod
    def frames(self, stopped: Callable[[], bool]) -> Iterator[Frame | Callable[[], Frame]]:
        """Yield frames as they come, or functions that make one, called only if the frame is taken.

        The caller sets ``index``, ``source`` and ``subject``. Once ``stopped()`` holds, it ends within a quarter of
        a second, after it has yielded the frames that it already accepted.
        """

    def answered(self, answer: Answer) -> None:  # noqa: B027  most sources do not care
        """Receive the outcome of a frame, after the sinks. Called in the frame loop's thread: be quick."""

    def unkept(self, answer: Answer) -> None:  # noqa: B027  most sources do not care
        """Receive an answer that a sink could not take; only with ``waits_for_sinks``."""

    @property
    def trouble(self) -> str:
        """The present fault that stops its frames, in a few words, or empty. Read from any thread."""
        return ""

    def counters(self) -> dict[str, int]:
        """The source's own counters by name, for the log and the status."""
        return {}

    def renewed(self) -> Source | None:
        """Make a successor with the same state, because a call of this source does not return.

        None: open one from the config instead. The call may still return later; this source's ``stopped()`` then
            holds.
        """
        return None

    def close(self) -> None:  # noqa: B027  most sources hold nothing
        """Release the source's resources; called after `frames` has ended and after the last answer."""


class SourceTable(KindTable, frozen=True, kw_only=True):
    """A source in the config. A kind of source is a subclass with its own keys and ``tag=`` its name.

    ``subject``: the person or thing that the frames show; the privacy ledger has an account for each subject.
    ``frame_within_s``: seconds after which one picture of a camera, or one call of another source, counts as
    hanging. Default for a camera: ten times the interval of its rate, at least five seconds; for other sources:
    thirty seconds.
    """

    subject: Label = "default"
    frame_within_s: Annotated[float, msgspec.Meta(gt=0.0, le=3600.0)] | None = None

    def check(self, wanted: Wanted) -> None:
        """Raise a fault of the config or the board, touching nothing that a running program uses."""

    def reach(self) -> str:
        """Try to reach a source on the network, for ``config check --connect``.

        Returns:
            The result as text; empty for a source that is not on the network.

        Raises:
            SplitModelError: The source cannot be reached.

        """
        return ""

    def look(self, wanted: Wanted) -> str:  # noqa: ARG002  kinds use it
        """Take a frame and let go of the source again, for ``doctor``, where no program has it.

        Args:
            wanted: What the frame is to be.

        Returns:
            What the source gives, for people; empty for one that is like any other of its kind.

        Raises:
            SplitModelError: It gives nothing.

        """
        return ""

    def open(self, wanted: Wanted) -> Source:
        """Open the source, or raise a `SplitModelError` with the reason. Every kind defines this method."""
        raise ConfigError(
            f"source {self.label}: kind {self.kind!r} has no method 'open' ({wanted.inputs})",
            remedy="define it in the kind's class",
        )
