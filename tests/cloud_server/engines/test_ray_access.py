"""Ray's ports run what anybody sends them: where they are open, nothing starts without TLS and a token."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from cloud_server.config import load
from cloud_server.engines import ray_access
from cloud_server.engines.tables import RayTable
from split_model.errors import ConfigError

KEYS = ("certificate", "private_key", "authority", "token")


@pytest.fixture
def keys(tmp_path) -> dict[str, object]:
    for name in KEYS:
        (tmp_path / name).write_text("secret")
    return {name: tmp_path / name for name in KEYS}


@pytest.mark.parametrize("address", ["10.0.0.1:6379", "0.0.0.0:6379", "[2001:db8::1]:6379", "192.168.1.9:1"])
@pytest.mark.parametrize("without", KEYS)
def test_an_open_address_needs_all_of_tls_and_the_token(address, without, keys):
    ray_access.check(RayTable(address=address, **keys))
    with pytest.raises(ConfigError, match=f"engine.{without}"):
        ray_access.check(RayTable(address=address, **{**keys, without: None}))


def test_loopback_and_a_ray_of_its_own_need_nothing():
    ray_access.check(RayTable())
    ray_access.check(RayTable(address="127.0.0.1:6379"))


@pytest.mark.parametrize("address", ["127.0.0.2:6379", "[::1]:6379"])
def test_a_loopback_address_at_which_ray_listens_everywhere_is_refused(address):
    with pytest.raises(ConfigError, match="listens on every interface"):
        ray_access.check(RayTable(address=address))


@pytest.mark.parametrize("address", ["head:6379", "10.0.0.1", "", "auto", "10.0.0.1:0", "ray://10.0.0.1:10001"])
def test_what_is_no_address_is_refused(address, keys):
    with pytest.raises(ConfigError, match="not the address of a cluster"):
        ray_access.check(RayTable(address=address, **keys))


def test_half_of_tls_is_refused(keys):
    with pytest.raises(ConfigError, match="TLS needs all of"):
        ray_access.check(RayTable(certificate=keys["certificate"]))


def test_a_key_that_is_not_there_is_named(keys):
    table = RayTable(address="10.0.0.1:6379", **keys)
    ray_access.check_files(table, is_readable=lambda path: path.is_file())
    keys["token"].unlink()
    with pytest.raises(ConfigError, match=r"engine.token: .* cannot be read"):
        ray_access.check_files(table, is_readable=lambda path: path.is_file())


def test_a_node_that_is_open_is_refused_though_the_head_is_not(keys):
    table = RayTable(address="127.0.0.1:6379")
    ray_access.check_listening(table, ["127.0.0.1", "::ffff:127.0.0.1"])
    for host in ("10.0.0.2", "0.0.0.0", "::"):
        with pytest.raises(ConfigError, match="without TLS or token"):
            ray_access.check_listening(table, ["127.0.0.1", host])
        ray_access.check_listening(RayTable(address="10.0.0.1:6379", **keys), [host])


def test_ray_is_told_to_report_nothing_and_to_ask_for_the_token(keys):
    told = ray_access.environment(RayTable(address="10.0.0.1:6379", **keys))
    assert told["RAY_USAGE_STATS_ENABLED"] == "0"
    assert (told["RAY_AUTH_MODE"], told["RAY_AUTH_TOKEN_PATH"]) == ("token", str(keys["token"]))
    assert (told["RAY_USE_TLS"], told["RAY_TLS_CA_CERT"]) == ("1", str(keys["authority"]))
    assert ray_access.environment(RayTable(), token="secret")["RAY_AUTH_TOKEN"] == "secret"


def test_the_program_says_so_in_one_line_and_does_not_start(tmp_path, model, config_file):
    path = config_file(tmp_path, model, engine={"kind": "ray", "address": "10.0.0.1:6379"})
    done = subprocess.run(
        [sys.executable, "-m", "cloud_server", "run", "-c", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == os.EX_CONFIG
    assert done.stderr.count("\n") == 1
    assert "open to its network" in done.stderr
    assert "engine.token" in done.stderr


def test_the_example_of_two_machines_is_a_config_that_the_program_takes():
    config = load(Path(__file__).resolve().parents[3] / "deploy" / "ray" / "server.toml")
    assert isinstance(config.engine, RayTable)


def test_the_replicas_of_a_node_cannot_be_told_a_pickle():
    """What a device sends reaches a replica inside MessagePack, of which no type can be code."""
    from cloud_server.engines import replica_messages

    with pytest.raises(msgspec.ValidationError):
        replica_messages.decode_jobs(msgspec.msgpack.encode([{"__reduce__": "os.system"}]))
