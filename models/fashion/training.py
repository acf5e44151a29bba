"""Trains the network: cosine schedule, label smoothing, augmentation, a linear reader at each cut.

The readers are discarded after training. Those on noisy features make the head spread its information over many
values, near the ends of their range; the one on the plain features of the middle cut makes the classes linearly
separable there, which a codebook needs.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from models.fashion import bending, fashion_mnist, layers, residual

BATCH = 128
RATE = 0.1
DECAY = 5e-4
SMOOTHING = 0.05
READER_WEIGHT = 0.15
#: The norm of a reader's inputs, for any number of features, so that its steps are stable.
READER_GAIN = 3.0
_CLIP_QUANTILE = 0.98
_POOL = 1 << 23


def noised(features: Any, epsilon: float, pool: Any) -> Any:
    """The features clipped to each channel's quantile in this batch, over it, with Laplace noise's energy added.

    The noise is a part of ``pool`` from a random position: standard normal draws, which are slow to make.
    """
    start = int(torch.randint(len(pool) - features.numel(), ()))
    noise = pool[start : start + features.numel()].view(features.shape)
    count, channels = features.shape[:2]
    some = features.detach()[: max(1, count // 8)].transpose(0, 1).reshape(channels, -1)
    top = some.kthvalue(max(1, int(_CLIP_QUANTILE * some.shape[1])), dim=1).values.clamp_min(1e-3)[:, None, None]
    return torch.minimum(features / top, torch.ones(())) + noise * (2**0.5 / epsilon)


def accuracy(net: Any, pictures: Any, labels: Any) -> float:
    """Accuracy of the network in inference."""
    net.eval()
    with torch.no_grad():
        found = [
            residual.tail(net, residual.head(net, part, "stem"), "stem").argmax(1) for part in pictures.split(500)
        ]
    net.train()
    return float((torch.cat(found) == labels).float().mean())


def readers() -> Any:
    """A linear classifier of the noised features of each cut, and ``plain``, of the middle cut's as they are."""
    sizes = {"early": 32 * 14 * 14, "middle": 64 * 7 * 7, "deep": 64 * 7 * 7, "plain": 64 * 7 * 7}
    return torch.nn.ModuleDict({cut: torch.nn.Linear(size, layers.CLASSES) for cut, size in sizes.items()})


def train(epochs: int, *, seed: int = 0) -> Any:
    """Train from scratch and return the network; the last pictures of the training file are never trained on."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    pictures, labels = (
        bending.tensor(fashion_mnist.images("train")),
        torch.from_numpy(fashion_mnist.labels("train").astype(np.int64)),
    )
    edge = len(pictures) - fashion_mnist.VALIDATION
    net = residual.make()
    read = readers()
    weights = [*net.parameters(), *read.parameters()]
    optimiser = torch.optim.SGD(weights, lr=RATE, momentum=0.9, nesterov=True, weight_decay=DECAY)
    steps = epochs * (edge // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.15)
    pool = torch.randn(_POOL)
    started_s = time.monotonic()
    for epoch in range(epochs):
        order = torch.randperm(edge, generator=generator)
        total, right = 0.0, 0
        for part in order.split(BATCH)[: edge // BATCH]:
            batch, truth = bending.bent(pictures[part], generator), labels[part]
            with torch.autocast("cpu", torch.bfloat16):
                loss, logits = _loss(net, read, batch, truth, pool)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
            right += int((logits.argmax(1) == truth).sum())
        judged = accuracy(net, pictures[edge:], labels[edge:])
        print(
            f"epoch {epoch + 1}/{epochs}  loss {total / (edge // BATCH):.3f}  bent {right / edge:.4f}"
            f"  validation {judged:.4f}  {time.monotonic() - started_s:.0f} s",
            flush=True,
        )
    return net


def _loss(net: Any, read: Any, batch: Any, truth: Any, pool: Any) -> tuple[Any, Any]:
    epsilon = float(torch.empty(()).uniform_(0.8, 2.5))
    x, loss = batch, torch.zeros(())
    for name in layers.NAMES:
        x = residual.layer(net, name, x)
        for cut, layer in layers.CUTS.items():
            if layer == name:
                views = [(read[cut], noised(x, epsilon, pool))]
                if cut == "middle":
                    views.append((read["plain"], x))
                for reader, features in views:
                    guess = reader(features.flatten(1) * (READER_GAIN / features[0].numel() ** 0.5))
                    loss = loss + READER_WEIGHT * functional.cross_entropy(guess, truth, label_smoothing=SMOOTHING)
    logits = net["logits"](x.mean((2, 3)))
    return loss + functional.cross_entropy(logits, truth, label_smoothing=SMOOTHING), logits


def test_accuracy(net: Any) -> float:
    """Accuracy on the test pictures, which are used only here."""
    pictures, labels = bending.tensor(fashion_mnist.images("t10k")), fashion_mnist.labels("t10k")
    return accuracy(net, pictures, torch.from_numpy(labels.astype(np.int64)))
