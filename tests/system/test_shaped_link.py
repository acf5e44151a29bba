"""The estimate of the uplink against a link that the kernel shapes: two network namespaces, veth and tbf.

Needs root and iproute2; skipped with the reason where they are missing.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloud_server import allow_list
from split_model.bundle import Bundle
from split_model.prepare.pipeline import PrepareOptions, prepare
from split_model.protocol.keys import make_pair
from tests.system.rig.model import VALUES, dense_model

ADDRESS = "tcp://10.77.0.2:5555"
#: Of what the shaper lets through, this much is ours: 1448 of 1514 bytes a packet.
PAYLOAD_SHARE = 0.957
#: From here on the estimate is judged.
JUDGED_FROM_S = 2.0


def why_not() -> str:
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not (shutil.which("ip") and shutil.which("tc")):
        return "iproute2 is not installed"
    made = subprocess.run(["ip", "netns", "add", "split-probe"], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces are not to be had: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", "split-probe"], check=True)
    return ""


WHY_NOT = why_not()
pytestmark = [pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT), pytest.mark.system, pytest.mark.quiet]


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


@dataclass
class Wire:
    """A device's and a server's namespace with a link between them, and the server running."""

    edge: str
    folder: Path
    bundle: Bundle

    def shape(self, mbit: float) -> None:
        run(*f"ip netns exec {self.edge} tc qdisc replace dev ve root tbf".split(), "rate", f"{mbit}mbit",
            "burst", "4kb", "latency", "400ms")  # fmt: skip

    def drive(self, *, interval_s: float, seconds: float) -> list[dict[str, Any]]:
        done = subprocess.run(
            ["ip", "netns", "exec", self.edge, sys.executable, str(Path(__file__).parent / "link_driver.py"),
             ADDRESS, str(self.folder / "device.key"), (self.folder / "server.pub").read_text().strip(),
             str(self.bundle.root), str(interval_s), str(seconds)],
            capture_output=True, text=True, check=False, timeout=60,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    folder = tmp_path_factory.mktemp("wire")
    options = PrepareOptions(model=dense_model(folder / "dense.tflite"), output=folder / "bundle", cuts=None)
    bundle = prepare(options, lambda *_: None)
    make_pair(folder, "server")
    device = make_pair(folder, "device").public.decode()
    allow_list.allow(folder / "devices", "device", device)
    config = folder / "server.toml"
    config.write_text(
        f'[server]\nlisten = "{ADDRESS}"\nkey = "server.key"\ndevices = "devices"\n'
        f'bundles = ["{bundle.root}"]\npreload = true\nstatus = "status.json"\n'
    )
    edge, cloud = f"split-edge-{os.getpid()}", f"split-cloud-{os.getpid()}"
    server = None
    try:
        run("ip", "netns", "add", edge)
        run("ip", "netns", "add", cloud)
        run(*f"ip -n {edge} link add ve type veth peer name vc netns {cloud}".split())
        for name, device_name, address in ((edge, "ve", "10.77.0.1/24"), (cloud, "vc", "10.77.0.2/24")):
            run(*f"ip -n {name} addr add {address} dev {device_name}".split())
            run(*f"ip -n {name} link set lo up".split())
            run(*f"ip -n {name} link set {device_name} up".split())
        with (folder / "server.log").open("wb") as log:
            server = subprocess.Popen(
                ["ip", "netns", "exec", cloud, sys.executable, "-m", "cloud_server", "run", "-c", str(config)],
                stderr=log,
                stdout=subprocess.DEVNULL,
            )
        until_s = time.monotonic() + 30
        while not (folder / "status.json").exists():
            assert server.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < until_s
            time.sleep(0.05)
        yield Wire(edge, folder, bundle)
    finally:
        if server is not None:
            server.terminate()
            server.wait(20)
        for name in (edge, cloud):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.mark.parametrize("share", [0.25, 0.8])
@pytest.mark.parametrize("mbit", [1.0, 5.0, 20.0])
def test_estimate_while_a_fifth_of_the_link_or_more_is_used(link: Wire, mbit: float, share: float) -> None:
    link.shape(mbit)
    interval_s = 4 * VALUES / (share * mbit * 1e6 / 8)
    views = link.drive(interval_s=interval_s, seconds=6.0)
    judged = [view["bytes_s"] * 8e-6 for view in views if view["at_s"] > JUDGED_FROM_S]
    error = statistics.median(judged) / mbit - 1
    print(f"{mbit:g} Mbit/s, {share:.0%} used: {error:+.1%}, from {min(judged):.2f} to {max(judged):.2f}")
    assert abs(error) <= 0.15
    within = sum(abs(rate / mbit - 1) <= 0.15 for rate in judged) / len(judged)
    assert within >= 0.75  # one probe of a second or so may be a burst still


@pytest.mark.parametrize("mbit", [1.0, 5.0, 20.0])
def test_with_less_traffic_the_uncertainty_covers_the_truth(link: Wire, mbit: float) -> None:
    link.shape(mbit)
    views = link.drive(interval_s=0.0, seconds=8.0)
    judged = [view for view in views if view["at_s"] > JUDGED_FROM_S]
    truth = mbit * 1e6 / 8 * PAYLOAD_SHARE
    off = [abs(math.log(view["bytes_s"] / truth)) for view in judged]
    covered = sum(o <= 2 * view["spread"] for o, view in zip(off, judged, strict=True)) / len(judged)
    print(f"{mbit:g} Mbit/s, probes only: off by {statistics.median(off):.2f} of the logarithm (median), "
          f"stated {statistics.median(view['spread'] for view in judged):.2f}, covered {covered:.0%}")  # fmt: skip
    assert covered >= 0.9


def test_the_kernel_sees_the_round_trip_of_this_link(link: Wire) -> None:
    link.shape(5.0)
    last = link.drive(interval_s=0.2, seconds=1.5)[-1]
    assert last["min_rtt_s"] is not None
    assert last["rtt_s"] >= last["min_rtt_s"]
