"""Waiting for the gateway's sockets and descriptors, for the price of one system call where messages come.

`zmq.Poller` asks every socket whether it is ready, before and after it waits. Here the kernel watches libzmq's
descriptors. Such a descriptor only says that something happened to its socket, and any call on the socket may take
that back unseen: so the socket of the messages is asked before each wait, and the others are asked whenever one of
their descriptors spoke, until none of them is ready, after every wait that ended by time, and where messages leave
nothing to wait for, now and then.
"""

from __future__ import annotations

import select
from collections.abc import Iterable

import zmq

_FD, _EVENTS, _POLLIN = int(zmq.FD), int(zmq.EVENTS), int(zmq.POLLIN)

#: Waits that found messages at once until the other sockets are asked all the same.
_NOW_AND_THEN = 16

Source = zmq.Socket[bytes] | int


class Wakeup:
    """Tells which of some sources is ready.

    Args:
        busy: The socket that most wake-ups are for.
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
        """Wait until one is ready, at most ``timeout_s``. Returns those that are, and maybe the busy one."""
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
        """Wait no more."""
        self._epoll.close()


def _descriptor(socket: zmq.Socket[bytes]) -> int:
    return int(socket.getsockopt(_FD))
