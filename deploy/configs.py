"""The config a machine gets at its first deployment. Then it is the user's; see `place` in ``on_board.sh``."""

from __future__ import annotations

import json

_DEVICE = """\
# The device's config, made by deploy.sh. It is yours: an edited file is never overwritten, a later deployment puts
# what it would write into config.toml.new. Every key: deploy/examples/device.toml.
# Check it with: edge-runtime config check

[device]
bundle = "/opt/edge-runtime/current/bundle"
key = "/etc/edge-runtime/device.key"
state = "/var/lib/edge-runtime"

[server]
address = {address}
public_keys = [{public_key}]

[source]
path = {source}
repeat = 0
interval_s = 0.1
{privacy}"""

_PRIVACY = """
[privacy]
whole_input_budget = {budget}
"""

_LOCAL = """
# Nothing leaves this board until you say how much may: put in a number of whole-input epsilon, or "unlimited",
# which counts and stops nothing, and take out the two lines of [planner].
# [privacy]
# whole_input_budget = 1e9

[planner]
split = "local"
"""

_SERVER = """\
# The server's config, made by deploy-server.sh. It is yours: an edited file is never overwritten, a later
# deployment puts what it would write into config.toml.new. Every key: deploy/examples/server.toml.
# Check it with: cloud-server config check -c FILE

[server]
listen = "tcp://0.0.0.0:{port}"
key = "/etc/cloud-server/server.key"
devices = "/etc/cloud-server/devices"
bundles = ["/opt/cloud-server/current/bundles"]
"""

KEYS = {"edge-runtime": "/etc/edge-runtime/device.key", "cloud-server": "/etc/cloud-server/server.key"}


def config_path(program: str) -> str:
    """Where the program's config lies on the machine."""
    return f"/etc/{program}/config.toml"


def device_config(*, address: str, public_key: str, source: str, budget: str) -> str:
    """``budget``: of whole-input epsilon, a number or ``unlimited``; without one nothing may leave the board."""
    privacy = _LOCAL
    if budget:
        privacy = _PRIVACY.format(budget=json.dumps(budget) if budget == "unlimited" else float(budget))
    return _DEVICE.format(
        address=json.dumps(address), public_key=json.dumps(public_key), source=json.dumps(source), privacy=privacy
    )


def server_config(*, port: int) -> str:
    """A server that listens on all addresses of its machine."""
    return _SERVER.format(port=port)
