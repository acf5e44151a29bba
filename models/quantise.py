"""Static int8 by ``litert-quantizer`` over real pictures, for the recipes that build float32 models.

Weights per channel, activations per tensor, int8 in and out. The ranges of the activations are
those the pictures, pre-processed as for inference, produce.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from pathlib import Path

from split_model.bundle import ImagePreprocess
from split_model.errors import BackendError
from split_model.features.data import open_data
from split_model.interpreter import open_interpreter

REQUIREMENT = "litert-quantizer==0.11.0"


def static_int8(model: bytes, pictures: Path, preprocess: ImagePreprocess, *, output_margin: float = 1.0) -> bytes:
    """Quantise a float32 model that has the signature 'serving_default'; ``pictures`` is DATA of pictures.

    ``output_margin`` widens the ranges of the outputs beyond what the pictures produce. Raises `BackendError` if
    the quantiser is not installed.
    """
    try:
        quantizer = importlib.import_module("litert_quantizer.quantizer")
        recipe = importlib.import_module("litert_quantizer.recipe")
    except ImportError as error:
        raise BackendError(f"--int8 needs the quantiser ({error})", remedy=f"pip install '{REQUIREMENT}'") from None
    float_model = open_interpreter(model)
    spec = float_model.inputs[0]
    samples = [{spec.name: sample.tensors[0]} for sample in open_data(pictures, (spec,), preprocess)]
    # The quantiser prints progress, warns of its own debug mode and casts the ranges of unused tensors.
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        worker = quantizer.Quantizer(model, recipe.static_wi8_ai8())
        ranges = worker.calibrate({"serving_default": samples}, num_threads=1)
        for name in (output.name for output in float_model.outputs):
            ranges[name] = {end: value * output_margin for end, value in ranges[name].items()}
        return bytes(worker.quantize(ranges, enable_progress_report=False).quantized_model)
