"""Every example config is one that its program takes, once the server's key is filled in."""

from __future__ import annotations

from pathlib import Path

import pytest
import zmq

from cloud_server import config as server_config
from edge_runtime import config as device_config

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "deploy" / "examples").rglob("*.toml"))
PLACEHOLDER = "REPLACE-WITH-THE-KEY-THAT-CLOUD-SERVER-KEYS-SHOWS"


def test_there_are_examples_of_both_programs() -> None:
    assert {path.stem.partition("-")[0] for path in EXAMPLES} >= {"device", "server"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_loads(path: Path, tmp_path: Path) -> None:
    text = path.read_text()
    copy = tmp_path / path.name
    copy.write_text(text.replace(PLACEHOLDER, zmq.curve_keypair()[0].decode()))
    if "[device]" in text:
        device_config.load(copy)
    else:
        server_config.load(copy)


def test_the_device_example_shows_the_defaults(tmp_path: Path) -> None:
    path = next(path for path in EXAMPLES if path.stem == "device")
    copy = tmp_path / path.name
    copy.write_text(path.read_text().replace(PLACEHOLDER, zmq.curve_keypair()[0].decode()))
    assert device_config.load(copy).planner == device_config.PlannerTable()
