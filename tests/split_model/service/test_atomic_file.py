"""A file that is written at once: whole for every reader, as before where it fails, and nothing left beside."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from split_model.service.atomic_file import write_atomically


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_has_its_content_and_its_mode_whatever_the_umask(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "file"
    before = os.umask(0o077)
    try:
        write_atomically(path, b"one", durable=durable)
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"one", 0o644)
        write_atomically(path, b"two", mode=0o600, durable=durable)
    finally:
        os.umask(before)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"two", 0o600)
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"theirs")
    (tmp_path / "file").symlink_to(tmp_path / "other")
    write_atomically(tmp_path / "file", b"ours")
    assert (tmp_path / "other").read_bytes() == b"theirs"
    assert not (tmp_path / "file").is_symlink()


def test_what_cannot_be_replaced_leaves_nothing_beside(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "folder", b"x")
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "none" / "file", b"x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    """A process of its own may write 64 KiB a file; the limit stands for a full disk."""
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from split_model.service.atomic_file import write_atomically\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        f"path = Path({str(tmp_path / 'file')!r})\n"
        "write_atomically(path, b'small')\n"
        "try: write_atomically(path, bytes(1 << 20))\n"
        "except OSError as error: sys.exit(7)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 7
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("file", b"small")]


def test_readers_see_the_one_or_the_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([number]) * 100_000 for number in (1, 2)]
    write_atomically(path, contents[0], durable=False)
    done = threading.Event()
    seen: set[bytes] = set()

    def look() -> None:
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for number in range(200):
            write_atomically(path, contents[number % 2], durable=False)
    finally:
        done.set()
        reader.join()
    assert seen <= set(contents)
