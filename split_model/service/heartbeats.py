"""Find stuck work: every task states its deadline beforehand, and reports when it is done.

A thread that waits for work has nothing to say, and nothing is expected of it: idle is progress.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Heartbeats:
    """What is expected, by name. Safe from any thread."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._due: dict[str, float] = {}
        self._numbers = 0

    def expect(self, name: str, *, within_s: float) -> None:
        """Set the deadline, in seconds from now, for `done` or the next call."""
        with self._lock:
            self._due[name] = self._now() + within_s

    def done(self, name: str) -> None:
        """It is over."""
        with self._lock:
            self._due.pop(name, None)

    @contextmanager
    def work(self, name: str, *, within_s: float) -> Iterator[None]:
        """A task with a deadline in seconds from now; several of one name may run at a time."""
        key = self._key(name)
        self.expect(key, within_s=within_s)
        try:
            yield
        finally:
            self.done(key)

    @contextmanager
    def alive(self, name: str, *, within_s: float) -> Iterator[Callable[[], None]]:
        """Something that beats for as long as it lives; several of one name may live at a time.

        Yields:
            What it calls at least every ``within_s`` seconds, from its first call on.

        """
        key = self._key(name)
        try:
            yield lambda: self.expect(key, within_s=within_s)
        finally:
            self.done(key)

    def _key(self, name: str) -> str:
        with self._lock:
            self._numbers += 1
            return f"{name} #{self._numbers}"

    def overdue(self) -> list[str]:
        """The names of what should be over and is not, the longest overdue first."""
        with self._lock:
            now_s = self._now()
            late = sorted((due_s, name) for name, due_s in self._due.items() if due_s < now_s)
        return [name for _, name in late]


class WatchedPool(ThreadPoolExecutor):
    """A pool of one thread whose every piece of work is to be over within ``within_s()`` seconds of its start."""

    def __init__(self, name: str, beats: Heartbeats, *, within_s: Callable[[], float]) -> None:
        super().__init__(1, thread_name_prefix=name)
        self._name = name
        self._beats = beats
        self._within_s = within_s

    def submit(self, work: Callable[P, T], /, *arguments: P.args, **named: P.kwargs) -> Future[T]:
        """See `Executor.submit`."""

        def watched() -> T:
            with self._beats.work(self._name, within_s=self._within_s()):
                return work(*arguments, **named)

        return super().submit(watched)
