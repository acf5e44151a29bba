"""Loads heads in the background and keeps them within a memory limit; the whole model is always loaded.

A prepared head has run its warm-up inference and has its release, so a switch to it is one assignment between two
frames.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import numpy as np

from edge_runtime.inference.memory import give_back, share_one_heap
from edge_runtime.inference.model_files import ModelFiles
from edge_runtime.privacy.release import Release
from split_model.arrays import Array
from split_model.bundle import Bundle, Cut
from split_model.errors import BackendError, BadBundleError
from split_model.interpreter import Interpreter

log = logging.getLogger(__name__)


_TABLE_BYTES = 2 << 20


class Head:
    """The head of one cut, ready to run: ``features``, then ``release``. At cut 0 the features are the input."""

    def __init__(self, cut: Cut, interpreter: Interpreter | None, release: Release) -> None:
        self.cut = cut
        self.release = release
        self._interpreter = interpreter

    def features(self, inputs: Sequence[Array]) -> list[Array]:
        """Run the head; returns the live tensors at the cut as new arrays that the release may overwrite."""
        if self._interpreter is None:
            return [np.array(tensor) for tensor in inputs]
        return self._interpreter.run(inputs)

    def made(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """Return the live tensors of the last `features` call again, as they were before the release."""
        return inputs if self._interpreter is None else self._interpreter.results()


def memory_bytes_of(bundle: Bundle, cut: Cut) -> int:
    """Estimate the memory of a prepared head: weights packed by the backend, arena, and release tables.

    The factors fit the heads of EfficientNet-Lite0 (0.03 to 13 MB of file, 8 to 35 MB here) within a third; for
    those of small models (4 MB) the estimate is up to twice too high.
    """
    weights = 0 if cut.head is None else cut.head.size_bytes
    inputs = 0 if cut.head is None else sum(spec.nbytes for spec in bundle.manifest.inputs)
    return int(2.5 * weights) + 8 * (cut.raw_bytes + inputs) + _TABLE_BYTES


class Heads:
    """All heads of a bundle. ``memory_bytes``: limit for the prepared ones; one is always kept.

    By default the two largest fit, so that the split can alternate between any two without loading again.
    ``files``: opens the models. ``loader``: one thread that prepares them, closed with this.
    """

    def __init__(
        self,
        files: ModelFiles,
        make_release: Callable[[Cut], Release],
        *,
        backend: str | None,
        threads: int,
        memory_bytes: int | None = None,
        loader: Executor | None = None,
    ) -> None:
        self.files = files
        self._bundle = bundle = files.bundle
        self._make_release = make_release
        self._backend = backend
        self._threads = threads
        self._needs_bytes = {cut.index: memory_bytes_of(bundle, cut) for cut in bundle.manifest.cuts}
        two_largest = sum(sorted(self._needs_bytes.values())[-2:])
        self._memory_bytes = two_largest if memory_bytes is None else memory_bytes
        self._prepared: OrderedDict[int, Head] = OrderedDict()
        self._under_way: dict[int, Future[Head]] = {}
        self._worker = loader or ThreadPoolExecutor(1, thread_name_prefix="heads")
        share_one_heap()  # before the first thread that loads models
        give_back()  # what the imports needed
        self.whole = files.open(bundle.manifest.model, backend=backend, threads=threads)
        give_back(self.whole)  # before more is loaded: weights that the backend packed are in memory twice

    def load(self, split: int) -> Head:
        """Load a head now, with its warm-up inference, without keeping it. Safe in the background thread.

        Its file is checked again: the bundle may have been replaced under the running program, and then the server
        runs other tails. Raises `BackendError`, `BadBundleError`, `BadModelError` or `MissingInputError`, also for
        a file that cannot be read and for too little memory.
        """
        try:
            return self._load(split)
        except MemoryError:
            raise BackendError(f"cut {split}: not enough memory for its head") from None

    def _load(self, split: int) -> Head:
        cut = self._bundle.cut(split)
        interpreter = None
        if cut.head is not None:
            interpreter = self.files.open(cut.head, backend=self._backend, threads=self._threads)
            made = [(spec.dtype, spec.shape) for spec in interpreter.outputs]
            if made != [(spec.dtype, spec.shape) for spec in cut.tensors]:
                raise BadBundleError(
                    f"{interpreter.source}: its outputs are not the live tensors of cut {split}",
                    remedy="prepare the bundle again",
                )
        head = Head(cut, interpreter, self._make_release(cut))
        head.features([np.zeros(spec.shape, spec.dtype) for spec in self._bundle.manifest.inputs])
        give_back(self.whole, *([] if interpreter is None else [interpreter]))
        return head

    def prepared(self, split: int) -> Head | None:
        """Return a head if it is ready; otherwise None, and begin to load it once no other head is loading.

        Raises the error of a `load` of this head in the background; the next call tries again.
        """
        self._collect(split)
        head = self._prepared.get(split)
        if head is not None:
            self._prepared.move_to_end(split)
        elif all(future.done() for future in self._under_way.values()) and split not in self._under_way:
            self._make_room(self._needs_bytes[split])
            self._under_way[split] = self._worker.submit(self.load, split)
        return head

    def keep(self, head: Head) -> None:
        """Keep a loaded head, and drop the least recently used ones if memory is short."""
        self._prepared[head.cut.index] = head
        self._make_room(0)

    def close(self) -> None:
        """Wait for the background work and drop all heads."""
        self._worker.shutdown(cancel_futures=True)
        self._prepared.clear()

    def forget(self, split: int) -> None:
        """Drop a head that does not work."""
        self._prepared.pop(split, None)

    def _collect(self, wanted: int) -> None:
        for split in [split for split, future in self._under_way.items() if future.done()]:
            # A failed load stays until its head is wanted: its error does not concern frames at another cut.
            if split == wanted or self._under_way[split].exception() is None:
                self.keep(self._under_way.pop(split).result())

    def _make_room(self, needed_bytes: int) -> None:
        """Drop heads before a new one is loaded, not after: otherwise both would be in memory at the peak."""
        while len(self._prepared) > 1 and needed_bytes + self._held_bytes() > self._memory_bytes:
            dropped, _ = self._prepared.popitem(last=False)
            log.debug("head of cut %d dropped to save memory", dropped)

    def _held_bytes(self) -> int:
        return sum(self._needs_bytes[split] for split in self._prepared)
