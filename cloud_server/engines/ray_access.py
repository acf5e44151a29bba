"""Checks who can reach a Ray cluster's ports: anyone who can may run code on all its machines. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path

from cloud_server.engines.tables import RayTable
from split_model.errors import ConfigError

#: The address of a node that only this machine can reach; with any other, Ray listens on every interface.
LOOPBACK = "127.0.0.1"
#: Settings of every Ray process: no reports to Ray's makers, no metrics server, and no automatic start of a cluster
#: by #: a call after the connection ended.
ALWAYS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
#: Without it Ray replaces 127.0.0.1 by the machine's own open address.
_ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
_KEYS = ("certificate", "private_key", "authority", "token")


def host_of(address: str) -> str:
    """Parse the host's address of ``HOST:PORT`` or ``[HOST]:PORT``.

    Raises:
        ConfigError: It has another form. A name is refused, as its address may change.

    """
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        host = ""
    if not host or not colon or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ConfigError(
            f"engine.address: {address!r} is not the address of a cluster",
            remedy="write the IP address and port of its head, as '10.0.0.1:6379', or 'local'",
        )
    if host != LOOPBACK and ipaddress.ip_address(host).is_loopback:
        raise ConfigError(
            f"engine.address: with {host} Ray listens on every interface",
            remedy=f"start every node with --node-ip-address={LOOPBACK}, and write '{LOOPBACK}:{port}'",
        )
    return host


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address, as Ray uses it."""
    found = ipaddress.ip_address(host)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found) == ipaddress.ip_address(LOOPBACK)


def is_closed(table: RayTable) -> bool:
    """Whether access needs our certificates and token, at any address."""
    return all(getattr(table, name) is not None for name in _KEYS)


def check(table: RayTable) -> None:
    """Refuse a config whose cluster would let strangers in.

    Raises:
        ConfigError: An address is open and TLS or the token is missing, or TLS is set only in part.

    """
    given = {name: getattr(table, name) for name in _KEYS}
    missing = [f"engine.{name}" for name in _KEYS if given[name] is None]
    if table.address != "local" and not is_loopback(host_of(table.address)) and missing:
        raise ConfigError(
            f"engine.address: {table.address} is open to its network, and Ray runs the code of anyone there",
            remedy=f"set {', '.join(missing)} (docs/cluster.md), or use a loopback address",
        )
    tls = [name for name in _KEYS[:3] if given[name] is not None]
    if 0 < len(tls) < len(_KEYS[:3]):
        raise ConfigError(
            f"engine.{tls[0]}: TLS needs all of {', '.join(f'engine.{name}' for name in _KEYS[:3])}",
            remedy="set all three, or none on loopback",
        )


def check_files(table: RayTable, *, is_readable: Callable[[Path], bool]) -> None:
    """Refuse missing key files.

    Raises:
        ConfigError: One cannot be read.

    """
    for name in _KEYS:
        path = getattr(table, name)
        if path is not None and not is_readable(path):
            raise ConfigError(
                f"engine.{name}: {path} cannot be read", remedy="make it with deploy/ray/make-keys.sh"
            )


def check_listening(table: RayTable, hosts: list[str]) -> None:
    """Refuse a cluster that listens on an open address if the config lacks TLS or the token.

    Args:
        table: The config.
        hosts: The addresses of its nodes, and those that its ports are bound to here.

    Raises:
        ConfigError: It has an open address.

    """
    opened = [host for host in hosts if not is_loopback(host)]
    if opened and not is_closed(table):
        raise ConfigError(
            f"engine.address: the cluster listens on {opened[0]}, open to its network, without TLS or token",
            remedy="set engine.certificate, private_key, authority and token (docs/cluster.md), or give every "
            "node a loopback address",
        )


def environment(table: RayTable, *, token: str | None = None) -> dict[str, str]:
    """The environment variables that Ray needs before its import, here and on every node.

    ``token``: for a Ray that is started here, for this run only.
    """
    result = dict(ALWAYS)
    if table.address == "local" or is_loopback(host_of(table.address)):
        result |= _ON_LOOPBACK
    if token is not None:
        result |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    elif table.token is not None:
        result |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(table.token)}
    else:
        result["RAY_AUTH_MODE"] = "disabled"
    if table.certificate is not None:
        result |= {
            "RAY_USE_TLS": "1",
            "RAY_TLS_SERVER_CERT": str(table.certificate),
            "RAY_TLS_SERVER_KEY": str(table.private_key),
            "RAY_TLS_CA_CERT": str(table.authority),
        }
    return result
