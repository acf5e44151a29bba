"""The steps of `rebuild`: each leaves its results in files and is skipped where they are there already."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import numpy as np
import torch

from models import quantise, wheels
from models.fashion import fashion_mnist, layers, tail_training, tflite_file, training
from split_model.bundle import ImagePreprocess

EPOCHS = 20
#: Number of committed pictures: the first of the test file, and the first of the validation pictures.
TEST_PICTURES, PUBLIC_PICTURES = 2_000, 1_000
PREPROCESS = ImagePreprocess(
    resize=layers.SIDE, crop=(layers.SIDE, layers.SIDE), scale=(255.0,), colour="grey", filter="bilinear"
)


def network(work: Path, _output: Path) -> None:
    """Train, and keep the weights in ``network.npz`` by their names in torch."""
    if (work / "network.npz").exists():
        return
    torch.set_num_threads(1)
    net = training.train(EPOCHS)
    _keep(net, work / "network.npz")
    print(f"test accuracy {training.test_accuracy(net):.4f} of 10,000 pictures, in torch", flush=True)


def pictures(_work: Path, output: Path) -> None:
    """The committed pictures: ``test.npz`` and ``public.npz``, uint8, with their labels."""
    last = len(fashion_mnist.labels("train")) - fashion_mnist.VALIDATION
    for name, part, first, count in (
        ("test.npz", "t10k", 0, TEST_PICTURES),
        ("public.npz", "train", last, PUBLIC_PICTURES),
    ):
        chosen = slice(first, first + count)
        np.savez_compressed(
            output / name, pictures=fashion_mnist.images(part)[chosen], labels=fashion_mnist.labels(part)[chosen]
        )


def models(work: Path, output: Path) -> None:
    """Write ``fashion_f32.tflite``, ``fashion_int8.tflite``, and the other inputs of `split-model prepare`."""
    with np.load(work / "network.npz") as weights:
        model = tflite_file.build(weights)
    wheels.write_atomically(output / "fashion_f32.tflite", model)
    declared = msgspec.json.format(msgspec.json.encode(PREPROCESS), indent=1) + b"\n"
    wheels.write_atomically(output / "preprocess.json", declared)
    wheels.write_atomically(output / "labels.txt", "".join(f"{name}\n" for name in fashion_mnist.CLASSES).encode())
    quantised = quantise.static_int8(model, output / "public.npz", PREPROCESS)
    wheels.write_atomically(output / "fashion_int8.tflite", quantised)


def noise_tails(work: Path, output: Path) -> None:
    """Write tails that were trained on noisy features, and ``tails.json``, which lists them."""
    torch.set_num_threads(1)
    tail_training.make(work, output)


def _keep(net: object, path: Path) -> None:
    arrays = {name: value.numpy() for name, value in net.state_dict().items()}  # type: ignore[attr-defined]
    content = io.BytesIO()
    np.savez(content, **arrays)
    wheels.write_atomically(path, content.getvalue())
