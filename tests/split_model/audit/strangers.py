"""A small model that is none of ours, with pictures: what the audit has to find faults in without knowing it."""

from __future__ import annotations

import json

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from models import flatbuffer
from split_model.prepare.calibrate.allocators import TrialOptions
from split_model.prepare.calibrate.calibration import CalibrationOptions
from split_model.prepare.codebook.codebooks import CodebookWish
from split_model.prepare.pipeline import PrepareOptions, prepare

SIDE, CUT = 16, 1


def model() -> bytes:
    """A convolution of stride 2, a global mean, a dense layer: weights from a generator."""
    generator = np.random.default_rng(5)
    graph = flatbuffer.Graph("stranger")
    source = graph.tensor("input", (1, SIDE, SIDE, 3))
    kernel = graph.tensor("kernel", (6, 3, 3, 3), generator.normal(0, 0.4, (6, 3, 3, 3)).astype(np.float32))
    bias = graph.tensor("bias", (6,), np.full(6, 0.2, np.float32))
    options = schema.Conv2DOptionsT()
    options.strideH = options.strideW = 2
    options.dilationHFactor = options.dilationWFactor = 1
    options.padding = schema.Padding.SAME
    options.fusedActivationFunction = flatbuffer.RELU
    maps = graph.op("CONV_2D", [source, kernel, bias], graph.tensor("maps", (1, 8, 8, 6)), options)
    dense = generator.normal(0, 0.1, (4, 8 * 8 * 6)).astype(np.float32)
    inputs = [maps, graph.tensor("dense", dense.shape, dense)]
    answer = graph.op("FULLY_CONNECTED", inputs, graph.tensor("answer", (1, 4)), schema.FullyConnectedOptionsT())
    return graph.finish(source, answer)


def pictures(count: int, seed: int) -> np.ndarray:
    """Coloured discs on a shaded ground, uint8 [count, SIDE, SIDE, 3]."""
    generator = np.random.default_rng(seed)
    down, across = np.mgrid[:SIDE, :SIDE]
    found = np.empty((count, SIDE, SIDE, 3), np.float64)
    for picture in found:
        ground = np.linspace(*generator.uniform(0, 255, 2), SIDE)
        picture[:] = ground[:, None, None]
        (top, left), radius = generator.uniform(3, SIDE - 3, 2), generator.uniform(2, 5)
        picture[(down - top) ** 2 + (across - left) ** 2 < radius**2] = generator.uniform(0, 255, 3)
    return found.astype(np.uint8)


def bundle_in(folder, *, codebook: bool = False):
    """Prepare it in a folder, with its pictures beside it as ``mine.npz``."""
    (folder / "stranger.tflite").write_bytes(model())
    declared = {"resize": SIDE, "crop": [SIDE, SIDE], "mean": [0.0], "scale": [255.0], "filter": "bilinear"}
    (folder / "preprocess.json").write_text(json.dumps(declared))
    np.savez(folder / "public.npz", pictures=pictures(64, 1))
    np.savez(folder / "mine.npz", pictures=pictures(40, 2))
    return prepare(
        PrepareOptions(
            model=folder / "stranger.tflite",
            output=folder / "bundle",
            cuts=(CUT,),
            preprocess=folder / "preprocess.json",
            calibration=folder / "public.npz",
            calibration_options=CalibrationOptions(samples=20, weight_samples=2, tail_runs=1),
            trial_options=TrialOptions(samples=2, draws=1),
            codebooks=(CodebookWish(CUT, 8),) if codebook else (),
        ),
        lambda *_: None,
    )
