"""The server a board is to talk to: its address and key, and getting the board's key onto its allow-list."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
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

    ``public_key`` is empty where nobody could tell it; ``reached`` says whether SSH to it works.
    """

    destination: str
    address: str
    public_key: str
    devices: dict[str, str]
    config: str
    reached: Remote | None
    trouble: str = ""

    def enrolled(self, key: str) -> bool:
        return key in self.devices.values()


def split_server(text: str) -> tuple[str, int | None]:
    """``--server`` as an SSH destination and a port; `UsageError` where it is neither."""
    match = _SERVER.fullmatch(text)
    if match is None:
        raise UsageError(f"--server {text}: give [user@]HOST or [user@]HOST:PORT")
    return match["destination"], int(match["port"]) if match["port"] else None


def look(text: str, *, address: str, public_key: str, config: str, connect: Callable[[str], Remote]) -> Server:
    """Ask the server for its key, its port and its devices, over SSH; without, take what the user gave."""
    destination, port = split_server(text)
    found: dict[str, Any] = {}
    reached, trouble = None, ""
    try:
        remote = connect(destination)
        found = json.loads(remote.step("on_server.sh", "look", config))
        reached = remote
    except (UnreachableError, NotAllowedError, DeployError) as error:
        trouble = str(error)
    except ValueError:
        trouble = f"what cloud-server prints there is not understood; is {config} its config?"
    host = destination.rpartition("@")[2]
    if reached is not None:
        host = reached.hostname()
        listen = str(found["config"]["server"]["listen"])
        port = port or int(listen.rpartition(":")[2]) or DEFAULT_PORT
    known = str(found["keys"]["public_key"]) if found else ""
    if public_key and known and public_key != known:
        raise UsageError(f"--server-key is not the key of {destination}, which is {known}")
    return Server(
        destination=destination,
        address=address or f"tcp://{host}:{port or DEFAULT_PORT}",
        public_key=public_key or known,
        devices={entry["name"]: entry["public_key"] for entry in found.get("devices", [])},
        config=config,
        reached=reached,
        trouble=trouble,
    )


def device_name(text: str) -> str:
    """A host name as a name for the allow-list."""
    return _NAME.sub("-", text).strip("-.")[:64] or "device"


def enrol(server: Server, name: str, key: str) -> str:
    """Let the board connect; what was done, or an empty text if it was allowed already."""
    if server.enrolled(key):
        return ""
    if server.reached is None:
        raise UnreachableError(server.trouble)
    replace = ["replace"] if name in server.devices else []
    server.reached.step("on_server.sh", "allow", server.config, name, key, *replace)
    server.devices[name] = key
    return f"{name}'s new key replaces its old one" if replace else f"{name} may connect"


def command_for(server: Server, name: str, key: str) -> str:
    """The one command for the user to run on the server."""
    return f"sudo cloud-server devices allow -c {shlex.quote(server.config)} {name} {shlex.quote(key)}"
