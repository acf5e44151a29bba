"""Trains the two networks on generated pictures: some twenty minutes of one core in all."""

from __future__ import annotations

import sys
import time

import numpy as np
from numpy.typing import NDArray

from models.shapes.network import NETWORKS, Adam, Floats, Kind, Parameters, Pass, initial
from models.shapes.pictures import LABELS, SIDE, Scene, scene

CELLS = SIDE // 8
#: Side of every anchor as a fraction of the picture, and the factors of offsets, as in TFLite's SSD.
ANCHOR = 0.3
SCALES = (10.0, 10.0, 5.0, 5.0)
_BATCH = 32
_RATE = 2e-3
_PICTURES = 6000
_INNER = 0.5  # an anchor is an example of a box where its centre is in this part of it


def train(kind: Kind, *, steps: int, seed: int = 0) -> Parameters:
    """Train one network; the same seed on the same machine gives the same parameters."""
    rng = np.random.default_rng((seed, kind == "detector"))
    scenes = [scene(rng) for _ in range(_PICTURES)]
    layers = NETWORKS[kind]
    parameters = initial(layers, rng)
    if kind == "detector":
        parameters["classes/bias"] -= 3.0  # most anchors hold nothing
    adam, began_s, shown = Adam(parameters), time.monotonic(), 0.0
    targets = [_boxes_of(one) if kind == "detector" else _mask_of(one) for one in scenes]
    for step in range(steps):
        chosen = rng.integers(0, len(scenes), _BATCH)
        pictures = np.stack([scenes[at].picture for at in chosen]).astype(np.float32) / 255
        target = np.stack([targets[at] for at in chosen])
        gain = rng.uniform(0.8, 1.2, (_BATCH, 1, 1, 3)).astype(np.float32)
        run = Pass(layers, parameters, (pictures * gain).clip(0, 1))
        loss, gradients = (_detection_loss if kind == "detector" else _mask_loss)(run, target)
        shown = loss if step == 0 else 0.98 * shown + 0.02 * loss
        rate = _RATE * 0.5 * (1 + np.cos(np.pi * step / steps)) + 1e-5
        adam.step(parameters, run.gradients(gradients), rate)
        if step % 100 == 99:
            print(
                f"{kind} {step + 1}/{steps} loss {shown:.4f}, {time.monotonic() - began_s:.0f} s", file=sys.stderr
            )
    return parameters


def anchors() -> NDArray[np.float64]:
    """Centre y, centre x, height and width of each anchor, fractions, row by row."""
    centres = (np.arange(CELLS) + 0.5) / CELLS
    y, x = np.meshgrid(centres, centres, indexing="ij")
    sides = np.full(y.size, ANCHOR)
    return np.stack([y.ravel(), x.ravel(), sides, sides], axis=1)


def _boxes_of(one: Scene) -> Floats:
    """Per anchor: 4 offsets, 1 where it holds a shape, 1 where that counts, and its class one-hot."""
    places = anchors()
    target = np.zeros((len(places), 6 + len(LABELS)), np.float32)
    target[:, 5] = 1.0
    for kind, box in zip(one.classes, one.boxes / SIDE, strict=True):
        cx, cy, width, height = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]
        dy, dx = places[:, 0] - cy, places[:, 1] - cx
        away = np.maximum(np.abs(dy) / height, np.abs(dx) / width) * 2
        inner = (away <= _INNER) | (np.hypot(dy, dx) == np.hypot(dy, dx).min())
        target[(away <= 1) & ~inner, 5] = 0.0  # neither an example nor a counter-example
        wanted = np.stack([-dy / ANCHOR * SCALES[0], -dx / ANCHOR * SCALES[1]], axis=1)
        target[inner, :2] = wanted[inner]
        target[inner, 2] = np.log(height / ANCHOR) * SCALES[2]
        target[inner, 3] = np.log(width / ANCHOR) * SCALES[3]
        target[inner, 4:6] = 1.0
        target[inner, 6:] = np.eye(len(LABELS))[kind]
    return target


def _detection_loss(run: Pass, target: Floats) -> tuple[float, dict[str, Floats]]:
    """Binary cross-entropy of classes (focal, exponent 1) and the Huber loss of offsets, a positive anchor."""
    logits, boxes = run.maps["classes"], run.maps["boxes"]
    shape, count = logits.shape, max(1.0, float(target[..., 4].sum()))
    truth, counts = target[..., 6:].reshape(shape), target[..., 5].reshape(*shape[:3], 1)
    p = 1 / (1 + np.exp(-logits.clip(-30, 30)))
    miss = np.abs(p - truth)
    weight = counts * miss / count
    loss = float((weight * -np.log(np.maximum(1 - miss, 1e-7))).sum())
    of_logits = (weight * (p - truth)).astype(np.float32) * 1.5
    positive = target[..., 4].reshape(*shape[:3], 1)
    off = (boxes - target[..., :4].reshape(boxes.shape)) * positive
    small = np.abs(off) < 1
    loss += float(np.where(small, 0.5 * off**2, np.abs(off) - 0.5).sum() / count) * 0.5
    of_boxes = (np.where(small, off, np.sign(off)) * 0.5 / count).astype(np.float32)
    return loss, {"classes": of_logits, "boxes": of_boxes}


def _mask_of(one: Scene) -> Floats:
    """The class of every second pixel, one-hot."""
    return np.eye(1 + len(LABELS), dtype=np.float32)[one.mask[::2, ::2]]


def _mask_loss(run: Pass, target: Floats) -> tuple[float, dict[str, Floats]]:
    """Cross-entropy a pixel; shapes count three times the ground."""
    logits = run.maps["mask"]
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p = powers / powers.sum(axis=-1, keepdims=True)
    weight = np.where(target[..., :1] == 1, 1.0, 3.0) / target[..., 0].size
    loss = float((weight * -np.log(np.maximum((p * target).sum(axis=-1, keepdims=True), 1e-7))).sum())
    return loss, {"mask": (weight * (p - target)).astype(np.float32)}
