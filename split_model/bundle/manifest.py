"""The bundle's manifest: its files, the cuts, and the tensors at each cut.

A bundle is a folder made by ``split-model prepare`` from one ``.tflite``::

    manifest.json          this, as JSON
    model.tflite           the whole model, byte for byte as it was prepared
    cut-012/head.tflite    ops 0..11
    cut-012/tail.tflite    ops 12..
    cut-012/codebook-32x1.npz   a codebook to release with at this cut, where one was asked for
    cut-012/noise-tail-2.tflite a tail trained on noised features, where one was given
    labels.txt             where the answer names one
    anchors.npz            of a detector that has some
    reference.bin          what the whole model answered to random inputs where it was prepared

The SHA-256 of ``manifest.json`` is the bundle's identity on the wire; the manifest
holds the SHA-256 of every other file, so the identity covers all of them.
"""
# Over 300 lines: all records of one file format, which are read together.

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from split_model.bundle.readings import ClassMap, Detections, Reading
from split_model.bundle.records import FileRef, Scores
from split_model.bundle.records import Record as _Record

FORMAT = 1
#: Limits of a codebook: codewords per group, and groups.
MAX_CODEWORDS, MAX_GROUPS = 1 << 16, 256

#: Allocations of a noise release's budget to channels; see `split_model.privacy.allocation`.
Allocation = Literal["uniform", "rank", "optimal"]
DType = Literal["float32", "float16", "int8", "uint8", "int16", "int32", "int64", "bool"]
#: Bytes of one value.
ITEM_BYTES = {
    "float32": 4,
    "float16": 2,
    "int8": 1,
    "uint8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "bool": 1,
}


class TensorSpec(_Record, frozen=True, omit_defaults=True):
    """An input or output tensor of a model: ``real = scale * (stored - zero_point)`` if scale is not 0.

    ``open_axes``, only of outputs: axes whose length depends on the data, such as the number of found boxes.
    ``shape`` has their maximum lengths.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType
    scale: float = 0.0
    zero_point: int = 0
    open_axes: tuple[int, ...] = ()

    def fits(self, dtype: str, shape: Sequence[int]) -> bool:
        """Whether an array of this dtype and shape can be the tensor of one inference."""
        return (
            dtype == self.dtype
            and len(shape) == len(self.shape)
            and all(
                side == most or (at in self.open_axes and 0 <= side < most)
                for at, (side, most) in enumerate(zip(shape, self.shape, strict=True))
            )
        )

    @property
    def size(self) -> int:
        """Number of values; the maximum if there are open axes."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the raw tensor."""
        return self.size * ITEM_BYTES[self.dtype]


class ChannelCalibration(_Record, frozen=True):
    """Calibration of one live tensor from public data, per channel (the last axis), in real units.

    ``clip_low``/``clip_high``: the public clip range. ``rank``: mean matrix rank of the channel's
    H x W map (1 for vectors). ``weight``: mean squared gradient of the model's output per value.
    """

    clip_low: tuple[float, ...]
    clip_high: tuple[float, ...]
    rank: tuple[float, ...]
    weight: tuple[float, ...]


class AllocationTrial(_Record, frozen=True):
    """The measurement of one allocation at a cut on public samples, against the whole model's answers.

    ``relative_cost``: expected weighted noise energy over the optimum's, by formula; 1 is best. ``output_error``:
    squared error of the model's outputs over their variance among the samples, measured. ``agreement``: the share
    of answers with the same best class; None if the answer is not a class.
    """

    allocation: Allocation
    relative_cost: float
    output_error: float
    agreement: float | None = None


class AllocationChoice(_Record, frozen=True):
    """The allocation that ``auto`` takes at a cut: the best of ``trials`` at a mean per-value ``epsilon``."""

    best: Allocation
    epsilon: float
    bits: int
    samples: int
    draws: int
    trials: tuple[AllocationTrial, ...]


class Codebook(_Record, frozen=True, omit_defaults=True):
    """A codebook for the strict release at one cut: ``codewords`` for each of ``groups`` groups of channels.

    ``file``: the encoder's matrices and the decoder's features. Measured on held-out public samples: ``lookup``,
    the share of right answers when the device's own codewords arrive, and ``chance``, when they are drawn at
    random; ``truth``: whether right means the labels or the whole model's answers. For outputs other than classes,
    ``lookup`` is the share of their variance that is kept.

    Of one group whose answer is classes: ``decoded``, the class of the tail's answer to each codeword; and
    ``confusion``, the number of held-out samples by decoded and right class, without noise: (decoded, right,
    samples).
    """

    codewords: int = msgspec.field(name="words")  # the manifest's key, as in earlier bundles
    groups: int
    file: FileRef
    lookup: float
    chance: float
    samples: int
    truth: Literal["labels", "model", "variance"]
    decoded: tuple[int, ...] = ()
    confusion: tuple[tuple[int, int, int], ...] = ()


class NoiseTail(_Record, frozen=True):
    """A tail that was trained on the features of this cut under noise of mean per-value ``epsilon``.

    It replaces the plain tail for the noise release at exactly this epsilon, with any allocation; ``allocation``:
    the best one with it.
    """

    epsilon: float
    tail: FileRef
    allocation: AllocationChoice | None = None


