"""What a program tells systemd of itself: the datagrams of sd_notify(3), with the standard library alone.

Without systemd, or with a unit that is not ``Type=notify``, everything here does nothing.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

log = logging.getLogger(__name__)

#: Patience with a manager that does not listen, for messages that are sent once.
_PATIENCE_S = 5.0


class Notifier:
    """Tells the service manager at ``address`` (a path, or a name in the abstract namespace that opens with ``@``).

    ``watchdog_s``: the service is killed when `alive` was not called for this time; None where nobody watches.
    Safe from any thread: each call is one datagram.
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
        """As the service manager has set it up. A watchdog that is meant for another process is none of ours."""
        watched = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        try:
            microseconds = int(environment.get("WATCHDOG_USEC", "0")) if watched else 0
        except ValueError:
            microseconds = 0
        return cls(environment.get("NOTIFY_SOCKET") or None, watchdog_s=microseconds / 1e6 or None)

    @property
    def is_heard(self) -> bool:
        """Whether a service manager started this program, and listens to it."""
        return self._socket is not None

    def ready(self, status: str) -> None:
        """It can do its work from now on; also ends `reloading`."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self, status: str) -> None:
        """It reads its config again; `ready` must follow, however that ends."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", f"STATUS={status}")

    def stopping(self, status: str) -> None:
        """The service finishes its accepted work."""
        self._tell("STOPPING=1", f"STATUS={status}")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._tell(f"STATUS={text}", patience_s=0.0)

    def alive(self) -> None:
        """Feed the watchdog."""
        if self.watchdog_s is not None:
            self._tell("WATCHDOG=1", patience_s=0.0)

    def starting(self, status: str, *, within_s: float) -> None:
        """The start takes longer, and this much more time is to be given."""
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
            except BlockingIOError:  # it has more to read than its queue holds
                if time.monotonic() < until_s:
                    time.sleep(0.02)
                    continue
            except OSError as error:  # the manager restarts, or is gone: no reason to stop working
                log.debug("service manager: %s", error)
            return
