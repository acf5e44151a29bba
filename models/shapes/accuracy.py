"""Measure the accuracy of the shape models on the generated test pictures, without a release.

usage: python -m models.shapes.accuracy BUNDLE [--pictures DIR]

For the detector: mean average precision at an IoU of 0.5, by the boxes in ``test.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np

from models.shapes.pictures import LABELS
from split_model.answers.detections import Found
from split_model.answers.measures import Figures
from split_model.answers.reader import AnswerReader
from split_model.bundle import Bundle
from split_model.features.data import open_data
from split_model.interpreter import open_interpreter
from split_model.prepare.outputs import real_outputs


def main() -> int:
    """Print the figure; returns the exit code."""
    parser = argparse.ArgumentParser(prog="models.shapes.accuracy", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--pictures", type=Path, default=Path("build/shapes"), metavar="DIR")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    manifest, reader = bundle.manifest, AnswerReader.of(bundle)
    truth = json.loads((options.pictures / "test.json").read_text())
    whole = open_interpreter(bundle.path(manifest.model))
    figures = Figures(manifest, "mAP50")
    for sample in open_data(options.pictures / "test", manifest.inputs, manifest.preprocess):
        assert sample.placement is not None
        known = truth[sample.name]
        boxes = np.array([one["box"] for one in known], np.float64).reshape(-1, 2, 2)
        there = Found(
            sample.placement.to_input(boxes).reshape(-1, 4),
            np.ones(len(known)),
            np.array([LABELS.index(one["label"]) for one in known], np.int64),
        )
        figures.add([reader.read(real_outputs(whole, sample.tensors))], there)
    value, low, high, count = figures.mean()
    print(f"mAP50 {value:.3f} [{low:.2f}, {high:.2f}] by the truth, {count} pictures")
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
