"""Which of IPv4 and IPv6 to try next for a server that is given by its name. Pure.

A name may have addresses of one family or of both, and one of the two may lead nowhere. libzmq looks the name up
itself, so that nobody else waits for a silent name server; all that can be chosen is whether IPv6 is on.
"""

from __future__ import annotations

import ipaddress


class Families:
    """IPv6 first; after an attempt that failed, the other one; once one has connected, it is tried first.

    Args:
        address: ``tcp://HOST:PORT``. For a number, there is nothing to choose.

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
        """An attempt failed; returns whether to go on with the other family, `ipv6`.

        The first time at once. Later each one gets a second attempt, since a server that is away needs no haste.
        """
        if not self._may_change:
            return False
        self._failures += 1
        if self._failures > 1 and self._failures % 2 == 0:
            return False
        self.ipv6 = not self.ipv6
        return True

    def connected(self) -> None:
        """There is a connection: this family is tried first when it is gone."""
        self._failures = 0
