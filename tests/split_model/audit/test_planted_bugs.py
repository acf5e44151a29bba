"""``split-model audit --quick`` on a stranger's bundle: faulty releases are found, the product's is not blamed."""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from split_model.arguments import make_parser
from split_model.audit.command import audit
from split_model.audit.wire_audit import device_releases
from split_model.privacy import CodebookSpec, NoisePlan, NoiseRelease
from split_model.privacy.packing import pack, padded_values, unpack
from split_model.privacy.release import channel_numbers
from tests.split_model.audit import strangers

COMMANDS = ("inspect", "prepare", "verify", "evaluate", "preview", "audit", "report")


def plan_of(cut, spec):
    return NoisePlan.make(spec, cut.tensors, cut.calibration)


def half_of_the_noise(_bundle, cut, spec):
    plan = plan_of(cut, spec)
    loud = tuple(msgspec.structs.replace(grid, epsilon=2 * grid.epsilon) for grid in plan.classes)
    return NoiseRelease(replace(plan, classes=loud), entropy=os.urandom)


def on_the_grid(plan, features, *, clipped):
    """What noise is added to, on the wire's scale; not clipped where a bug wants it so."""
    low, width, steps, tail = channel_numbers(plan, 0)
    cells = np.rint((features[0].astype(np.float64) - low) * (steps / width))
    return (np.clip(cells, 0, steps) if clipped else cells) + tail, steps, tail


def packed(plan, values):
    wire = np.zeros(padded_values(plan.values, plan.spec.bits), np.uint8)
    wire[: plan.values] = values.reshape(-1)
    return pack(wire, plan.spec.bits)


def a_channel_left_out(bundle, cut, spec):
    plan, honest = plan_of(cut, spec), device_releases(bundle, cut, spec)

    def release(features):
        bare, *_ = on_the_grid(plan, features, clipped=True)
        values = unpack(np.frombuffer(honest(features), np.uint8), plan.values, plan.spec.bits).reshape(bare.shape)
        values[..., 2] = bare[..., 2]
        return packed(plan, values)

    return release


def seeded_noise(_bundle, cut, spec):
    return NoiseRelease(plan_of(cut, spec), entropy=random.Random(1).randbytes)


def clip_after_noise(_bundle, cut, spec):
    plan = plan_of(cut, spec)
    generator = np.random.default_rng()

    def release(features):
        cells, steps, tail = on_the_grid(plan, features, clipped=False)
        epsilon = np.array([plan.classes[index].epsilon for index in plan.class_of[0]])
        keep = 1 - np.exp(-epsilon / steps)
        noise = generator.geometric(keep, cells.shape) - generator.geometric(keep, cells.shape)
        return packed(plan, np.clip(cells + noise, tail, steps + tail).astype(np.uint8))

    return release


def length_by_content(bundle, cut, spec):
    plan, honest = plan_of(cut, spec), device_releases(bundle, cut, spec)

    def release(features):
        cells, _, tail = on_the_grid(plan, features, clipped=True)
        is_dark = (cells == tail).all()
        payload = honest(features)
        return payload[:-1] if is_dark else payload

    return release


def a_codeword_kept_too_often(bundle, cut, spec):
    if isinstance(spec, CodebookSpec):
        spec = msgspec.structs.replace(spec, epsilon=2 * spec.epsilon)
    return device_releases(bundle, cut, spec)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stranger")
    strangers.bundle_in(folder, codebook=True)
    return folder


def audited(place, capsys, releases=None):
    """Exit code, and by name the checks that do not hold. The attackers' work is taken up from run to run."""
    parser = make_parser(dict.fromkeys(COMMANDS, lambda _: 0))
    words = ["audit", str(place / "bundle"), "--data", str(place / "mine.npz"), "-o", str(place / "report")]
    words += ["--quick", "--epsilon", "4", "--network-seconds", "1", "--steps", "20", "--victims", "4"]
    code = audit(parser.parse_args(words), lambda *_: None, releases=releases)
    told = capsys.readouterr().out
    checks = json.loads((place / "report.json").read_text())["wire"]
    broken = {check["name"] for check in checks if not check["holds"]}
    assert all(f"BROKEN: cut {strangers.CUT}" in told for _ in broken)
    return code, broken, {check["name"] for check in checks}


def test_the_products_release_holds(place, capsys):
    code, broken, looked_at = audited(place, capsys)
    assert (code, broken) == (os.EX_OK, set())
    assert looked_at == {
        "length", "fresh randomness", "noise of each channel", "clipping above", "clipping below",
        "randomised response",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("bug", "found"),
    [
        (half_of_the_noise, "noise of each channel"),
        (a_channel_left_out, "noise of each channel"),
        (seeded_noise, "fresh randomness"),
        (clip_after_noise, "clipping above"),
        (length_by_content, "length"),
        (a_codeword_kept_too_often, "randomised response"),
    ],
)
def test_each_planted_bug_is_found(place, capsys, bug, found):
    def releases(bundle, cut, spec):
        is_noise = not isinstance(spec, CodebookSpec)
        of_codewords = bug is a_codeword_kept_too_often
        return (bug if is_noise != of_codewords else device_releases)(bundle, cut, spec)

    code, broken, _ = audited(place, capsys, releases)
    assert code == os.EX_DATAERR
    assert found in broken
