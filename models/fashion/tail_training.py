"""Trains noise-aware tails: the layers after a cut, trained further on noisy features.

Clipping, quantisation and noise are the product's own (`NoiseRelease`, `recover`), from a seeded stream, as the
pictures are public. The head is not changed. The kernels are exported as int8, one scale a filter.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch.nn import functional

from models import wheels
from models.fashion import bending, fashion_mnist, layers, residual, tflite_file, training
from split_model.bundle import Bundle, Cut
from split_model.prepare.calibrate.calibration import CalibrationOptions
from split_model.prepare.pipeline import PrepareOptions, prepare
from split_model.privacy import Allocation, NoisePlan, NoiseRelease, NoiseSpec, recover

EPSILONS = (2.0, 1.0)  # each starts from the one before
ALLOCATION: Allocation = "uniform"
CLIP_QUANTILE = 0.8  # chosen on the validation pictures among 0.93, 0.8 and 0.65
EPOCHS = {"early": 3, "middle": 4, "deep": 5, "last": 2}
RATE = 0.03


def make(work: Path, output: Path) -> None:
    """Train all eight and write them into ``output/tails`` with ``output/tails.json``."""
    bundle = _bundle(work, output)
    with np.load(work / "network.npz") as arrays:
        state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    entries = []
    for place, layer in {**layers.CUTS, "last": layers.LAST}.items():
        cut = next(cut for cut in bundle.manifest.cuts if cut.tensors[0].name == layer)
        net = residual.make()
        net.load_state_dict(state)
        if layer == layers.LAST:
            residual.add_step(net)
        for epsilon in EPSILONS:
            path = Path("tails") / f"{place}-{epsilon:g}.tflite"
            _train(net, cut, layer, epsilon, EPOCHS[place])
            weights = {name: value.numpy() for name, value in net.state_dict().items()}
            wheels.write_atomically(output / path, tflite_file.build_tail(weights, layer))
            entries.append({"cut": cut.index, "epsilon": epsilon, "tail": path.as_posix()})
    listed = msgspec.json.format(msgspec.json.encode(entries), indent=1) + b"\n"
    wheels.write_atomically(output / "tails.json", listed)


def _bundle(work: Path, output: Path) -> Bundle:
    """Prepare the cuts with their clip ranges from the committed files."""
    options = PrepareOptions(
        model=output / "fashion_f32.tflite",
        output=work / "bundle",
        cuts=None,
        preprocess=output / "preprocess.json",
        calibration=output / "public.npz",
        calibration_options=CalibrationOptions(quantile=CLIP_QUANTILE, epsilon=EPSILONS[0]),
        replace=True,
    )
    return prepare(options, lambda *_: None)


class Noise:
    """The noise release for a whole batch of features [n, channels, rows, columns] at once."""

    def __init__(
        self, cut: Cut, epsilon: float, batch: int, *, seed: int, allocation: Allocation = ALLOCATION
    ) -> None:
        (spec,) = cut.tensors
        self._shape = (batch, *spec.shape[1:])
        assert cut.calibration is not None
        self._plan = NoisePlan.make(
            NoiseSpec(epsilon=epsilon, allocation=allocation),
            [msgspec.structs.replace(spec, shape=self._shape)],
            cut.calibration,
        )
        self._release = NoiseRelease(self._plan, entropy=np.random.default_rng(seed).bytes)

    def __call__(self, features: Any) -> Any:
        rows = np.ascontiguousarray(features.permute(0, 2, 3, 1).numpy())
        (noised,) = recover(self._plan, self._release([rows]))
        return torch.from_numpy(noised.reshape(self._shape)).permute(0, 3, 1, 2)


def _train(
    net: Any, cut: Cut, after: str, epsilon: float, epochs: int, *, allocation: Allocation = ALLOCATION
) -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(cut.index)
    pictures = bending.tensor(fashion_mnist.images("train"))
    labels = torch.from_numpy(fashion_mnist.labels("train").astype(np.int64))
    edge = len(pictures) - fashion_mnist.VALIDATION
    noise = Noise(cut, epsilon, training.BATCH, seed=cut.index, allocation=allocation)
    mine = [*layers.after(after, extra=layers.EXTRA.name in net), "logits"]
    weights = [
        weight
        for name in mine
        for part in (name, f"{name}_norm")
        if part in net
        for weight in net[part].parameters()
    ]
    optimiser = torch.optim.SGD(weights, lr=RATE, momentum=0.9, nesterov=True, weight_decay=training.DECAY)
    steps = epochs * (edge // training.BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    started_s = time.monotonic()
    for epoch in range(epochs):
        net.train()
        total = 0.0
        for part in torch.randperm(edge, generator=generator).split(training.BATCH)[: edge // training.BATCH]:
            batch = bending.bent(pictures[part], generator)
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                net.eval()
                features = residual.head(net, batch, after).float()
                net.train()
            noised = noise(features)
            with torch.autocast("cpu", torch.bfloat16):
                loss = functional.cross_entropy(
                    residual.tail(net, noised, after), labels[part], label_smoothing=training.SMOOTHING
                )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        judged = accuracy(net, cut, epsilon, pictures[edge:], labels[edge:], allocation=allocation)
        print(
            f"{after} epsilon {epsilon:g} epoch {epoch + 1}/{epochs}  loss {total / (edge // training.BATCH):.3f}"
            f"  validation {judged:.4f}  {time.monotonic() - started_s:.0f} s",
            flush=True,
        )


def accuracy(
    net: Any,
    cut: Cut,
    epsilon: float,
    pictures: Any,
    labels: Any,
    *,
    allocation: Allocation = ALLOCATION,
) -> float:
    """Accuracy on the pictures through the release."""
    after = cut.tensors[0].name
    noise = Noise(cut, epsilon, 500, seed=1, allocation=allocation)
    net.eval()
    right = 0
    with torch.no_grad():
        for part, truth in zip(pictures.split(500), labels.split(500), strict=True):
            noised = noise(residual.head(net, part, after))
            right += int((residual.tail(net, noised, after).argmax(1) == truth).sum())
    return right / len(labels)
