"""Finds stuck tasks: each task sets its deadline beforehand, and reports when it is done.

A thread that waits for work has no deadline: idle threads are never stuck.
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
    """The deadlines of tasks, by name. Thread-safe."""

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
        """Note that a task is done."""
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
        """A task that beats regularly; several of one name may run at a time.

        Yields:
            The function to call at least every ``within_s`` seconds, from its first call on.

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
        """The names of overdue tasks, the longest overdue first."""
        with self._lock:
            now_s = self._now()
            late = sorted((due_s, name) for name, due_s in self._due.items() if due_s < now_s)
        return [name for _, name in late]


class WatchedPool(ThreadPoolExecutor):
    """A pool of one thread; each piece of work must be done ``within_s()`` seconds after its start."""

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
