"""Checks whether this board reaches the server's address: name, route and port in turn."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

from split_model.service.findings import Finding, failure, good

_CONNECT_S = 4.0

#: One result of `socket.getaddrinfo`: family, kind, protocol, canonical name, target.
Target = tuple[int, int, int, str, Any]


def reach(address: str) -> Finding:
    """Look up ``tcp://HOST:PORT`` and connect to it."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    host = host.strip("[]")
    try:
        targets = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        return _without_address(host, error.strerror or str(error))
    return connect_to_any(address, targets)


def connect_to_any(address: str, targets: Sequence[Target]) -> Finding:
    """Connect to the targets in turn: ok at the first that accepts, else the failure of the last one."""
    found = _without_address(address, "the name has no entry")
    for target in targets:
        found = _connect(address, target)
        if found.level == "ok":
            break
    return found


def _without_address(host: str, why: str) -> Finding:
    return failure(
        "network", f"{host} has no address: {why}", "check server.address, and the board's DNS (resolvectl status)"
    )


def _connect(address: str, target: Target) -> Finding:
    family, kind, protocol, _, place = target
    try:
        with socket.socket(family, kind, protocol) as attempted:
            attempted.settimeout(_CONNECT_S)
            attempted.connect(place)
    except ConnectionRefusedError:
        remedy = "start the cloud-server there, or correct the port in server.address"
        return failure("network", f"{address}: nothing listens on that port", remedy)
    except TimeoutError:
        remedy = "check the address, and that no firewall drops the port"
        return failure("network", f"{address}: no answer within {_CONNECT_S:.0f} s", remedy)
    except OSError as error:
        remedy = "check the board's network (ip route, ping)"
        return failure("network", f"{address}: {error.strerror or error}", remedy)
    return good("network", f"{address} takes connections")
