"""Makes one image that shows the model's input, the released features at each cut, and the answers.

The first row shows the model's input and the unsplit model's answer. Below, each cut has a row: its unprotected
features, then the server's view of them under each release with the tail's answer: under noise at each per-value
epsilon, and through each codebook at whole-input epsilons. Boxes, landmarks and maps are drawn into the model's
input, in a separate row below the features. If ``split-model audit --store`` stored an attacker for a release, a
row below shows its reconstruction of this picture and the audit's verdict. The certainty of an answer is the share
of draws of fresh noise with the unsplit model's answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from split_model.answers.measures import agreement
from split_model.answers.reader import AnswerReader
from split_model.arrays import Array, Picture
from split_model.bundle import Bundle, ImagePreprocess, TensorSpec, TopK
from split_model.errors import BadBundleError
from split_model.features.data import read_labels
from split_model.features.picture_files import pillow
from split_model.features.preprocess import load_tensor, to_real
from split_model.interpreter import Interpreter, open_interpreter
from split_model.prepare.answer import is_vector
from split_model.prepare.evaluate.agreement import class_output
from split_model.prepare.evaluate.variants import Halves
from split_model.prepare.outputs import Floats, real_outputs
from split_model.prepare.stored_attack import StoredAttacks
from split_model.privacy import (
    CodebookPlan,
    CodebookRelease,
    CodebookSpec,
    NoisePlan,
    NoiseRelease,
    NoiseSpec,
    default_bits,
    recover,
    recover_codebook,
    settle,
)
from split_model.privacy.codebook_file import read_decoder, read_encoder
from split_model.report.answer_drawing import DRAWN, describe_answer, draw_answer

_DRAWS = 20
#: Whole-input epsilons per group of codewords.
_GROUP_EPSILONS = (8.0, 4.0)
_DRAWN_PX = 320


@dataclass(frozen=True, slots=True)
class Cell:
    """The server's view at one cut. ``release``: as text, empty for unprotected features.

    ``features``: in real units. ``answer``: the tail's; ``same``: the share of draws with the unsplit model's
    answer. ``drawn``: the answer in the model's input, if it is boxes, landmarks or a map. ``seen``: the stored
    attacker's reconstruction with the audit's verdict; None if there is none.
    """

    cut: int
    release: str
    features: Array
    answer: str
    same: float
    drawn: Picture | None = None
    seen: tuple[Picture, str] | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """The content of the image: the input as a picture, the unsplit answer, and cells by cut and epsilon."""

    picture: Picture
    answer: str
    cells: tuple[Cell, ...]


def preview(
    bundle: Bundle, path: Path, *, epsilons: Sequence[float], entropy: Callable[[int], bytes], draws: int = _DRAWS
) -> Preview:
    """Run one picture through the whole model, and through every cut that is calibrated or has a codebook.

    Args:
        bundle: A bundle with pre-processing, and with calibration or a codebook.
        path: The picture.
        epsilons: Mean per-value epsilons of the noise release.
        entropy: Gives n random bytes, as `os.urandom` does.
        draws: Number of draws of fresh noise for an answer's share.

    Raises:
        BadBundleError: The bundle takes no pictures, or has neither a calibration nor a codebook.
        BadInputError: The picture cannot be read.

    """
    manifest = bundle.manifest
    if manifest.preprocess is None:
        raise BadBundleError(
            f"{bundle.root}: declares no pre-processing of pictures",
            remedy="prepare it with --mean, --std and so on",
        )
    cuts = [cut for cut in manifest.cuts if cut.calibration is not None or cut.codebooks]
    if not cuts:
        raise BadBundleError(f"{bundle.root}: no cut has a calibration", remedy="prepare it with --calibration")
    tensor = load_tensor(path, manifest.preprocess, manifest.inputs[0])
    picture = _as_picture(tensor, manifest.preprocess, manifest.inputs[0])
    reader, attacks = _Answers(bundle, picture), StoredAttacks(bundle)
    whole = real_outputs(open_interpreter(bundle.path(manifest.model)), (tensor,))
    cells: list[Cell] = []
    for cut in cuts:
        one = _Cells(Halves(bundle, cut, None), tensor, whole, reader, attacks)
        cells.append(one.plain())
        if cut.calibration is not None:
            cells += [one.noised(epsilon, entropy, draws) for epsilon in epsilons]
        cells += one.through_codebooks(entropy, draws)
    drawn = reader.drawn(whole)
    return Preview(picture if drawn is None else drawn, reader.text(whole), tuple(cells))


@dataclass(frozen=True)
class _Cells:
    """Makes the cells of one cut."""

    halves: Halves
    tensor: Array
    whole: Sequence[Floats]
    reader: _Answers
    attacks: StoredAttacks

    def plain(self) -> Cell:
        """Without noise."""
        features = list(self.halves.features((self.tensor,)))
        answer = real_outputs(self.halves.tail, features)
        return self._cell("", None, features, answer, self.reader.same(answer, self.whole))

    def noised(self, epsilon: float, entropy: Callable[[int], bytes], draws: int) -> Cell:
        """Under the noise release of a device with this per-value epsilon."""
        cut = self.halves.cut
        spec = NoiseSpec(epsilon=epsilon, allocation=settle("auto", cut, epsilon), bits=default_bits(epsilon))
        plan = NoisePlan.make(spec, cut.tensors, cut.calibration or ())
        release = NoiseRelease(plan, entropy=entropy)
        tail = self.halves.noise_tails.get(epsilon, self.halves.tail)
        name = f"epsilon {epsilon:g} a value"
        return self._released(name, spec, tail, lambda features: recover(plan, release(features)), draws)

    def through_codebooks(self, entropy: Callable[[int], bytes], draws: int) -> Iterator[Cell]:
        """Through each codebook of the cut, at whole-input epsilons."""
        cut = self.halves.cut
        for book in cut.codebooks:
            path = self.halves.bundle.path(book.file)
            encoder, decoder = read_encoder(path, book, cut.tensors), read_decoder(path, book, cut.tensors)
            size = f"{book.codewords} codewords" + (f" x {book.groups}" if book.groups > 1 else "")
            for each in _GROUP_EPSILONS:
                epsilon = each * book.groups
                spec = CodebookSpec(epsilon=epsilon, codewords=book.codewords, groups=book.groups)
                plan = CodebookPlan.make(spec, cut)
                release = CodebookRelease(plan, encoder, entropy=entropy)

                def way(
                    features: Sequence[Array], plan: CodebookPlan = plan, release: CodebookRelease = release
                ) -> Sequence[Array]:
                    return recover_codebook(plan, decoder, release(features))  # noqa: B023  used within the turn

                yield self._released(f"{size}\nepsilon {epsilon:g} a frame", spec, self.halves.tail, way, draws)

    def _released(
        self,
        name: str,
        spec: NoiseSpec | CodebookSpec,
        tail: Interpreter,
        way: Callable[[Sequence[Array]], Sequence[Array]],
        draws: int,
    ) -> Cell:
        """The first draw's features and answer, and the share of all draws."""
        features = list(self.halves.features((self.tensor,)))
        got = [list(way(features)) for _ in range(draws)]
        answers = [real_outputs(tail, one) for one in got]
        same = sum(self.reader.same(answer, self.whole) for answer in answers) / draws
        return self._cell(name, spec, got[0], answers[0], same)

    def _cell(
        self,
        release: str,
        spec: NoiseSpec | CodebookSpec | None,
        features: Sequence[Array],
        answer: Sequence[Floats],
        same: float,
    ) -> Cell:
        cut = self.halves.cut
        shown: Array = to_real(features[0], cut.tensors[0])
        preprocess = self.halves.bundle.manifest.preprocess
        if self.halves.head is None and preprocess is not None and preprocess.layout == "nchw":
            shown = shown.transpose(0, 2, 3, 1)
        seen = self.attacks(cut, spec, features)
        return Cell(cut.index, release, shown, self.reader.text(answer), same, self.reader.drawn(answer), seen)


