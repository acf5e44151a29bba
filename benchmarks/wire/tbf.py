"""A network namespace behind a token bucket of the kernel whose rate follows a trace. Needs root and iproute2."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from types import TracebackType

from benchmarks.wire.traces import Trace
from split_model.errors import NotAllowedError

#: The payload's share of the bytes that pass the bucket: 1448 of 1514 bytes a packet.
PAYLOAD_SHARE = 1448 / 1514
#: The bucket's size, the least for packets of 1514 bytes: after a pause this much passes at once.
BURST_BYTES = 1600
#: The kernel has no rate of zero; this much is as good as none.
_LEAST_MBIT = 0.008


class Namespace:
    """A context manager: ``prefix`` before a command runs it inside; from there the host is at ``server_address``.

    ``start`` begins to play the trace on traffic that leaves the namespace.
    """

    def __init__(self, number: int, capacity: Trace) -> None:
        self._name = f"split-{os.getpid()}-{number}"
        self._inside, self._outside = f"si{number}", f"so{number}"
        self._capacity = capacity
        self._subnet = f"10.78.{number}"
        self.server_address = f"{self._subnet}.1"
        self.prefix = ("ip", "netns", "exec", self._name)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Namespace:  # noqa: PYI034  nobody subclasses it
        if os.geteuid() != 0:
            raise NotAllowedError("network namespaces need root", remedy="leave --tbf out")
        _run("ip", "netns", "add", self._name)
        _run("ip", "link", "add", self._outside, "type", "veth", "peer", "name", self._inside, "netns", self._name)
        _run("ip", "addr", "add", f"{self.server_address}/24", "dev", self._outside)
        _run("ip", "link", "set", self._outside, "up")
        _run(*self.prefix, "ip", "addr", "add", f"{self._subnet}.2/24", "dev", self._inside)
        _run(*self.prefix, "ip", "link", "set", "lo", "up")
        _run(*self.prefix, "ip", "link", "set", self._inside, "up")
        self._shape(self._capacity.mbit_s_at(0.0))
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(subprocess.CalledProcessError):
            _run("ip", "netns", "del", self._name)

    def start(self, epoch_s: float) -> None:
        """Follow the trace; its zero is at this time (monotonic seconds)."""
        self._thread = threading.Thread(target=self._follow, args=(epoch_s,), name=self._name, daemon=True)
        self._thread.start()

    def _follow(self, epoch_s: float) -> None:
        shaped = -1.0
        while not self._stopping.wait(0.02):
            rate = self._capacity.mbit_s_at(time.monotonic() - epoch_s)
            if rate != shaped:
                self._shape(rate)
                shaped = rate

    def _shape(self, mbit: float) -> None:
        rate = f"{max(_LEAST_MBIT, mbit / PAYLOAD_SHARE):.4f}mbit"
        _run(*self.prefix, "tc", "qdisc", "replace", "dev", self._inside, "root", "tbf", "rate", rate,
             "burst", f"{BURST_BYTES}b", "limit", "32kb")  # fmt: skip


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