class Cut(_Record, frozen=True):
    """A position in the op order: ops before ``index`` are the head, the rest the tail.

    ``head`` is None for cut 0, which sends the input itself. ``tensors`` are the live tensors, in the
    order of the head's outputs and of the tail's inputs.
    """

    index: int
    head: FileRef | None
    tail: FileRef
    tensors: tuple[TensorSpec, ...]
    head_macs: int
    tail_macs: int
    calibration: tuple[ChannelCalibration, ...] | None = None
    allocation: AllocationChoice | None = None
    codebooks: tuple[Codebook, ...] = ()
    noise_tails: tuple[NoiseTail, ...] = ()

    def allocation_at(self, epsilon: float) -> AllocationChoice | None:
        """The best measured allocation with the tail for noise of this mean per-value epsilon."""
        aware = (noisy.allocation for noisy in self.noise_tails if noisy.epsilon == epsilon)
        return next(aware, self.allocation)

    @property
    def values(self) -> int:
        """Number of feature values of one frame at the cut."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def raw_bytes(self) -> int:
        """Bytes of the unprotected features of one frame."""
        return sum(tensor.nbytes for tensor in self.tensors)


class ImagePreprocess(_Record, frozen=True):
    """The pre-processing of a picture: fitted into ``crop`` (height, width), then ``(x - mean) / scale``.

    ``fit``: ``crop`` scales the shorter side to ``resize`` and cuts out the centre; ``letterbox`` scales the whole
    picture into ``crop`` and fills the rest with the grey ``pad``; ``stretch`` changes its proportions. ``layout``:
    the place of the channels; ``nchw``: before height and width.
    """

    resize: int
    crop: tuple[int, int]
    mean: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)
    colour: Literal["rgb", "bgr", "grey"] = "rgb"
    filter: Literal["nearest", "bilinear", "bicubic"] = "bicubic"
    fit: Literal["crop", "letterbox", "stretch"] = "crop"
    pad: int = 0
    layout: Literal["nhwc", "nchw"] = "nhwc"

    @property
    def channels(self) -> int:
        """Number of colour channels."""
        return 1 if self.colour == "grey" else 3

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the model's input."""
        return (1, self.channels, *self.crop) if self.layout == "nchw" else (1, *self.crop, self.channels)


class TopK(_Record, frozen=True):
    """Reading one output as classes: the ``k`` largest of ``output``, named by the lines of ``labels``."""

    output: int = 0
    k: int = 5
    labels: FileRef | None = None
    scores: Scores = "logits"


class OutputSchema(_Record, frozen=True):
    """One output of the model: its values as ``shape`` (of the tensor's size), and their meaning.

    ``meaning``: a text with order, unit and range of the values, as "x, y, z in pixels of the input". ``weight``:
    the relative weight of errors in this output, for the allocation of the budget and for measurements.
    """

    name: str
    shape: tuple[int, ...]
    meaning: str
    weight: float = 1.0


class Reference(_Record, frozen=True):
    """The whole model's answers on the machine that made the bundle, to check other backends and processors.

    ``outputs``: a file of the raw outputs, little-endian, of ``sets`` sets of random inputs one after the
    other. ``inputs_sha256``: of those inputs, which are drawn again rather than stored. ``tolerance``: for
    each output the largest difference that still passes, in codes for integers and real values for floats.
    """

    outputs: FileRef
    sets: int
    inputs_sha256: str
    tolerance: tuple[float, ...]
    made_with: str


class LeftOut(_Record, frozen=True):
    """A cut that `prepare` left out of the bundle, and why."""

    index: int
    reason: str


class Manifest(_Record, frozen=True, omit_defaults=True):
    """The content of the manifest. ``ops``: the number of ops, which is the index of the split ``local``.

    ``left_out``: cuts that were wanted, or could have been chosen, but do not work.

    An answer is the raw output tensors; ``answer_schema``, if present, has an entry for each of them. ``answer``:
    the output to read as classes; ``reading``: how to read outputs as another kind of answer; never both.
    """

    format: int
    name: str
    ops: int
    macs: int
    model: FileRef
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    cuts: tuple[Cut, ...]
    preprocess: ImagePreprocess | None = None
    answer: TopK | None = None
    answer_schema: tuple[OutputSchema, ...] = ()
    reading: Reading | None = None
    reference: Reference | None = None
    left_out: tuple[LeftOut, ...] = ()
    made_by: str = ""

    @property
    def labels(self) -> FileRef | None:
        """The file with the class names of any kind of answer; None if there is none."""
        if self.answer is not None:
            return self.answer.labels
        return self.reading.labels if isinstance(self.reading, Detections | ClassMap) else None

    def files(self) -> tuple[FileRef, ...]:
        """Every file of the bundle except the manifest, each once."""
        refs = [self.model]
        for cut in self.cuts:
            refs += [cut.tail] if cut.head is None else [cut.head, cut.tail]
            refs += [book.file for book in cut.codebooks] + [noisy.tail for noisy in cut.noise_tails]
        if self.answer is not None and self.answer.labels is not None:
            refs.append(self.answer.labels)
        if self.reading is not None:
            refs += self.reading.files()
        if self.reference is not None:
            refs.append(self.reference.outputs)
        return tuple({ref.path: ref for ref in refs}.values())
