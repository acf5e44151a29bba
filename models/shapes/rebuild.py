"""Rebuild the committed models of shapes: one command, about half an hour of one core, NumPy alone.

usage: python -m models.shapes.rebuild [-o DIR] [--steps N]

Draws 6,000 pictures for each network, trains it, and writes ``detector.tflite`` and ``segmenter.tflite``.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from models.shapes.network import Kind
from models.shapes.tflite_file import build
from models.shapes.training import train

HERE = Path(__file__).resolve().parent
STEPS: dict[Kind, int] = {"detector": 3000, "segmenter": 1600}


def main() -> int:
    """Train both and write them; returns the exit code."""
    parser = argparse.ArgumentParser(prog="models.shapes.rebuild", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("-o", "--output", type=Path, default=HERE, metavar="DIR", help="default: this folder")
    parser.add_argument("--steps", type=int, help="training steps of each network (default: 3000 and 1600)")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for kind, steps in STEPS.items():
        path = options.output / f"{kind}.tflite"
        path.write_bytes(build(kind, train(kind, steps=options.steps or steps)))
        print(path)
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
