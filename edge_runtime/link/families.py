"""Chooses between IPv4 and IPv6 for the next attempt, for a server given by name. Pure.

A name may have addresses of one family or of both, and those of one family may be unreachable. libzmq looks the
name up itself, so that no other thread waits for a slow name server; the only choice is whether IPv6 is on.
"""

from __future__ import annotations

import ipaddress


class Families:
    """Tries IPv6 first, then the families in turn; the family of the last connection is tried first.

    Args:
        address: ``tcp://HOST:PORT``. If HOST is a number, there is no choice.

    """

    def __init__(self, address: str) -> None:
        host = address.removeprefix("tcp://").rpartition(":")[0]
        self.ipv6 = True
        self._may_change = True
        self._failures = 0
        try:
            self.ipv6 = ipaddress.ip_address(host.strip("[]")).version == 6
            self._may_change = False
        except ValueError:
            pass

    def failed(self) -> bool:
        """Note a failed attempt; returns whether to change to the other family, `ipv6`.

        The first time it changes at once. Later each family gets two attempts, as there is no hurry if the server
        is away.
        """
        if not self._may_change:
            return False
        self._failures += 1
        if self._failures > 1 and self._failures % 2 == 0:
            return False
        self.ipv6 = not self.ipv6
        return True

    def connected(self) -> None:
        """Note a connection: after a loss its address family is tried first."""
        self._failures = 0
