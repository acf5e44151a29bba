"""Hostile files through the real command line: one line on stderr, the right exit code, nothing left behind."""

from __future__ import annotations

import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema


def endless(data: bytes) -> bytes:
    """The vector of tensors claims 268 million entries."""
    model = schema.Model.GetRootAs(data, 0)
    graph = model.Subgraphs(0)
    field = graph._tab.Pos + graph._tab.Offset(4)
    start = field + struct.unpack_from("<I", data, field)[0]
    return data[:start] + struct.pack("<I", 0x0FFFFFFF) + data[start + 4 :]


def cyclic(data: bytes) -> bytes:
    """The root offset leads back to itself."""
    return struct.pack("<I", 0) + data[4:]


def in_a_circle(builder):
    """Two ops that each read what the other writes."""
    build = builder()
    image = build.tensor([1, 4])
    one, two = build.tensor([1, 4]), build.tensor([1, 4])
    build.op("ADD", [image, two], one)
    build.op("ADD", [image, one], two)
    return build.build([image], [two])


def stateful(builder):
    build = builder()
    image = build.tensor([1, 4])
    return build.build([image], [build.op("READ_VARIABLE", [image], [1, 4])])


def unknown_op(builder):
    build = builder()
    image = build.tensor([1, 4])
    return build.build([image], [build.op("CUSTOM", [image], [1, 4], code=b"Evil\n\x1b[31mOp")])


@pytest.fixture(scope="module")
def files(residual, builder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    honest = residual()
    made = {
        "empty": b"",
        "picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "half": honest[: len(honest) // 2],
        "endless": endless(honest),
        "cyclic": cyclic(honest),
        "circle": in_a_circle(builder),
        "stateful": stateful(builder),
        "noise": honest[:8] + np.random.default_rng(0).bytes(4000),
    }
    for name, data in made.items():
        (folder / f"{name}.tflite").write_bytes(data)
    return folder


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "split_model", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("split-model: error: ")
    assert lines[0].isprintable()
    assert done.stdout == ""
    return lines[0]


@pytest.mark.parametrize("name", ["empty", "picture", "half", "endless", "cyclic", "circle", "stateful", "noise"])
def test_inspect(files, name):
    done = run("inspect", files / f"{name}.tflite")
    assert done.returncode == os.EX_DATAERR
    assert f"{name}.tflite" in one_line(done)


@pytest.mark.parametrize("name", ["half", "endless", "circle"])
def test_prepare_and_verify(files, tmp_path, name):
    path = files / f"{name}.tflite"
    done = run("prepare", path, "-o", tmp_path / "bundle")
    assert done.returncode == os.EX_DATAERR
    assert str(path) in one_line(done)
    assert not list(tmp_path.iterdir())
    done = run("verify", path)
    assert done.returncode == os.EX_DATAERR
    assert str(path) in one_line(done)


def test_names_from_the_file_cannot_paint_the_terminal(builder, tmp_path):
    path = tmp_path / "evil.tflite"
    path.write_bytes(unknown_op(builder))
    done = run("verify", path)
    assert done.returncode == os.EX_DATAERR
    assert "\x1b" not in done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1
    shown = run("inspect", path)
    assert shown.returncode == 0
    assert "\x1b" not in shown.stdout


@pytest.mark.parametrize(
    ("manifest", "code"),
    [
        (None, os.EX_NOINPUT),
        (b"{", os.EX_DATAERR),
        (b"\xff\xfe", os.EX_DATAERR),
        (b'{"format": 99}', os.EX_DATAERR),
    ],
)
def test_verify_of_what_is_no_bundle(tmp_path, manifest, code):
    if manifest is not None:
        (tmp_path / "manifest.json").write_bytes(manifest)
    done = run("verify", tmp_path)
    assert done.returncode == code
    one_line(done)


def test_what_is_not_there(tmp_path):
    for command in (("inspect",), ("verify",), ("prepare", "-o", tmp_path / "b")):
        done = run(*command, tmp_path / "none.tflite")
        assert done.returncode == os.EX_NOINPUT
        assert "none.tflite" in one_line(done)


def test_a_path_cannot_paint_the_terminal_either(tmp_path):
    assert "none" in one_line(run("inspect", tmp_path / "\x1b[31mnone.tflite"))
