"""EfficientNet-Lite0 in static int8, quantised by ``litert-quantizer`` over real photographs.

Weights per channel, activations per tensor, int8 in and out. The ranges of the activations are
those the photographs, pre-processed as for inference, produce.
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
#: Photographs that show none of the classes reach about half the logit of one that does: without a
#: margin the best classes saturate at 127 and tie (13 of the 20 labelled photographs agreed with float32).
_LOGIT_MARGIN = 2.0


def static_int8(model: bytes, photographs: Path, preprocess: ImagePreprocess) -> bytes:
    """Quantise a float32 model that has the signature 'serving_default'; ``photographs`` is a folder of pictures.

    Raises `BackendError` where the quantiser is not installed or fails.
    """
    try:
        quantizer = importlib.import_module("litert_quantizer.quantizer")
        recipe = importlib.import_module("litert_quantizer.recipe")
    except ImportError as error:
        raise BackendError(f"--int8 needs the quantiser ({error}); pip install '{REQUIREMENT}'") from None
    float_model = open_interpreter(model)
    spec = float_model.inputs[0]
    samples = [{spec.name: sample.tensors[0]} for sample in open_data(photographs, (spec,), preprocess)]
    # The quantiser prints progress, warns of its own debug mode and casts the ranges of unused tensors.
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        worker = quantizer.Quantizer(model, recipe.static_wi8_ai8())
        ranges = worker.calibrate({"serving_default": samples}, num_threads=1)
        for name in (output.name for output in float_model.outputs):
            ranges[name] = {end: value * _LOGIT_MARGIN for end, value in ranges[name].items()}
        return bytes(worker.quantize(ranges, enable_progress_report=False).quantized_model)
