"""Waits for the gateway's sockets and descriptors, with one system call while messages come.

`zmq.Poller` asks every socket whether it is ready, before and after it waits. This module lets the kernel watch
libzmq's descriptors. Such a descriptor only signals an event of its socket, and any call on the socket may consume
the signal unseen. So the message socket is asked before each wait. The others are asked when one of their
descriptors signals, until none of them is ready, after every wait that timed out, and every few waits that found
messages at once.
"""

from __future__ import annotations

import select
from collections.abc import Iterable

import zmq

_FD, _EVENTS, _POLLIN = int(zmq.FD), int(zmq.EVENTS), int(zmq.POLLIN)

#: The other sockets are asked at least once in this many waits.
_NOW_AND_THEN = 16

Source = zmq.Socket[bytes] | int


class Wakeup:
    """Finds which of several sources are ready.

    Args:
        busy: The socket with the most wake-ups.
        others: More sockets.
        fds: Descriptors.

    """

    def __init__(self, busy: zmq.Socket[bytes], others: Iterable[zmq.Socket[bytes]], fds: Iterable[int]) -> None:
        self._busy, self._fds = busy, frozenset(fds)
        self._busy_fd = _descriptor(busy)
        self._others = zmq.Poller()
        self._ask_others = True
        self._unasked = 0
        self._epoll = select.epoll()
        for other in others:
            self._others.register(other, zmq.POLLIN)
            self._epoll.register(_descriptor(other), select.EPOLLIN)
        for fd in (self._busy_fd, *self._fds):
            self._epoll.register(fd, select.EPOLLIN)

    def wait(self, timeout_s: float) -> set[Source]:
        """Wait until one is ready, at most ``timeout_s``. Returns the ready ones, and perhaps the busy one."""
        is_busy, ask = bool(int(self._busy.getsockopt(_EVENTS)) & _POLLIN), self._ask_others
        ready: set[Source] = set()
        for fd, _ in self._epoll.poll(0.0 if is_busy or ask else timeout_s):
            if fd == self._busy_fd:
                is_busy = True
            elif fd in self._fds:
                ready.add(fd)
            else:
                ask = True
        if is_busy:
            ready.add(self._busy)
        self._unasked += 1
        if ask or not ready or self._unasked >= _NOW_AND_THEN:
            self._unasked = 0
            others = self._others.poll(0)
            self._ask_others = bool(others)
            ready.update(source for source, _ in others)
        return ready

    def close(self) -> None:
        """Close the epoll object."""
        self._epoll.close()


def _descriptor(socket: zmq.Socket[bytes]) -> int:
    return int(socket.getsockopt(_FD))