class _Answers:
    """Formats outputs for display: the best class and its score, boxes and so on, or the outputs' statistics."""

    def __init__(self, bundle: Bundle, picture: Picture) -> None:
        manifest = bundle.manifest
        self._picture = picture
        self._reader = None if manifest.reading is None else AnswerReader.of(bundle)
        self._schema = manifest.answer or TopK(scores="values")
        at = class_output(manifest)
        self._at = at if at is not None and is_vector(manifest.outputs[at].shape) else None
        labels = self._schema.labels
        self._labels = () if labels is None else read_labels(bundle.path(labels))

    def drawn(self, outputs: Sequence[Floats]) -> Picture | None:
        """Draw the answer into the input; None if an answer of this kind cannot be drawn."""
        if self._reader is None:
            return None
        fields = self._reader.found_fields(self._reader.read(outputs))
        if not any(key in fields for key in DRAWN):
            return None
        image = pillow("Image").fromarray(self._picture)
        height, width = self._picture.shape[:2]
        factor = max(1, round(_DRAWN_PX / max(height, width)))
        made: Picture = np.asarray(draw_answer(image.resize((width * factor, height * factor)), fields))
        return made

    def text(self, outputs: Sequence[Floats]) -> str:
        if self._reader is not None:
            return describe_answer(self._reader.found_fields(self._reader.read(outputs)))
        if self._at is None:
            return ", ".join(f"{output.size} values, mean {output.mean():.3g}" for output in outputs[:2])
        values = outputs[self._at].reshape(-1)
        best = int(values.argmax())
        label = self._labels[best] if best < len(self._labels) else f"class {best}"
        return f"{label}: {_score(values, best, self._schema.scores):.2f}"

    def same(self, outputs: Sequence[Floats], whole: Sequence[Floats]) -> float:
        """1.0 for the same best class; the agreement of boxes and so on; else the share of close values."""
        if self._reader is not None:
            return agreement(self._reader.read(outputs), self._reader.read(whole), self._reader.manifest)
        if self._at is not None:
            return float(outputs[self._at].argmax() == whole[self._at].argmax())
        near = [
            np.abs(one - was) <= 0.1 * max(float(np.ptp(was)), 1e-12)
            for one, was in zip(outputs, whole, strict=True)
        ]
        return float(np.mean([np.mean(one) for one in near]))


def _score(values: Floats, best: int, scores: str) -> float:
    if scores == "logits":
        return float(1 / np.exp(values - values[best]).sum())
    if scores == "multilabel-logits":
        return 1 / (1 + math.exp(-max(-700.0, float(values[best]))))
    return float(values[best])


def _as_picture(tensor: Array, preprocess: ImagePreprocess, spec: TensorSpec) -> Picture:
    """The input tensor as uint8 [height, width, 3]."""
    real = to_real(tensor, spec)[0]
    if preprocess.layout == "nchw":
        real = real.transpose(1, 2, 0)
    pixels = np.clip(np.rint(real * np.asarray(preprocess.scale) + np.asarray(preprocess.mean)), 0, 255)
    picture: Picture = (
        np.repeat(pixels, 3, axis=-1).astype(np.uint8) if pixels.shape[-1] == 1 else pixels.astype(np.uint8)
    )
    return picture[..., ::-1] if preprocess.colour == "bgr" else picture
