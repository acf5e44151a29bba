"""The heads: the whole model always loaded, the others prepared in the background and kept while memory allows.

A prepared head has had its warm-up inference and its release built, so that switching to it is one assignment
between two frames.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.release import Release
from split_model.bundle import Bundle, Cut, sha256_of
from split_model.errors import BadBundleError
from split_model.interpreter import Interpreter, open_interpreter

log = logging.getLogger(__name__)

Array = NDArray[Any]

_TABLE_BYTES = 2 << 20


class Head:
    """One cut, ready to run: ``features`` then ``release``. At cut 0 the features are the input itself."""

    def __init__(self, cut: Cut, interpreter: Interpreter | None, release: Release) -> None:
        self.cut = cut
        self.release = release
        self._input_bytes = sum(spec.nbytes for spec in interpreter.inputs) if interpreter is not None else 0
        self._interpreter = interpreter

    @property
    def memory_bytes(self) -> int:
        """About what it holds: weights packed by the backend, its arena, and the release's tables.

        The factors fit the heads of EfficientNet-Lite0 (0.03 to 13 MB of file, 8 to 35 MB here) within a third.
        """
        weights = 0 if self.cut.head is None else self.cut.head.size_bytes
        return int(2.5 * weights) + 8 * (self.cut.raw_bytes + self._input_bytes) + _TABLE_BYTES

    def features(self, inputs: Sequence[Array]) -> list[Array]:
        """The live tensors at the cut, fresh arrays that the release may overwrite."""
        if self._interpreter is None:
            return [np.array(tensor) for tensor in inputs]
        return self._interpreter.run(inputs)

    def made(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """The live tensors of the last `features`, of the same ``inputs``, as they were before a release."""
        return inputs if self._interpreter is None else self._interpreter.results()


class Heads:
    """All heads of a bundle. ``memory_bytes`` bounds about what the prepared ones take, but one is always kept.

    ``loader``: one thread that prepares them, closed with this.
    """

    def __init__(
        self,
        bundle: Bundle,
        make_release: Callable[[Cut], Release],
        *,
        backend: str | None,
        threads: int,
        memory_bytes: int,
        loader: Executor | None = None,
    ) -> None:
        self._bundle = bundle
        self._make_release = make_release
        self._backend = backend
        self._threads = threads
        self._memory_bytes = memory_bytes
        self._prepared: OrderedDict[int, Head] = OrderedDict()
        self._under_way: dict[int, Future[Head]] = {}
        self._worker = loader or ThreadPoolExecutor(1, thread_name_prefix="heads")
        self.whole = open_interpreter(bundle.path(bundle.manifest.model), backend=backend, threads=threads)

    def load(self, split: int) -> Head:
        """Load a head now, with its warm-up inference; not kept. Also called by the background thread.

        Its file is checked again: a bundle that was replaced under a running program is not the one whose tails the
        server runs. Raises `BackendError`, `BadBundleError`, `BadModelError` or `MissingInputError`.
        """
        cut = self._bundle.cut(split)
        interpreter = None
        if cut.head is not None:
            path = self._bundle.path(cut.head)
            interpreter = open_interpreter(path, backend=self._backend, threads=self._threads)
            made = [(spec.dtype, spec.shape) for spec in interpreter.outputs]
            if sha256_of(path) != cut.head.sha256 or made != [(spec.dtype, spec.shape) for spec in cut.tensors]:
                raise BadBundleError(f"{path}: changed since this program started; start it again")
        head = Head(cut, interpreter, self._make_release(cut))
        head.features([np.zeros(spec.shape, spec.dtype) for spec in self._bundle.manifest.inputs])
        return head

    def prepared(self, split: int) -> Head | None:
        """The head if it is ready; otherwise None, and it is on its way.

        Raises what `load` raised in the background, when that head is asked for; asking again tries again.
        """
        self._collect(split)
        head = self._prepared.get(split)
        if head is not None:
            self._prepared.move_to_end(split)
        elif split not in self._under_way:
            self._under_way[split] = self._worker.submit(self.load, split)
        return head

    def keep(self, head: Head) -> None:
        """Take a loaded head in, and let the least recently used ones go when memory is short."""
        self._prepared[head.cut.index] = head
        while len(self._prepared) > 1 and self._held_bytes() > self._memory_bytes:
            dropped, _ = self._prepared.popitem(last=False)
            log.debug("head of cut %d dropped to save memory", dropped)

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

    def _held_bytes(self) -> int:
        return sum(head.memory_bytes for head in self._prepared.values())
