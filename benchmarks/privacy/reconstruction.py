"""Attack the releases of the fashion model: a server that knows everything but the frame reconstructs it.

Four attackers, all of whom know the head, the mechanism and public pictures:

- *identify* has N candidate pictures, one of which is the frame's, and picks the most likely by the exact
  likelihood. Pure whole-input epsilon bounds how often anybody is right; the bound is printed beside.
- *posterior* averages public pictures by their exact likelihood (the frame itself is not among them).
- *linear* is the best linear inverse, *network* the convolutional one of the audit (``--network``). Both are
  trained on released features of public pictures.

Each sees one release of a frame, and the first two also 16 releases of the same one: noise averages out. SSIM of 1
is the picture itself; He et al. (ACSAC 2019) call one below 0.3 unrecognisable. As references: features that go out
unprotected; the mean public picture, which needs no release at all; and the mean public picture of the class
that the whole model answers, which the answer alone gives away.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.privacy.attacks import (
    CODEBOOK_CUT,
    CODEWORDS,
    CUTS,
    MODEL,
    REPEATS,
    Attack,
    Floats,
    Pictures,
    read_pictures,
    references,
    variants,
)
from split_model.prepare.codebook.codebooks import CodebookWish
from split_model.prepare.pipeline import PrepareOptions, prepare


def table(rows: Sequence[dict[str, Any]]) -> str:
    """For a terminal."""
    columns = ("posterior_1", f"posterior_{REPEATS}", "linear", "network")
    lines = [
        f"{'cut':>3}  {'release':<18} {'whole-input eps':>15}  {'found (bound)':>14}  {f'from {REPEATS}':>14}  "
        + "  ".join(f"{name:>12}" for name in columns)
    ]
    for row in rows:
        found = [
            f"{row[f'identified_{count}']:.2f} ({row[f'bound_{count}']:.2f})"
            if f"identified_{count}" in row
            else "-"
            for count in (1, REPEATS)
        ]
        cells = [
            f"{row[f'{name}_ssim']:.2f} {row[f'{name}_psnr_db']:5.1f}" if f"{name}_ssim" in row else "-"
            for name in columns
        ]
        lines.append(
            f"{row['cut']:>3}  {row['release']:<18} {row['whole_input_epsilon']:>15.6g}  "
            + "  ".join(f"{cell:>14}" for cell in found)
            + "  "
            + "  ".join(f"{cell:>12}" for cell in cells)
        )
    return "\n".join(lines)


def claims(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The bound of pure whole-input epsilon holds for every release."""
    found = []
    for row in rows:
        for count in (1, REPEATS):
            if f"identified_{count}" in row:
                value, goal = row[f"identified_{count}"], row[f"bound_{count}"]
                name = f"cut {row['cut']}, {row['release']}: found from {count}, at most the bound"
                found.append({"name": name, "value": value, "goal": goal, "holds": value <= goal})
    return found


def draw(path: Path, rows: Sequence[dict[str, Any]], pictures: Pictures, count: int = 8) -> None:
    """A sheet of the first victims: as they are, and as each attacker sees them."""
    from split_model.prepare.drawing import drawn

    lines: list[tuple[str, Floats]] = [("the frame", pictures.victims[:count])]
    for row in rows:
        best = max(row["_pictures"], key=lambda name: row[f"{name}_ssim"])
        lines.append(
            (
                f"cut {row['cut']}, {row['release']}\n{best}, SSIM {row[f'{best}_ssim']:.2f}",
                row["_pictures"][best][:count],
            )
        )
    with drawn(path, (2.6 + 0.7 * count, 0.72 * len(lines))) as figure:
        grid = figure.subplots(len(lines), count, squeeze=False)
        for axes, (label, shown) in zip(grid, lines, strict=True):
            for one, picture in zip(axes, shown, strict=True):
                one.imshow(np.clip(picture, 0, 1), cmap="gray_r", vmin=0, vmax=1)
                one.set_xticks([])
                one.set_yticks([])
            axes[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=7)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or the rows as JSON, and the claims as the last line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.privacy.reconstruction",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="rows as one JSON line instead of a table")
    parser.add_argument(
        "--epsilon",
        type=float,
        action="append",
        metavar="E",
        help="per-value epsilon of the noise (default: 16, 4, 1)",
    )
    parser.add_argument("--public", type=int, default=6_000, help="pictures that train the inverses (%(default)s)")
    parser.add_argument("--linear", type=int, default=3_000, help="those of them for the linear one (%(default)s)")
    parser.add_argument("--candidates", type=int, default=2_000, help="those for the posterior (%(default)s)")
    parser.add_argument("--victims", type=int, default=100, help="frames attacked (%(default)s)")
    parser.add_argument("--network", action="store_true", help="train inverse networks too; needs torch")
    parser.add_argument(
        "--network-seconds",
        type=float,
        default=120.0,
        help="seconds to train each network, about (default: %(default)s)",
    )
    parser.add_argument("--pictures", type=Path, metavar="FILE", help="draw what the attackers see (.png or .svg)")
    options = parser.parse_args(arguments)
    pictures = read_pictures(options.public, options.victims)
    with tempfile.TemporaryDirectory() as scratch:
        bundle = prepare(
            PrepareOptions(
                model=MODEL / "fashion_f32.tflite",
                output=Path(scratch) / "bundle",
                cuts=CUTS,
                preprocess=MODEL / "preprocess.json",
                labels=MODEL / "labels.txt",
                calibration=MODEL / "public.npz",
                codebooks=(CodebookWish(CODEBOOK_CUT, CODEWORDS),),
            ),
            lambda *_: None,
        )
        attack = Attack(bundle, pictures, options)
        rows = []
        for variant in sorted(
            variants(bundle, options.epsilon or (16.0, 4.0, 1.0)), key=lambda variant: variant.cut
        ):
            rows.append(attack(variant))
            print(f"cut {variant.cut}, {variant.name}", file=sys.stderr, flush=True)
        without = references(bundle, pictures)
    if options.pictures is not None:
        draw(options.pictures, rows, pictures)
    plain = [{key: value for key, value in row.items() if key != "_pictures"} for row in rows]
    if options.json:
        print(
            json.dumps(
                {"public": pictures.source, "victims": len(pictures.victims), "without": without, "rows": plain}
            )
        )
    else:
        print(f"attackers know {pictures.source}; {len(pictures.victims)} frames attacked; SSIM and PSNR in dB")
        print(table(rows))
        for name, (similar, decibels) in without.items():
            print(f"{name}, without any release: SSIM {similar:.2f}, {decibels:.1f} dB")
    print(json.dumps({"claims": claims(rows)}))
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
