"""The wheel that boards get, which is also the one that is published: all of the packages, and nothing else."""

from __future__ import annotations

import configparser
import io
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from deploy.wheelhouse import PACKAGES, ROOT, own_wheel, sha256_of


@pytest.fixture(scope="module")
def wheel() -> Path:
    return own_wheel()


def test_every_file_of_the_packages_and_no_other_is_in_the_wheel(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == files


def test_the_wheel_declares_its_commands_and_pythons(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    info = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(archive.read(info).decode())
    assert metadata["Requires-Python"] == ">=3.10"
    assert {"litert", "legacy", "images"} <= set(metadata.get_all("Provides-Extra", []))
    entries = configparser.ConfigParser()
    entries.read_file(io.StringIO(archive.read(info.replace("METADATA", "entry_points.txt")).decode()))
    assert set(entries["console_scripts"]) == {"split-model", "edge-runtime", "cloud-server"}


def test_the_same_sources_make_the_same_wheel(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every deployment would be a new release."""
    monkeypatch.setattr("deploy.wheelhouse.CACHE", tmp_path)
    assert sha256_of(own_wheel()) == sha256_of(wheel)
