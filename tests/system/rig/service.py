"""Both programs as systemd services in machines of the rig, from the units in ``deploy/``, without a deployment."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.system.rig.machine import Machine
from tests.system.rig.network import run

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"


def toml(tables: dict[str, dict[str, Any]]) -> str:
    lines = []
    for table, entries in tables.items():
        lines.append(f"[{table}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in entries.items() if value is not None]
    return "\n".join(lines) + "\n"


@dataclass
class Service:
    """A program of ours in a machine; ``unit`` is also its name and the name of its folders."""

    machine: Machine
    unit: str
    tables: dict[str, dict[str, Any]]

    @property
    def config(self) -> str:
        return f"/etc/{self.unit}/config.toml"

    def install(self, *, key: str) -> str:
        """Unit, user, folders and keys; returns the public key."""
        for place, name in (("systemd/system", f"{self.unit}.service"), ("sysusers.d", f"{self.unit}.conf")):
            self.machine.put(f"/etc/{place}/{name}", (DEPLOY / place.split("/")[0] / name).read_text())
        self.configure()
        self.machine.run("systemd-sysusers && systemctl daemon-reload")
        self.machine.run(f"{self.unit} keys make -c {self.config}")
        return self.machine.run(f"cat /etc/{self.unit}/{key}.pub").stdout.strip()

    def configure(self, **changes: Any) -> None:
        """Write the config; ``planner_split=2`` sets a key, None leaves it out."""
        for change, value in changes.items():
            table, key = change.split("_", 1)
            self.tables.setdefault(table, {})[key] = value
        self.machine.put(self.config, toml(self.tables))

    def drop_in(self, text: str) -> None:
        """Change the unit as 'systemctl edit' would."""
        self.machine.put(f"/etc/systemd/system/{self.unit}.service.d/test.conf", text)
        self.machine.run("systemctl daemon-reload")

    def start(self, *, check: bool = True) -> None:
        self.machine.run(f"systemctl start {self.unit}", check=check)

    def show(self, key: str) -> str:
        return self.machine.state(self.unit, key)

    @property
    def pid(self) -> int:
        return int(self.show("MainPID"))

    @property
    def restarts(self) -> int:
        return int(self.show("NRestarts"))

    def status(self) -> dict[str, Any]:
        """As a program would read it; empty while it does not run."""
        done = self.machine.run(f"{self.unit} status --json -c {self.config}", check=False)
        return json.loads(done.stdout) if done.stdout.startswith("{") else {}

    def counters(self) -> dict[str, float]:
        return dict(self.status().get("counters", {}))

    def log(self) -> str:
        return self.machine.journal(self.unit)


def copy_in(machine: Machine, source: Path, inside: str) -> None:
    """A file or folder, readable for all, into a machine; not below /run or /tmp."""
    target = machine.path(inside)
    target.parent.mkdir(parents=True, exist_ok=True)
    run("cp", "-rT", source, target)
    run("chmod", "-R", "a+rX", target)


def device_service(machine: Machine, material: Path, *, server: str, server_key: str) -> Service:
    """The device program in a machine, installed and not started. ``material``: see `rig.model.make_bundle`."""
    copy_in(machine, material / "bundle", "/opt/edge-runtime/bundle")
    copy_in(machine, material / "frames.npz", "/opt/edge-runtime/frames.npz")
    tables: dict[str, dict[str, Any]] = {
        "device": {"bundle": "/opt/edge-runtime/bundle", "key": "device.key", "state": "/var/lib/edge-runtime"},
        "server": {"address": f"tcp://{server}:5555", "public_keys": [server_key]},
        "privacy": {"whole_input_budget": "unlimited"},
        "planner": {"split": "auto", "answer_within_s": 1.0, "accuracy_floor": "off"},  # its weights are random
        "source": {"path": "/opt/edge-runtime/frames.npz", "repeat": 0, "interval_s": 0.05},
        "sink": {"path": "/var/lib/edge-runtime/answers.jsonl"},
    }
    return Service(machine, "edge-runtime", tables)


def server_service(machine: Machine, material: Path) -> Service:
    """The server program in a machine, installed and not started."""
    copy_in(machine, material / "bundle", "/srv/bundles/one")
    own = {"listen": "tcp://0.0.0.0:5555", "key": "server.key", "devices": "devices", "bundles": ["/srv/bundles"]}
    return Service(machine, "cloud-server", {"server": own})
