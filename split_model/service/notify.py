"""Sends sd_notify(3) datagrams to systemd, with the standard library only.

Without systemd, or with a unit that is not ``Type=notify``, all calls do nothing.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

log = logging.getLogger(__name__)

#: Seconds to wait for a manager that does not read, for messages that are sent once.
_PATIENCE_S = 5.0


class Notifier:
    """Notifies the service manager at ``address`` (a path, or an abstract name that begins with ``@``).

    ``watchdog_s``: the service is killed if `alive` is not called for this time; None: no watchdog. Thread-safe:
    each call is one datagram.
    """

    def __init__(self, address: str | None = None, *, watchdog_s: float | None = None) -> None:
        self.watchdog_s = watchdog_s
        self._address = "\0" + address[1:] if address is not None and address.startswith("@") else address
        self._socket = None
        if address is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Notifier:
        """Make a notifier from the service manager's variables. A watchdog for another process is ignored."""
        watched = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        try:
            microseconds = int(environment.get("WATCHDOG_USEC", "0")) if watched else 0
        except ValueError:
            microseconds = 0
        return cls(environment.get("NOTIFY_SOCKET") or None, watchdog_s=microseconds / 1e6 or None)

    @property
    def is_heard(self) -> bool:
        """Whether a service manager started this program and receives its messages."""
        return self._socket is not None

    def ready(self, status: str) -> None:
        """Report that the service is ready; also ends `reloading`."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self, status: str) -> None:
        """Report a reload; `ready` must follow, whatever the result."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", f"STATUS={status}")

    def stopping(self, status: str) -> None:
        """Report that the service finishes its accepted work and stops."""
        self._tell("STOPPING=1", f"STATUS={status}")

    def status(self, text: str) -> None:
        """Set the line for ``systemctl status``."""
        self._tell(f"STATUS={text}", patience_s=0.0)

    def alive(self) -> None:
        """Feed the watchdog."""
        if self.watchdog_s is not None:
            self._tell("WATCHDOG=1", patience_s=0.0)

    def starting(self, status: str, *, within_s: float) -> None:
        """Request more time for the start, in seconds."""
        self._tell(f"EXTEND_TIMEOUT_USEC={int(within_s * 1e6)}", f"STATUS={status}")

    def close(self) -> None:
        """Close the socket; later messages are dropped."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _tell(self, *lines: str, patience_s: float = _PATIENCE_S) -> None:
        if self._socket is None or self._address is None:
            return
        message = "\n".join(" ".join(line.split("\n")) for line in lines)
        until_s = time.monotonic() + patience_s
        while True:
            try:
                self._socket.sendto(message.encode(), self._address)
            except BlockingIOError:  # its queue is full
                if time.monotonic() < until_s:
                    time.sleep(0.02)
                    continue
            except OSError as error:  # the manager restarts, or is gone: the service goes on
                log.debug("service manager: %s", error)
            return
