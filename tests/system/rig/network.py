"""Network namespaces: one for the server, ``cloud``, and one a board, ``edge``, with its own link to the cloud.

The names carry this process' id, so that several runs share a machine, and a crashed run's are cleared by the next.
The board's side of the first link is 10.77.0.1 and the cloud's 10.77.0.2; of the second 10.77.1.1 and 10.77.1.2.
A board reaches all of the cloud's addresses; no namespace has a way to the internet.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_OURS = re.compile(r"split-(?:edge|cloud)-(?P<pid>\d+)(?:-\d+)*")
_counter = itertools.count()


def run(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A command of this machine; a failure shows what it said."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr.strip()}"
    return done


@dataclass(frozen=True)
class Wire:
    """The link between one board's namespace and the cloud. ``ve`` is the board's end, ``vc<N>`` the cloud's."""

    edge: str
    cloud: str
    number: int

    @property
    def board_address(self) -> str:
        return f"10.77.{self.number}.1"

    @property
    def cloud_address(self) -> str:
        return f"10.77.{self.number}.2"

    @property
    def cloud_end(self) -> str:
        return f"vc{self.number}"

    def down(self) -> None:
        """Pull the plug: the network is unreachable at once."""
        run("ip", "-n", self.edge, "link", "set", "ve", "down")

    def up(self) -> None:
        run("ip", "-n", self.edge, "link", "set", "ve", "up")
        run("ip", "-n", self.edge, "route", "replace", "default", "via", self.cloud_address)

    def shape(self, uplink_mbit_s: float, *, burst: str = "4kb", queue: str = "400ms") -> None:
        """Limit what the board sends. Traffic to the board is not shaped."""
        rate = f"{uplink_mbit_s}mbit"
        self._in_edge("tc", "qdisc", "replace", "dev", "ve", "root", "tbf",
                      "rate", rate, "burst", burst, "latency", queue)  # fmt: skip

    def unshape(self) -> None:
        run("ip", "netns", "exec", self.edge, "tc", "qdisc", "del", "dev", "ve", "root", check=False)

    def lose(self, share: float, *, at: str = "edge") -> None:
        """Drop a share of the packets that arrive at ``edge`` or ``cloud``; all of them: a one-way black hole."""
        namespace, device = (self.edge, "ve") if at == "edge" else (self.cloud, self.cloud_end)
        chance = () if share >= 1 else ("-m", "statistic", "--mode", "random", "--probability", str(share))
        run("ip", "netns", "exec", namespace, "iptables", "-A", "INPUT", "-i", device, *chance, "-j", "DROP")

    def heal(self) -> None:
        """End every loss on this link's two sides (and on other links into the cloud)."""
        for namespace in (self.edge, self.cloud):
            run("ip", "netns", "exec", namespace, "iptables", "-F", "INPUT")

    def _in_edge(self, *command: str) -> None:
        run("ip", "netns", "exec", self.edge, *command)


class Network:
    """The cloud's namespace, and the boards' as they join. Use it in a ``with``."""

    def __init__(self) -> None:
        self._tag = f"{os.getpid()}-{next(_counter)}"
        self.cloud = f"split-cloud-{self._tag}"
        self._wires: list[Wire] = []

    def __enter__(self) -> Network:  # noqa: PYI034  Self needs Python 3.11
        clear_left_over()
        run("ip", "netns", "add", self.cloud)
        run("ip", "-n", self.cloud, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for namespace in (*(wire.edge for wire in self._wires), self.cloud):
            run("ip", "netns", "del", namespace, check=False)

    def join(self) -> Wire:
        """A new board's namespace, with its link up."""
        number = len(self._wires)
        wire = Wire(f"split-edge-{self._tag}-{number}", self.cloud, number)
        run("ip", "netns", "add", wire.edge)
        self._wires.append(wire)
        run("ip", "-n", wire.edge, "link", "add", "ve", "type", "veth", "peer", "name", wire.cloud_end,
            "netns", self.cloud)  # fmt: skip
        sides = (wire.edge, "ve", wire.board_address), (self.cloud, wire.cloud_end, wire.cloud_address)
        for namespace, device, address in sides:
            run("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", device)
            run("ip", "-n", namespace, "link", "set", "lo", "up")
            # Packets as on a cable: the shaper would let several through as one, which are there all at once then.
            run("ip", "-n", namespace, "link", "set", device, "gso_max_segs", "1")
            run("ip", "-n", namespace, "link", "set", device, "up")
        run("ip", "-n", wire.edge, "route", "add", "default", "via", wire.cloud_address)
        return wire

    def in_cloud(self, command: Sequence[str | Path]) -> list[str]:
        """A command line that runs ``command`` where the server is."""
        return ["ip", "netns", "exec", self.cloud, *map(str, command)]


def clear_left_over() -> None:
    """Delete the namespaces of runs that no longer live."""
    for line in run("ip", "netns", "list").stdout.splitlines():
        match = _OURS.fullmatch(line.split()[0])
        if match and not Path(f"/proc/{match['pid']}").exists():
            with contextlib.suppress(AssertionError):
                run("ip", "netns", "del", match[0])
