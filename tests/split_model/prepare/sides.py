"""Both sides of one cut as bytes; the product packs each side into a file of its own."""

from __future__ import annotations

from split_model.prepare.tflite.cuts import CutPoint
from split_model.prepare.tflite.reading import ModelFile
from split_model.prepare.tflite.slicing import head_part, pack_part, tail_part


def slice_model(model: ModelFile, cut: CutPoint) -> tuple[bytes | None, bytes]:
    """Head and tail of one cut; no head for cut 0."""
    head = None if cut.index == 0 else bytes(pack_part(model, head_part(model.graph, cut)))
    return head, bytes(pack_part(model, tail_part(model.graph, cut)))
