"""The audit's page: all that it has of others is text, and every figure that the audit found is in it."""

from __future__ import annotations

import numpy as np
import pytest

from split_model.audit.report import render
from split_model.audit.results import Attack, Audit, Identity, Reference, Result, Task, WireCheck
from split_model.bundle.evaluation import Share
from split_model.privacy import NoiseSpec

EVIL = "<script>alert(1)</script>"


def share(value):
    return Share(value=value, low=value - 0.1, high=value + 0.1, samples=20)


def attack(ssim, **more):
    return Attack(
        attacker=f"white box {EVIL}", ssim=ssim, ssim_low=ssim - 0.01, ssim_high=ssim + 0.01, psnr_db=20.0,
        feature_distance=0.125, **more,
    )  # fmt: skip


def result(setting, ssim, **more):
    values = {
        "cut": 7, "mechanism": "none", "setting": setting, "spec": None, "codebook": None,
        "per_value_epsilon": None, "whole_input_epsilon": None, "payload_bytes": 100,
        "attacks": [attack(ssim)], "found": None, "bound": None,
        "candidates": 4, "reveals": "picture", "pictures": "seen.npz", "network": "network.npz",
    }  # fmt: skip
    return Result(**(values | more))


@pytest.fixture
def page(tmp_path):
    np.savez(tmp_path / "seen.npz", pictures=np.zeros((6, 28, 28, 1), np.uint8))
    noise = result(
        "noise", 0.25, mechanism="noise", spec=NoiseSpec(epsilon=2.0, bits=8, allocation="uniform"),
        per_value_epsilon=2.0, whole_input_epsilon=12544.0, found=0.75, bound=1.0, reveals="traces",
        identity=Identity(people=40, retrieval=share(0.5), probe=share(0.625)),
        task=Task(agreement=share(0.875), accuracy=None),
    )  # fmt: skip
    audit = Audit(
        bundle=f"stranger {EVIL}", identity="ab" * 32, victims=6, public=50, quick=False,
        references=[Reference(name=f"the mean {EVIL}", ssim=0.1, ssim_low=0.05, ssim_high=0.15, psnr_db=9.0)],
        results=[result(f"unprotected {EVIL}", 0.95), noise],
        skipped=[f"white box: {EVIL}"],
        answer_identity=Identity(people=40, retrieval=share(0.25), probe=share(0.375)),
        wire=[
            WireCheck(
                cut=7, setting=f"noise {EVIL}", name="length",
                claim=1.0, proven=5.0, trials=9, holds=False, text=EVIL
            )
        ],
    )  # fmt: skip
    return render(audit, np.zeros((6, 28, 28, 1), np.float32), tmp_path)


def test_whatever_a_bundle_or_an_attacker_is_called_is_text(page):
    assert EVIL not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 7


@pytest.mark.parametrize(
    "figure",
    [
        "0.25 [0.24, 0.26]", "0.50 [0.40, 0.60]", "0.62 [0.53, 0.72]", "0.38 [0.28, 0.47]",
        "0.75 (bound 1.00)", "0.875", "12,544",
        "BROKEN", "What protection costs", "default-src &#39;none&#39;",
    ],
)  # fmt: skip
def test_the_page_has_the_figure(page, figure):
    assert figure in page


def test_an_audit_without_a_task_says_so(tmp_path):
    np.savez(tmp_path / "seen.npz", pictures=np.zeros((6, 28, 28, 1), np.uint8))
    audit = Audit(
        bundle="plain", identity="ab" * 32, victims=6, public=50, quick=True, references=[],
        results=[result("unprotected", 0.95)], skipped=[],
    )  # fmt: skip
    found = render(audit, np.zeros((6, 28, 28, 1), np.float32), tmp_path)
    assert "The task was not measured" in found
    assert "Who is it?" not in found
    assert "attackers had little time" in found
