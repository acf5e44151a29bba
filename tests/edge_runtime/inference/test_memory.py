"""What is given back can be had again: nothing that was written is ever lost."""

from __future__ import annotations

import ctypes
import mmap
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.inference.memory import give_back, unchanged
from split_model.interpreter import open_interpreter
from split_model.interpreter.mapped import mapped_at

PAGE = mmap.PAGESIZE
PAGES = 64

SMAPS = """\
55d0c0000000-55d0c0021000 rw-p 00000000 00:00 0                          [heap]
Size:                132 kB
Rss:                 100 kB
Anonymous:             0 kB
VmFlags: rd wr mr mw me ac sd
7f0000000000-7f0000010000 r-xp 00001000 fe:00 4242                       /usr/lib/a library.so
Rss:                  64 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me sd
7f0000010000-7f0000011000 r--p 00011000 fe:00 4242                       /usr/lib/a library.so
Rss:                   4 kB
Anonymous:             4 kB
VmFlags: rd mr mw me ac sd
7f0000011000-7f0000012000 rw-p 00012000 fe:00 4242                       /usr/lib/a library.so
Rss:                   4 kB
Anonymous:             0 kB
VmFlags: rd wr mr mw me ac sd
7f0000020000-7f0000030000 r--s 00000000 fe:00 77                         /srv/bundle/model.tflite
Rss:                  64 kB
VmFlags: rd mr me ms sd
7f0000040000-7f0000050000 r--s 00000000 fe:00 78                         /srv/bundle/head.tflite (deleted)
Rss:                  64 kB
Anonymous:             0 kB
VmFlags: rd mr me ms sd
7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
"""


def test_only_unwritten_pages_of_what_stays_are_candidates() -> None:
    """Heap, relocated and writable pages, what has no file, and what tells nothing of itself are left alone."""
    assert list(unchanged(SMAPS)) == [(0x7F0000000000, 0x7F0000010000)]
    held = frozenset({(0x7F0000020000, 0x7F0000030000), (0x7F0000040000, 0x7F0000050000)})
    assert list(unchanged(SMAPS, held))[1:] == [(0x7F0000040000, 0x7F0000050000)]


def test_a_library_is_left_alone_until_the_loader_has_put_all_of_it_there() -> None:
    """It maps a file whole, and then its segments over that; those that are written to come last."""
    code, relocated, data = (f"7f0000{at}" for at in ("000000-7f0000010000", "010000", "011000"))
    assert code in SMAPS
    begun = SMAPS[: SMAPS.index(relocated + "-")]
    assert list(unchanged(begun)) == []
    assert list(unchanged(SMAPS[: SMAPS.index(data + "-")])) == []


needs_smaps = pytest.mark.skipif(not Path("/proc/self/smaps").is_file(), reason="no /proc/PID/smaps here")


def _rss_kb(address: int) -> int:
    """Of the mapping that begins there."""
    _, _, fields = Path("/proc/self/smaps").read_text().partition(f"{address:x}-")
    found = re.search(r"^Rss: +(\d+) kB$", fields, re.MULTILINE)
    assert found is not None, hex(address)
    return int(found[1])


@needs_smaps
def test_pages_of_a_model_go_and_come_back(parts: Any) -> None:
    """Those of the model that is named and of no other one, be it of the same file: that may be on its way out."""
    path = parts.bundle.path(parts.bundle.manifest.model)
    model, other = open_interpreter(path), open_interpreter(path)
    ((start, _),), ((others, _),) = model.mapped, other.mapped
    picture = np.random.default_rng(1).random((1, 8, 8, 3), np.float32)
    (before,) = model.run([picture])
    assert min(_rss_kb(start), _rss_kb(others)) > 0
    give_back(model)
    assert _rss_kb(start) == 0
    assert _rss_kb(others) > 0
    np.testing.assert_array_equal(model.run([picture])[0], before)


@needs_smaps
def test_a_file_that_somebody_else_may_let_go_is_left_alone(tmp_path: Path) -> None:
    """What is put there the moment after would be lost, be it a frame or the heap."""
    path = tmp_path / "model.tflite"
    path.write_bytes(b"".join(bytes([number]) * PAGE for number in range(PAGES)))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ) as mapped:
        assert [mapped[number * PAGE] for number in range(PAGES)] == list(range(PAGES))
        give_back()
        assert _rss_kb(_address(mapped)) == PAGES * PAGE // 1024


@needs_smaps
def test_an_interpreter_knows_where_its_own_file_lies(parts: Any) -> None:
    path = parts.bundle.path(parts.bundle.manifest.model)
    first, second = open_interpreter(path), open_interpreter(path)
    assert first.mapped | second.mapped == mapped_at(path)
    assert not first.mapped & second.mapped
    del first
    assert second.mapped == mapped_at(path)
    assert open_interpreter(path.read_bytes()).mapped == frozenset()


@needs_smaps
def test_pages_of_the_programs_own_code_go() -> None:
    libraries = {address for address, _ in unchanged(Path("/proc/self/smaps").read_text())}
    held_kb = sum(map(_rss_kb, libraries))
    give_back()
    assert sum(map(_rss_kb, libraries)) < held_kb / 2


@needs_smaps
def test_what_was_written_stays(tmp_path: Path) -> None:
    """A private page that was changed and made read-only afterwards, as the loader does with relocations."""
    path = tmp_path / "library.so"
    path.write_bytes(bytes(PAGES * PAGE))
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    mapped[3 * PAGE] = 7
    start = _address(mapped)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(PAGES * PAGE), mmap.PROT_READ) == 0
    give_back()
    assert mapped[3 * PAGE] == 7
    mapped.close()


_IN_THREADS = """
import ctypes, threading
from edge_runtime.inference.memory import share_one_heap
share_one_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
addresses = []
threads = [threading.Thread(target=lambda: addresses.append(libc.malloc(ctypes.c_size_t(1000)))) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
heap = next(line.split()[0] for line in open("/proc/self/maps") if line.endswith("[heap]\\n"))
start, end = (int(address, 16) for address in heap.split("-"))
print(all(start <= address < end for address in addresses))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives each thread a heap of its own")
def test_threads_allocate_from_one_heap() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _IN_THREADS], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "True"


def _address(mapped: mmap.mmap) -> int:
    """Where a mapping is; read-only ones have no other way to tell it."""
    return int(np.frombuffer(mapped, np.uint8).ctypes.data)
