"""Find a face in a photograph and draw its mesh, with two models that are each split in two.

usage: python -m models.mediapipe.draw_landmarks PHOTO -o OUT.png --detector BUNDLE --mesh BUNDLE
           [--cut N] [--epsilon E]

The detector (face_detection_short_range) finds the face, the mesh (face_landmark) runs on that part of the
photograph. Each runs as on a board and a server: head, release, tail. Without --epsilon the features are
unprotected; with it, noise protects the mesh's features (per-value epsilon; the whole-input epsilon is printed).
--cut is the mesh's; by default the middle one of those its bundle offers.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from split_model.arrays import Array, Picture
from split_model.bundle import Bundle, Cut, ImagePreprocess
from split_model.errors import BadInputError, SplitModelError, UsageError
from split_model.features.picture_files import open_picture
from split_model.features.preprocess import picture_tensor
from split_model.interpreter import open_interpreter
from split_model.privacy import NoisePlan, NoiseRelease, NoiseSpec, recover

#: Left, top and side of a square, in pixels of the photograph.
Box = tuple[float, float, float]

#: MediaPipe gives the mesh a square of 1.5 times the detected face, the faces of its training being so.
_MARGIN = 1.5
_LEAST_SCORE = 0.5


class SplitModel:
    """One cut of a bundle: `features` is the board's part, `answers` the server's."""

    def __init__(self, bundle: Bundle, index: int | None = None, epsilon: float | None = None) -> None:
        self.bundle = bundle
        self.cut = _cut(bundle, index)
        self.plan = None
        self._head = None if self.cut.head is None else open_interpreter(bundle.path(self.cut.head))
        self._tail = open_interpreter(bundle.path(self.cut.tail))
        if epsilon is not None:
            if self.cut.calibration is None:
                raise UsageError(
                    f"{bundle.root}: has no calibration", remedy="prepare it with --calibration for noise"
                )
            self.plan = NoisePlan.make(NoiseSpec(epsilon=epsilon), self.cut.tensors, self.cut.calibration)
            self._release = NoiseRelease(self.plan, entropy=os.urandom)

    def features(self, tensor: Array) -> list[Array]:
        """The released features of one input; with noise if there is a plan."""
        live = [tensor] if self._head is None else self._head.run([tensor])
        return live if self.plan is None else recover(self.plan, self._release(live))

    def answers(self, features: Sequence[Array]) -> dict[str, Array]:
        """The outputs by the names and in the shapes of the bundle's answer schema."""
        outputs = self._tail.run(features)
        pairs = zip(self.bundle.manifest.answer_schema, outputs, strict=True)
        return {entry.name: output.reshape(entry.shape) for entry, output in pairs}

    def __call__(self, picture: Picture) -> dict[str, Array]:
        """Answers for the centre square of a picture, uint8 [height, width, 3]."""
        tensor = picture_tensor(picture, self.preprocess, self.bundle.manifest.inputs[0])
        return self.answers(self.features(tensor))

    @property
    def preprocess(self) -> ImagePreprocess:
        """The bundle's pre-processing; `UsageError` if it has none."""
        if self.bundle.manifest.preprocess is None or not self.bundle.manifest.answer_schema:
            raise UsageError(
                f"{self.bundle.root}: has no pre-processing or no answer",
                remedy="prepare it with the .preprocess.json and .answer.json of unpack.py",
            )
        return self.bundle.manifest.preprocess


