"""Makes the configs of a deployment: ``config.toml`` once, and the files with the server's address.

An edited file is never overwritten; see `place` in ``on_board.sh``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

_DEVICE = """\
# The device's config, made by deploy.sh at its first run. It is yours: later runs do not touch it. The server's
# address is in conf.d/server.toml. Every key: deploy/examples/device.toml. Check it with: edge-runtime config check

[device]
bundle = "/opt/edge-runtime/current/bundle"
key = "/etc/edge-runtime/device.key"
state = "/var/lib/edge-runtime"

# Frames come from other programs on this board (docs/local-socket.md). They can come from a folder, a camera or a
# serial line as well.
[source]
kind = "socket"
group = "edge-clients"

# Answers go to the program that sent the frame, and to all local programs that listen.
[sink]
kind = "pub"
group = "edge-clients"
{privacy}"""

_DEVICE_SERVER = """\
# The server's address; written by deploy.sh --server.

[server]
address = {address}
public_keys = [{public_key}]
"""

_DEVICE_SERVERS = """\
# The servers' addresses; written by deploy.sh --server. A frame goes to the server that is expected to answer
# sooner, and to the other one if the first fails.
"""

_ONE_OF_THEM = """
[[server]]
address = {address}
public_keys = [{public_key}]
"""

_PRIVACY = """
[privacy]
whole_input_budget = {budget}
"""

_LOCAL = """
# Nothing leaves this board until you set a privacy budget: put in a number of whole-input epsilon, or "unlimited"
# (nothing is counted, no frame is kept back), and remove the two lines of [planner].
# [privacy]
# whole_input_budget = 1e9

[planner]
split = "local"
"""

_SERVER = """\
# The server's config, made by deploy-server.sh at its first run. It is yours: later runs do not touch it.
# Every key: deploy/examples/server.toml. Check it with: cloud-server config check -c FILE

[server]
listen = "tcp://0.0.0.0:{port}"
key = "/etc/cloud-server/server.key"
devices = "/etc/cloud-server/devices"
bundles = ["/opt/cloud-server/current/bundles"]
"""

_WEB = """\
# The page that shows the fleet; written by deploy-server.sh --with web. Remove this file to switch the page off.
# A browser on another machine reaches it through: ssh -L 8480:127.0.0.1:8480 HOST. docs/fleet.md has the rest.

[web]
listen = "127.0.0.1:8480"
password = "/etc/cloud-server/web.password"
metrics_token = "/etc/cloud-server/web.token"
"""

#: The folder beside the config, whose files are read after it.
SERVER_PATH = "/etc/edge-runtime/conf.d/server.toml"
WEB_PATH = "/etc/cloud-server/conf.d/web.toml"


def config_path(program: str) -> str:
    """Path of the program's config on the machine."""
    return f"/etc/{program}/config.toml"


def device_config(*, budget: str) -> str:
    """The first config of a device. ``budget``: whole-input epsilon or ``unlimited``; empty: nothing leaves."""
    if not budget:
        return _DEVICE.format(privacy=_LOCAL)
    return _DEVICE.format(
        privacy=_PRIVACY.format(budget=json.dumps(budget) if budget == "unlimited" else float(budget))
    )


def device_servers(servers: Sequence[tuple[str, str]]) -> str:
    """The part of the device's config with address and public key of each server."""
    texts = [{"address": json.dumps(address), "public_key": json.dumps(key)} for address, key in servers]
    if len(texts) == 1:
        return _DEVICE_SERVER.format(**texts[0])
    return _DEVICE_SERVERS + "".join(_ONE_OF_THEM.format(**text) for text in texts)


def web() -> str:
    """The part of the server's config that switches the page on."""
    return _WEB


def server_config(*, port: int) -> str:
    """The first config of a server, which listens on all addresses of its machine."""
    return _SERVER.format(port=port)
