"""The heads: the whole model always loaded, the others prepared in the background and kept while memory allows.

A prepared head has had its warm-up inference and its release built, so that switching to it is one assignment
between two frames.
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
    """One cut, ready to run: ``features`` then ``release``. At cut 0 the features are the input itself."""

    def __init__(self, cut: Cut, interpreter: Interpreter | None, release: Release) -> None:
        self.cut = cut
        self.release = release
        self._interpreter = interpreter

    def features(self, inputs: Sequence[Array]) -> list[Array]:
        """The live tensors at the cut, fresh arrays that the release may overwrite."""
        if self._interpreter is None:
            return [np.array(tensor) for tensor in inputs]
        return self._interpreter.run(inputs)

    def made(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """The live tensors of the last `features`, of the same ``inputs``, as they were before a release."""
        return inputs if self._interpreter is None else self._interpreter.results()


def memory_bytes_of(bundle: Bundle, cut: Cut) -> int:
    """About what a prepared head holds: weights packed by the backend, its arena, and the release's tables.

    The factors fit the heads of EfficientNet-Lite0 (0.03 to 13 MB of file, 8 to 35 MB here) within a third; for
    those of small models (4 MB) they say up to twice as much.
    """
    weights = 0 if cut.head is None else cut.head.size_bytes
    inputs = 0 if cut.head is None else sum(spec.nbytes for spec in bundle.manifest.inputs)
    return int(2.5 * weights) + 8 * (cut.raw_bytes + inputs) + _TABLE_BYTES


class Heads:
    """All heads of a bundle. ``memory_bytes`` bounds about what the prepared ones take, but one is always kept.

    By default the two largest fit, so that the split can go to and fro between any two without loading again.
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
        give_back(self.whole)  # before more is loaded: what the backend has packed is there twice

    def load(self, split: int) -> Head:
        """Load a head now, with its warm-up inference; not kept. Also called by the background thread.

        Its file is checked again: a bundle that was replaced under a running program is not the one whose tails the
        server runs. Raises `BackendError`, `BadBundleError`, `BadModelError` or `MissingInputError`; not to be read
        and not enough memory are among them.
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
        """The head if it is ready; otherwise None, and it is on its way, as soon as no other one is.

        Raises what `load` raised in the background, when that head is asked for; asking again tries again.
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
        """Take a loaded head in, and let the least recently used ones go when memory is short."""
        self._prepared[head.cut.index] = head
        self._make_room(0)

    def close(self) -> None:
        """Wait for the background work and let everything go."""
        self._worker.shutdown(cancel_futures=True)
        self._prepared.clear()

    def forget(self, split: int) -> None:
        """Let a head go that turned out not to work."""
        self._prepared.pop(split, None)

    def _collect(self, wanted: int) -> None:
        for split in [split for split, future in self._under_way.items() if future.done()]:
            # One that failed stays until it is asked for: its error is no matter of the frame at another cut.
            if split == wanted or self._under_way[split].exception() is None:
                self.keep(self._under_way.pop(split).result())

    def _make_room(self, needed_bytes: int) -> None:
        """Before a head is loaded, not after: else both would be in memory at the peak."""
        while len(self._prepared) > 1 and needed_bytes + self._held_bytes() > self._memory_bytes:
            dropped, _ = self._prepared.popitem(last=False)
            log.debug("head of cut %d dropped to save memory", dropped)

    def _held_bytes(self) -> int:
        return sum(self._needs_bytes[split] for split in self._prepared)