def _cut(bundle: Bundle, index: int | None) -> Cut:
    cuts = bundle.manifest.cuts
    if index is None:
        return cuts[len(cuts) // 2]
    for cut in cuts:
        if cut.index == index:
            return cut
    raise UsageError(
        f"{bundle.root}: offers no cut {index}", remedy=f"choose of {', '.join(str(cut.index) for cut in cuts)}"
    )


def anchors() -> NDArray[np.float32]:
    """Centres of the detector's 896 anchors, [x, y] in 0..1: two in each of 16 x 16 cells, six in each of 8 x 8."""
    grids = []
    for side, each in ((16, 2), (8, 6)):
        middle = (np.arange(side, dtype=np.float32) + 0.5) / side
        x, y = np.meshgrid(middle, middle)
        grids.append(np.repeat(np.stack([x.ravel(), y.ravel()], axis=1), each, axis=0))
    return np.concatenate(grids)


def best_face(answers: dict[str, Array], input_side: int) -> tuple[float, Box]:
    """Score and box of the likeliest face, in units of the detector's square."""
    logits = answers["faces"].astype(np.float64)
    at = int(logits.argmax())
    x, y, width, height = answers["boxes"][at, :4] / input_side
    middle = anchors()[at]
    side = float(max(width, height)) * _MARGIN
    score = float(1 / (1 + np.exp(-logits[at])))
    return score, (float(middle[0] + x) - side / 2, float(middle[1] + y) - side / 2, side)


def find_face(detector: SplitModel, picture: Picture) -> tuple[float, Box]:
    """Score and box, in pixels of the picture, of the face in its centre square; `BadInputError` without one."""
    height, width = picture.shape[:2]
    square = min(height, width)
    score, (left, top, side) = best_face(detector(picture), detector.preprocess.crop[0])
    if score < _LEAST_SCORE:
        raise BadInputError(
            f"no face in the middle of the photograph (best score {score:.2f})", remedy="give another one"
        )
    box = (left * square + (width - square) // 2, top * square + (height - square) // 2, side * square)
    return score, box


def crop(picture: Picture, box: Box) -> Picture:
    """The part of a picture in a box, black where the box reaches beyond it."""
    left, top, side = (round(value) for value in box)
    part = Image.fromarray(picture).crop((left, top, left + side, top + side))
    return np.asarray(part, dtype=np.uint8)


def draw(picture: Picture, box: Box, points: Array) -> Image.Image:
    """The picture with the box and the points, [N, 2] in 0..1 of the box, upon it."""
    image = Image.fromarray(picture)
    pen = ImageDraw.Draw(image)
    left, top, side = box
    pen.rectangle((left, top, left + side, top + side), outline=(255, 200, 0), width=2)
    for x, y in points:
        centre = (left + x * side, top + y * side)
        pen.ellipse((centre[0] - 1, centre[1] - 1, centre[0] + 1, centre[1] + 1), fill=(0, 255, 120))
    return image


def run(options: argparse.Namespace) -> None:
    """Run the command line."""
    detector = SplitModel(Bundle.open(options.detector))
    mesh = SplitModel(Bundle.open(options.mesh), options.cut, options.epsilon)
    picture = open_picture(options.photo, detector.preprocess)
    score, box = find_face(detector, picture)
    side = mesh.preprocess.crop[0]
    answers = mesh(crop(picture, box))
    points = answers["landmarks"][:, :2] / side
    draw(picture, box, points).save(options.output)
    whole = open_interpreter(mesh.bundle.path(mesh.bundle.manifest.model))
    tensor = picture_tensor(crop(picture, box), mesh.preprocess, mesh.bundle.manifest.inputs[0])
    unsplit = whole.run([tensor])[0].reshape(-1, 3)[:, :2] / side
    moved = np.linalg.norm(points - unsplit, axis=1).mean() * box[2]
    print(f"face {score:.2f}, cut {detector.cut.index} of the detector, cut {mesh.cut.index} of the mesh")
    if mesh.plan is not None:
        print(
            f"epsilon: {mesh.plan.per_value_epsilon_max:.3g} at most per feature value, "
            f"{mesh.plan.whole_input_epsilon:.4g} for the whole input; {mesh.plan.payload_bytes} bytes sent"
        )
    print(f"{len(points)} landmarks, on average {moved:.2f} pixels from the unsplit model's: {options.output}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="models.mediapipe.draw_landmarks", description=(__doc__ or "").split("\n", 1)[0]
    )
    parser.add_argument("photo", type=Path, metavar="PHOTO", help="a photograph with a face in its middle square")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.png")
    parser.add_argument("--detector", type=Path, required=True, metavar="BUNDLE")
    parser.add_argument("--mesh", type=Path, required=True, metavar="BUNDLE")
    parser.add_argument("--cut", type=int, metavar="N", help="the mesh's cut (default: the middle one offered)")
    parser.add_argument("--epsilon", type=float, metavar="E", help="per-value epsilon; without it no noise")
    try:
        run(parser.parse_args(arguments))
    except SplitModelError as error:
        print(f"draw_landmarks: {error}", file=sys.stderr)
        return error.exit_code
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
