"""A model that kills the backend kills a child, and the user reads one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from split_model.errors import BackendError, BadModelError
from split_model.prepare.tflite import sandbox


@pytest.fixture
def path(residual, tmp_path):
    path = tmp_path / "net.tflite"
    path.write_bytes(residual())
    return path


def test_an_honest_model_passes(path):
    sandbox.check_runs(path)


def test_a_refusal_of_the_backend_comes_through(builder, tmp_path):
    build = builder()
    image = build.tensor([1, 4])
    path = tmp_path / "net.tflite"
    path.write_bytes(build.build([image], [build.op("CUSTOM", [image], [1, 4], code=b"MyOp")]))
    with pytest.raises(BackendError, match="MyOp"):
        sandbox.check_runs(path)


def child(monkeypatch, program):
    """Replace what the child does, to have it die in the way a backend does."""
    run = subprocess.run
    monkeypatch.setattr(
        subprocess, "run", lambda _command, **options: run([sys.executable, "-c", program], **options)
    )


def test_a_crash_is_one_line(path, monkeypatch):
    child(monkeypatch, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(BadModelError, match=r"net\.tflite: crashes the TFLite backend \(signal 11\)"):
        sandbox.check_runs(path)


def test_a_hang_is_one_line(path, monkeypatch):
    child(monkeypatch, "import time; time.sleep(60)")
    with pytest.raises(BadModelError, match=r"net\.tflite: one inference took longer"):
        sandbox.check_runs(path, timeout_s=0.3)
