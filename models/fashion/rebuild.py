"""Rebuild all committed files of the fashion model: one command, about half an hour of one core.

usage: python -m models.fashion.rebuild [-o DIR]

Makes an environment of its own (``build/fashion/venv``, from requirements.txt), trains the network, writes it as
float32 and int8 ``.tflite``, picks the committed test and calibration pictures, and trains the noise-aware tails.
Needs the pictures: apt-get install dataset-fashion-mnist. The trained network is stored in ``build/fashion`` and
reused by the next run; delete that folder to start again. The tests never train.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORK = ROOT / "build" / "fashion"
_INSIDE = "--inside"


def main() -> int:
    """Make the environment and run the steps inside it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="models.fashion.rebuild", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("-o", "--output", type=Path, default=HERE, metavar="DIR", help="default: this folder")
    parser.add_argument(_INSIDE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return _rebuild(options.output)
    python = WORK / "venv" / "bin" / "python"
    ready = WORK / "venv" / "ready"
    requirements = HERE / "requirements.txt"
    if not ready.is_file() or ready.stat().st_mtime < requirements.stat().st_mtime:
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)  # noqa: S603
        subprocess.run([str(python), "-m", "pip", "install", "-q", "-r", str(requirements)], check=True)  # noqa: S603
        ready.touch()
    command = [str(python), "-m", "models.fashion.rebuild", "-o", str(options.output.resolve()), _INSIDE]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False).returncode  # noqa: S603


def _rebuild(output: Path) -> int:
    from models.fashion import fashion_mnist, steps

    if not fashion_mnist.FOLDER.is_dir():
        print(f"rebuild: no {fashion_mnist.FOLDER}; apt-get install dataset-fashion-mnist", file=sys.stderr)
        return os.EX_NOINPUT
    for folder in (WORK, output / "tails"):
        folder.mkdir(parents=True, exist_ok=True)
    started_s = time.monotonic()
    for step in (steps.network, steps.pictures, steps.models, steps.noise_tails):
        step(WORK, output)
        print(f"{step.__name__} done after {time.monotonic() - started_s:.0f} s", file=sys.stderr, flush=True)
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
