"""The command ``split-model`` on files that are no models: one line with cause and remedy, nothing half-written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from split_model.bundle import Bundle
from split_model.cli import main

REFUSED = {os.EX_DATAERR, os.EX_UNAVAILABLE, os.EX_USAGE}


def commands(model: Path, output: Path) -> dict[str, list[str]]:
    return {
        "inspect": ["inspect", str(model)],
        "prepare": ["prepare", str(model), "-o", str(output)],
        "verify": ["verify", str(model)],
    }


def run(capsys: Any, arguments: list[str]) -> tuple[int, str]:
    """Exit code and the one line of the error."""
    code = main(arguments)
    captured = capsys.readouterr()
    if code == 0:
        return 0, ""
    assert "Traceback" not in captured.err
    errors = [line for line in captured.err.splitlines() if "error:" in line]
    assert len(errors) == 1, captured.err
    assert errors[0].startswith("split-model: error: ")
    return code, errors[0]


def left_in(folder: Path, model: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path != model]


@pytest.mark.parametrize("command", ["inspect", "prepare", "verify"])
@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda good: good[: len(good) // 2], "truncated"),
        (lambda good: good[:40], "a stump"),
        (lambda _: b"", "empty"),
        (lambda good: np.random.default_rng(0).bytes(len(good)), "random"),
        (lambda good: good[:8] + np.random.default_rng(1).bytes(len(good) - 8), "random behind a good head"),
        (lambda _: b"\x89PNG\r\n" * 100, "a picture"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_model(
    tmp_path: Path, capsys: Any, residual: Any, command: str, damage: Callable[[bytes], bytes], what: str
) -> None:
    del what
    model = tmp_path / "model.tflite"
    model.write_bytes(damage(residual()))
    code, line = run(capsys, commands(model, tmp_path / "bundle")[command])
    assert code == os.EX_DATAERR
    assert str(model) in line
    assert left_in(tmp_path, model) == []


@pytest.mark.parametrize("command", ["inspect", "prepare", "verify"])
def test_no_file(tmp_path: Path, capsys: Any, command: str) -> None:
    for path in (tmp_path / "nowhere.tflite", tmp_path):
        code, line = run(capsys, commands(path, tmp_path / "bundle")[command])
        assert code in {os.EX_NOINPUT, os.EX_DATAERR}
        assert str(path) in line
    assert list(tmp_path.iterdir()) == []


def test_one_flipped_bit(tmp_path: Path, capsys: Any, residual: Any) -> None:
    """A bit in the weights makes another model, and a fine one; anywhere else it is refused or harmless."""
    good = residual()
    model, bundle = tmp_path / "model.tflite", tmp_path / "bundle"
    rng = np.random.default_rng(3)
    refused = 0
    for position, bit in zip(rng.choice(len(good), 12, replace=False), rng.integers(0, 8, 12), strict=True):
        damaged = bytearray(good)
        damaged[position] ^= 1 << bit
        model.write_bytes(damaged)
        code, line = run(capsys, ["prepare", str(model), "-o", str(bundle)])
        if code:
            assert code in REFUSED, line
            refused += 1
            assert left_in(tmp_path, model) == []
        else:
            Bundle.open(bundle)
            shutil.rmtree(bundle)
        assert left_in(tmp_path, model) == []
    assert refused > 0


def test_flipped_byte_in_a_bundle(tmp_path: Path, capsys: Any, residual: Any) -> None:
    model, bundle = tmp_path / "model.tflite", tmp_path / "bundle"
    model.write_bytes(residual())
    assert main(["prepare", str(model), "-o", str(bundle)]) == 0
    capsys.readouterr()
    for path in bundle.rglob("*.tflite"):
        good = path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        code, line = run(capsys, ["verify", str(bundle)])
        assert code == os.EX_DATAERR
        assert str(path) in line
        assert "prepare" in line
        path.write_bytes(good)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((3, 5, 4, 2), np.float32), ((3, 32), np.float32), ((3, 4, 4, 2), np.int64)]
)
def test_calibration_data_that_does_not_fit(
    tmp_path: Path, capsys: Any, residual: Any, shape: tuple[int, ...], dtype: Any
) -> None:
    model, data = tmp_path / "model.tflite", tmp_path / "data.npz"
    model.write_bytes(residual())
    np.savez(data, inputs=np.zeros(shape, dtype))
    command = ["prepare", str(model), "-o", str(tmp_path / "bundle"), "--calibration", str(data)]
    code, line = run(capsys, command)
    assert code == os.EX_DATAERR
    assert "float32[samples, 4, 4, 2]" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.npz", "model.tflite"]


def test_output_that_cannot_be_written(tmp_path: Path, capsys: Any, residual: Any) -> None:
    model = tmp_path / "model.tflite"
    model.write_bytes(residual())
    code, line = run(capsys, ["prepare", str(model), "-o", str(model / "bundle")])
    assert code == os.EX_CANTCREAT
    assert str(model / "bundle") in line
    code, line = run(capsys, ["prepare", str(model), "-o", str(tmp_path)])
    assert code == os.EX_CANTCREAT
    assert "--force" in line or "exists" in line
    assert left_in(tmp_path, model) == []


def test_force_replaces_bundles_and_nothing_else(tmp_path: Path, capsys: Any, residual: Any) -> None:
    model, bundle = tmp_path / "model.tflite", tmp_path / "bundle"
    model.write_bytes(residual())
    command = ["prepare", str(model), "--force", "-o"]
    assert main([*command, str(bundle)]) == 0
    (bundle / "left over").touch()
    assert main([*command, str(bundle)]) == 0
    capsys.readouterr()
    assert not (bundle / "left over").exists()
    (tmp_path / "link").symlink_to(bundle)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").touch()
    before = sorted(tmp_path.rglob("*"))
    for other in (model, tmp_path / "link", tmp_path / "folder"):
        code, line = run(capsys, [*command, str(other)])
        assert code == os.EX_CANTCREAT
        assert "is not a bundle, so it is not replaced" in line
    assert sorted(tmp_path.rglob("*")) == before


def test_the_bundle_before_is_back_where_the_new_one_cannot_take_its_place(
    tmp_path: Path, residual: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, bundle = tmp_path / "model.tflite", tmp_path / "bundle"
    model.write_bytes(residual())
    command = ["prepare", str(model), "--force", "-o", str(bundle)]
    assert main(command) == 0
    capsys.readouterr()
    before = sorted(tmp_path.rglob("*"))
    rename = Path.rename

    def fails(path: Path, target: Path) -> Path:
        if target == bundle and not path.name.endswith(".before"):
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails)
    code, line = run(capsys, command)
    assert code == os.EX_CANTCREAT
    assert "No space left" in line
    assert sorted(tmp_path.rglob("*")) == before
