"""Asks a server for its address and key, and puts a board's key onto its allow-list."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from deploy.errors import DeployError, NotAllowedError, UnreachableError, UsageError
from deploy.remote import Remote

DEFAULT_PORT = 5555
_SERVER = re.compile(
    r"(?:tcp://)?(?P<destination>(?:[^\s@]+@)?(?:\[[0-9A-Fa-f:.]+\]|[^\s@:/]+))(?::(?P<port>\d{1,5}))?"
)
_NAME = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Server:
    """``address`` and ``public_key`` go into the board's config; ``devices`` are those it admits, key by name.

    ``public_key`` is empty if unknown; ``reached``: whether SSH to it works. ``revoked``: the names, by key, of
    devices that must not be admitted again automatically.
    """

    destination: str
    address: str
    public_key: str
    devices: dict[str, str]
    config: str
    reached: Remote | None
    trouble: DeployError | None = None
    revoked: dict[str, str] = field(default_factory=dict)

    def enrolled(self, key: str) -> bool:
        return key in self.devices.values()


def split_server(text: str) -> tuple[str, int | None]:
    """Split ``--server`` into an SSH destination and a port; `UsageError` if it is invalid."""
    match = _SERVER.fullmatch(text)
    if match is None:
        raise UsageError(f"--server {text}: not an SSH destination", remedy="give [user@]HOST or [user@]HOST:PORT")
    return match["destination"], int(match["port"]) if match["port"] else None


def look(text: str, *, address: str, public_key: str, config: str, connect: Callable[[str], Remote]) -> Server:
    """Ask the server for its key, its port and its devices over SSH, or use the user's options."""
    destination, port = split_server(text)
    found: dict[str, Any] = {}
    reached: Remote | None = None
    trouble: DeployError | None = None
    try:
        remote = connect(destination.replace("[", "").replace("]", ""))  # ssh wants IPv6 addresses bare
        found = json.loads(remote.step("on_server.sh", "look", config))
        reached = remote
    except DeployError as error:
        trouble = error
    except ValueError:
        trouble = DeployError("cloud-server prints something unexpected there", remedy=f"is {config} its config?")
    host = destination.rpartition("@")[2]
    if reached is not None:
        host = reached.hostname()
        listen = str(found["config"]["server"]["listen"])
        port = port or int(listen.rpartition(":")[2]) or DEFAULT_PORT
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    known = str(found["keys"]["public_key"]) if found else ""
    if public_key and known and public_key != known:
        raise UsageError(
            f"--server-key is not the key of {destination}, which is {known}",
            remedy="give this key, or leave --server-key out",
        )
    return Server(
        destination=destination,
        address=address or f"tcp://{host}:{port or DEFAULT_PORT}",
        public_key=public_key or known,
        devices={entry["name"]: entry["public_key"] for entry in found.get("devices", [])},
        config=config,
        reached=reached,
        trouble=trouble,
        revoked={entry["public_key"]: entry["name"] for entry in found.get("revoked", [])},
    )


def device_name(text: str) -> str:
    """Turn a host name into a name for the allow-list."""
    return _NAME.sub("-", text).strip("-.")[:64] or "device"


def free_name(server: Server, name: str, key: str, *, earlier: str = "", replace: bool = False) -> str:
    """Return ``name``, or one made of it and the key's SHA-256 if another board has that name.

    ``earlier``: the same board's previous key, whose name is reused. ``replace``: take the name from any other
    board.
    """
    holder = server.devices.get(name)
    if replace or holder is None or holder in (key, earlier):
        return name
    return f"{name[:57]}-{hashlib.sha256(key.encode()).hexdigest()[:6]}"


def refuse_revoked(server: Server, keys: Iterable[str]) -> None:
    """Refuse a board whose key was revoked at the server, and not allowed there since.

    Args:
        server: The server.
        keys: All keys of the board: the one in use first, and those of a rotation.

    Raises:
        NotAllowedError: One of them was revoked, and the one in use is not on the list.

    """
    known = [key for key in keys if key]
    if not known or server.enrolled(known[0]):
        return
    for key in known:
        if key in server.revoked:
            raise NotAllowedError(
                f"{server.destination} has revoked this board's key ({server.revoked[key]})",
                remedy="find out why; --readmit admits it again; without --server nothing changes there",
            )


def enrol(server: Server, name: str, key: str, *, earlier: str = "", replace: bool = False) -> str:
    """Put the board on the allow-list. Returns the change as text, empty if it was allowed already.

    ``earlier`` and ``replace``: the keys that it may replace, as in `free_name`.
    """
    if server.enrolled(key):
        return ""
    if server.reached is None:
        why = server.trouble
        raise UnreachableError(
            "the server cannot be reached" if why is None else why.problem, remedy=why.remedy if why else ""
        )
    free = free_name(server, name, key, earlier=earlier, replace=replace)
    held = free in server.devices
    server.reached.step("on_server.sh", "allow", server.config, free, key, *(["replace"] if held else []))
    server.devices[free] = key
    if free != name:
        return f"{free} may connect; {name} is another board's name (--replace takes it away from that one)"
    return f"{name}'s new key replaces its old one" if held else f"{name} may connect"


def allow_command(config: str, name: str, key: str) -> str:
    """The command for the user to run on the server."""
    return f"sudo cloud-server devices allow -c {shlex.quote(config)} {name} {shlex.quote(key)}"


def revoke_command(config: str, name: str = "") -> str:
    """The command that takes a board off the list; without a name, the one that shows the list."""
    if not name:
        return f"sudo cloud-server devices list -c {shlex.quote(config)}"
    return f"sudo cloud-server devices revoke -c {shlex.quote(config)} {name}"
