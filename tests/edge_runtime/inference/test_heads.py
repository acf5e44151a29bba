"""Which heads are in memory: the two that the split goes between, and never more while another one is loaded."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from edge_runtime.board.board import RealBoard
from edge_runtime.inference.heads import Head, Heads, memory_bytes_of
from edge_runtime.inference.model_files import ModelFiles
from edge_runtime.inference.profile import measure
from edge_runtime.privacy.release import Release
from split_model.bundle import Cut


class Watched(Heads):
    """Heads that tell how many of them were alive at each moment a load ended, and that can be held up."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.alive: weakref.WeakSet[Head] = weakref.WeakSet()
        self.at_most = 0
        self.loaded: list[int] = []
        self.go = threading.Event()
        self.go.set()

    def load(self, split: int) -> Head:
        self.go.wait(10)
        head = super().load(split)
        gc.collect()
        self.alive.add(head)
        self.at_most = max(self.at_most, len(self.alive))
        self.loaded.append(split)
        return head

    def until_prepared(self, split: int) -> None:
        ends_s = time.monotonic() + 10
        while self.prepared(split) is None:
            assert time.monotonic() < ends_s
            time.sleep(0.002)


def _unprotected(cut: Cut) -> Release:
    return Release(cut, None, entropy=bytes)


@pytest.fixture
def heads(parts: Any) -> Iterator[Watched]:
    made = Watched(ModelFiles(parts.bundle), _unprotected, backend=None, threads=1)
    yield made
    made.go.set()
    made.close()


def test_the_split_goes_to_and_fro_without_loading_again(heads: Watched, parts: Any) -> None:
    sizes = {cut.index: memory_bytes_of(parts.bundle, cut) for cut in parts.bundle.manifest.cuts}
    one, other = sorted(sizes, key=lambda split: sizes[split])[-2:]
    for split in (one, other, one, other, one):
        heads.until_prepared(split)
    assert sorted(heads.loaded) == sorted([one, other])


def test_room_is_made_before_a_head_is_loaded(parts: Any) -> None:
    """With memory for one head there are two at most: the one in use, and the one that is to take its place."""
    heads = Watched(ModelFiles(parts.bundle), _unprotected, backend=None, threads=1, memory_bytes=1)
    for split in [cut.index for cut in parts.bundle.manifest.cuts] * 2:
        heads.until_prepared(split)
    heads.close()
    assert heads.at_most == 2


def test_one_head_is_loaded_at_a_time(heads: Watched, parts: Any) -> None:
    """A split that moves faster than heads load does not fill the memory with heads that nobody wants any more."""
    first, *others = [cut.index for cut in parts.bundle.manifest.cuts]
    heads.go.clear()
    for split in (first, *others):
        assert heads.prepared(split) is None
    heads.go.set()
    heads.until_prepared(first)
    assert heads.loaded == [first]


def test_measuring_holds_one_head_at_a_time(heads: Watched, parts: Any) -> None:
    profile = measure(parts.bundle, heads, RealBoard(), release="none", threads=1, runs=1)
    assert profile is not None
    assert [timing.split for timing in profile.splits[:-1]] == heads.loaded
    assert heads.at_most == 1


def test_with_slots_a_profile_has_the_longest_times_and_plans_with_them(heads: Watched, parts: Any) -> None:
    profile = measure(parts.bundle, heads, RealBoard(), release="none", threads=1, slots=True, runs=2)
    assert profile is not None
    assert profile.has_slots
    assert profile.spin_cpu_s
    for timing, in_slot in zip(profile.splits, profile.in_slots().splits, strict=True):
        assert in_slot.head_s >= 1.25 * timing.head_p95_s
        assert in_slot.release_s >= timing.release_s
        assert in_slot.payload_bytes == timing.payload_bytes
