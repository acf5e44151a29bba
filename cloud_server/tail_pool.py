"""The pool of interpreters of all workers, within a limit on their measured memory.

An interpreter belongs to a tail, not to a worker: a worker borrows an idle one, and loads one only if there is
none. So a tail never has more interpreters than run at a time. The interpreters of a tail share the bytes of its
file; the weights that XNNPACK packs and the tensors are each interpreter's own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from cloud_server import resident_memory
from cloud_server.shared_cache import SharedCache
from cloud_server.tails import Tail, TailId
from split_model.interpreter import Interpreter

#: A tail, and the batch size of its interpreters.
_Key = tuple[TailId, int]


@dataclass(eq=False)
class _Loaded:
    """The interpreters of one tail: their shared bytes, the idle ones, and the number of borrowed ones."""

    content: bytes
    idle: list[Interpreter] = field(default_factory=list)
    borrowed: int = 0


@dataclass(eq=False)
class Borrowed:
    """An interpreter that one thread has borrowed; ``fresh``: it was loaded for this."""

    tail: Tail
    interpreter: Interpreter
    fresh: bool
    batch: int = 1


class TailPool:
    """Interpreters to borrow. Thread-safe.

    If this process takes more than ``limit_bytes`` beyond its size at the start, idle interpreters are dropped;
    those of the device that uses most tails first (`SharedCache`). A borrowed one is never dropped.

    Args:
        limit_bytes: The bound.
        tail_threads: Threads of one interpreter.
        clock: Monotonic seconds.
        held_bytes: Memory of the process besides the tails, such as payloads.
        resident_bytes: Memory of the process; if it returns None, twice the sizes of the tails' files count
            instead (the bytes themselves and the packed weights).

    """

    def __init__(
        self,
        limit_bytes: int,
        *,
        tail_threads: int,
        clock: Callable[[], float],
        held_bytes: Callable[[], int] = lambda: 0,
        resident_bytes: Callable[[], int | None] = resident_memory.pss_bytes,
    ) -> None:
        self._limit_bytes = limit_bytes
        self._tail_threads = tail_threads
        self._clock = clock
        self._held_bytes = held_bytes
        self._resident_bytes = resident_bytes
        self._at_start_bytes = (resident_bytes() or 0) - held_bytes()
        self._lock = threading.RLock()  # the measuring functions may ask for `interpreters`
        self._loading = threading.Lock()  # one at a time, so that the bound is checked after each
        self._cache: SharedCache[_Key, _Loaded] = SharedCache()

    def borrow(self, tail: Tail, *, device: str, batch: int = 1) -> Borrowed:
        """Borrow an interpreter of a tail for one thread, loaded if needed; `give_back` returns it.

        Interpreters for a ``batch`` of frames are separate from those for single frames.

        Raises what `Tail.load` raises.
        """
        with self._lock:
            found = self._cache.get((tail.id, batch))
            if found is not None:
                self._use(tail, batch, found, device)
                if found.idle:
                    found.borrowed += 1
                    return Borrowed(tail, found.idle.pop(), fresh=False, batch=batch)
        with self._loading:
            content = tail.read() if found is None else found.content
            interpreter = tail.load(content, threads=self._tail_threads, batch=batch)
        with self._lock:
            loaded = self._cache.get((tail.id, batch)) or _Loaded(content)
            loaded.borrowed += 1
            self._use(tail, batch, loaded, device)
        return Borrowed(tail, interpreter, fresh=True, batch=batch)

    def give_back(self, borrowed: Borrowed) -> None:
        """Return a borrowed interpreter. After a fresh one's first run the limit is checked."""
        with self._lock:
            loaded = self._cache.get((borrowed.tail.id, borrowed.batch))
            assert loaded is not None
            loaded.borrowed -= 1
            loaded.idle.append(borrowed.interpreter)
        if borrowed.fresh:
            self._keep_to_the_bound((borrowed.tail.id, borrowed.batch))

    @property
    def interpreters(self) -> int:
        """Number of loaded interpreters, idle and borrowed."""
        with self._lock:
            return sum(len(one.idle) + one.borrowed for one in self._cache.values())

    def _use(self, tail: Tail, batch: int, loaded: _Loaded, device: str) -> None:
        size = tail.file.size_bytes
        self._cache.use((tail.id, batch), loaded, device=device, now_s=self._clock(), size=size)

    def _keep_to_the_bound(self, last_used: _Key) -> None:
        """Drop idle interpreters above the limit: first duplicates, then whole tails, but not the last used."""
        with self._loading, self._lock:
            if not self._is_over():
                return
            for loaded in self._cache.values():
                while loaded.idle and len(loaded.idle) + loaded.borrowed > 1 and self._is_over():
                    loaded.idle.pop()
            self._cache.make_room(
                self._is_over, self._clock(), may_go=lambda key: key != last_used and not self._is_borrowed(key)
            )

    def _is_borrowed(self, key: _Key) -> bool:
        loaded = self._cache.get(key)
        return loaded is not None and loaded.borrowed > 0

    def _is_over(self) -> bool:
        resident_memory.give_back()
        resident = self._resident_bytes()
        if resident is None:
            return sum((1 + len(one.idle) + one.borrowed) * len(one.content) for one in self._cache.values()) > (
                self._limit_bytes
            )
        return resident - self._at_start_bytes - self._held_bytes() > self._limit_bytes
