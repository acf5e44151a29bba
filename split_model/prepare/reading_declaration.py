"""The declarations of ``--answer``: a kind of answer with its keys, or the outputs' names and meanings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from split_model.bundle import OutputSchema
from split_model.bundle.readings import MAX_DETECTIONS, BoxOrder, DetectionLayout, Unit
from split_model.bundle.records import Scores
from split_model.errors import BadInputError
from split_model.prepare.declaration import read_json, valid_keys

_Index = Annotated[int, msgspec.Meta(ge=0)]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class _Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    """Base of all declarations; a missing key comes from the model, or has the default of docs/own-model.md."""

    labels: str | None = None


class AnchorGrid(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Anchors as `split_model.answers.anchors.grid` makes them."""

    strides: tuple[Annotated[int, msgspec.Meta(ge=1)], ...]
    sides: tuple[tuple[tuple[float, float], ...], ...]


class DetectionsWish(_Wish, frozen=True, tag="detections"):
    """Declaration of an output of boxes, before defaults (`split_model.bundle.readings.Detections`).

    ``max_rows`` bounds an output whose rows depend on the data.
    """

    layout: DetectionLayout | None = None
    outputs: tuple[_Index, ...] | None = None
    order: BoxOrder | None = None
    unit: Unit | None = None
    scores: Scores | None = None
    background: bool = False
    anchors: str | AnchorGrid | None = None
    scales: tuple[float, float, float, float] | None = None
    sizes: Literal["exp", "linear"] = "exp"
    threshold: _Share = 0.4
    iou: _Share = 0.5
    suppress: Literal["class", "all", "none"] | None = None
    most: Annotated[int, msgspec.Meta(ge=1, le=MAX_DETECTIONS)] = 25
    first_label: _Index = 0
    max_rows: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] | None = None


class LandmarksWish(_Wish, frozen=True, tag="landmarks"):
    """Declaration of an output of points, before defaults (`split_model.bundle.readings.Landmarks`)."""

    output: _Index = 0
    values: Annotated[int, msgspec.Meta(ge=2)] | None = None
    order: Literal["xy", "yx"] = "xy"
    unit: Unit | None = None
    score: Annotated[int, msgspec.Meta(ge=2)] | None = None
    scores: Scores = "values"
    names: tuple[str, ...] = ()


class MapWish(_Wish, frozen=True, tag="map"):
    """Declaration of an output map, before defaults (`split_model.bundle.readings.ClassMap`).

    ``axis``: of the classes; -1 is the last.
    """

    output: _Index = 0
    axis: int | None = None
    scores: Scores | None = None


class VectorWish(_Wish, frozen=True, tag="vector"):
    """Declaration of an output vector, before defaults (`split_model.bundle.readings.Vector`)."""

    output: _Index = 0
    normalise: bool = False


ReadingWish: TypeAlias = DetectionsWish | LandmarksWish | MapWish | VectorWish
KINDS: dict[str, type[DetectionsWish | LandmarksWish | MapWish | VectorWish]] = {
    "detections": DetectionsWish,
    "landmarks": LandmarksWish,
    "map": MapWish,
    "vector": VectorWish,
}
CLASSES = "classes"


def read_answer(given: Path | None) -> tuple[tuple[OutputSchema, ...], ReadingWish | None]:
    """Read the value of ``--answer``: a kind, or a file with an object of one kind, or a list of outputs.

    Returns:
        The outputs' names and meanings, if declared, and the kind with its keys, if declared. Its paths are
        relative to
                the file's folder.

    Raises:
        MissingInputError: There is neither such a file nor such a kind.
        BadInputError: The file has other keys or values; the message lists the valid ones.

    """
    if given is None or str(given) == CLASSES:
        return (), None
    if str(given) in KINDS:
        return (), KINDS[str(given)]()
    choices = f"{CLASSES}, {', '.join(KINDS)}, or a JSON file"
    raw: object = read_json(given, object, f"an answer declaration; --answer takes {choices}")
    if isinstance(raw, list):
        return read_json(given, tuple[OutputSchema, ...], "an answer schema") or (), None
    kind = raw.get("kind") if isinstance(raw, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise BadInputError(
            f"{given}: {f'kind {kind!r}' if isinstance(raw, dict) and 'kind' in raw else 'it has no kind'}",
            remedy=f"valid kinds: {', '.join(KINDS)}; a list declares the outputs' names and meanings",
        )
    try:
        wish = msgspec.convert(raw, KINDS[kind])
    except msgspec.ValidationError as error:
        raise BadInputError(
            f"{given}: not a declaration of {kind}: {error}",
            remedy=f"valid keys: kind, {valid_keys(KINDS[kind])}",
        ) from None
    return (), _from_its_folder(wish, given.parent)


def _from_its_folder(wish: ReadingWish, folder: Path) -> ReadingWish:
    """Make the paths of a declaration relative to the working directory."""
    named: dict[str, Any] = {"labels": None if wish.labels is None else str(folder / wish.labels)}
    if isinstance(wish, DetectionsWish) and isinstance(wish.anchors, str):
        named["anchors"] = str(folder / wish.anchors)
    return msgspec.structs.replace(wish, **named)
