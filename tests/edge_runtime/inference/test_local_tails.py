"""What is behind each head: the same answers as the whole model, within its memory, and no to and fro."""

from __future__ import annotations

import shutil
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.inference.local_tails import LocalTailCost, LocalTails, load_local_tail
from edge_runtime.inference.model_files import ModelFiles
from edge_runtime.planner.prediction import SplitProfile
from split_model.bundle import Bundle
from split_model.errors import BadBundleError
from split_model.interpreter import open_interpreter


class AtOnce(Executor):
    """Loads when asked to."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BadBundleError as error:
            future.set_exception(error)
        return future


class Store:
    """Local tails that are their cut's number; each takes a megabyte, and 2 MB are there."""

    def __init__(self, *, memory_bytes: int = 2_000_000) -> None:
        self.loaded: list[int] = []
        self.now_s = 0.0
        self.broken: set[int] = set()
        costs = {split: LocalTailCost(1_000_000, 0.1 * split) for split in (0, 1, 2, 3)}
        self.local_tails = LocalTails(
            self.load, costs, whole="whole", memory_bytes=memory_bytes, loader=AtOnce(), now=lambda: self.now_s
        )

    def load(self, split: int) -> Any:
        if split in self.broken:
            raise BadBundleError("changed")
        self.loaded.append(split)
        return split

    def behind(self, split: int, *, at_s: float) -> Any:
        self.now_s = at_s
        self.local_tails.behind(split)  # asks for it
        return self.local_tails.behind(split)


def test_head_and_what_is_behind_it_answer_as_the_whole_model_does(parts: Any) -> None:
    whole = open_interpreter(parts.bundle.path(parts.bundle.manifest.model))
    picture = np.random.default_rng(1).random((1, 8, 8, 3), np.float32)
    for cut in parts.bundle.manifest.cuts:
        if cut.head is None:
            continue
        features = open_interpreter(parts.bundle.path(cut.head)).run([picture])
        (found,) = load_local_tail(ModelFiles(parts.bundle), cut.index, backend=None, threads=1).run(features)
        np.testing.assert_array_equal(found, whole.run([picture])[0])


def test_one_that_is_not_at_hand_is_loaded_and_until_then_a_local_run_begins_anew() -> None:
    store = Store()
    assert store.local_tails.apply(SplitProfile(2, 0.1)).local_tail_s is None
    assert store.local_tails.behind(2) is None
    assert store.local_tails.behind(2) == 2
    assert store.local_tails.apply(SplitProfile(2, 0.1)).local_tail_s == pytest.approx(0.2)
    assert store.loaded == [2]


def test_at_cut_0_the_whole_model_is_left() -> None:
    store = Store(memory_bytes=0)
    assert store.local_tails.behind(0) == "whole"
    assert store.local_tails.apply(SplitProfile(0, 0.0)).local_tail_s is not None
    assert store.behind(1, at_s=0.0) is None


def test_no_more_are_kept_than_fit_and_none_is_dropped_that_was_wanted_lately() -> None:
    store = Store()
    assert (store.behind(1, at_s=0.0), store.behind(2, at_s=1.0)) == (1, 2)
    for at_s in range(2, 20):  # to and fro between three, of which two fit
        assert store.behind(3, at_s=at_s) is None
        assert store.behind(2, at_s=at_s) == 2
    assert store.loaded == [1, 2]
    assert store.behind(3, at_s=60.0) == 3
    assert store.local_tails.apply(SplitProfile(1, 0.1)).local_tail_s is None
    assert store.behind(2, at_s=61.0) == 2


def test_one_that_does_not_load_is_not_tried_again(caplog: Any) -> None:
    store = Store()
    store.broken.add(1)
    assert store.behind(1, at_s=0.0) is None
    store.broken.clear()
    assert store.behind(1, at_s=1.0) is None
    assert "cut 1: its local tail does not run here (changed)" in caplog.text


def test_a_file_that_changed_is_refused(parts: Any, tmp_path: Path) -> None:
    shutil.copytree(parts.bundle.root, tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle")
    path = bundle.path(bundle.cut(2).tail)
    path.write_bytes(bundle.path(bundle.cut(3).tail).read_bytes())
    for files in (ModelFiles(bundle), ModelFiles(bundle, tmp_path / "state")):
        with pytest.raises(BadBundleError, match=r"SHA-256 differs|changed since this program started"):
            load_local_tail(files, 2, backend=None, threads=1)
