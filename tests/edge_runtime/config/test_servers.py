"""A device's servers in its config: one table as ever, or two as ``[[server]]``, each with its own keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.configs import device_servers
from edge_runtime.config.config import load, load_layers
from split_model.errors import ConfigError
from split_model.service.config_file import as_plain
from split_model.service.config_show import as_toml

KEY = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
OTHER = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"
CONFIG = """
[device]
bundle = "bundle"
key = "device.key"
state = "state"
[privacy]
whole_input_budget = "unlimited"
[source]
kind = "files"
path = "pictures"
"""
TWO = f"""
[[server]]
address = "tcp://hall:5555"
public_keys = ["{KEY}"]
[[server]]
address = "tcp://loft:6666"
public_keys = ["{OTHER}", "{KEY}"]
"""


def written(folder: Path, servers: str) -> Path:
    path = folder / "config.toml"
    path.write_text(CONFIG + servers)
    return path


def test_one_server_is_written_as_ever(tmp_path: Path) -> None:
    config = load(written(tmp_path, f'[server]\naddress = "tcp://hall:5555"\npublic_keys = ["{KEY}"]\n'))
    assert [(server.address, server.keys) for server in config.servers] == [("tcp://hall:5555", (KEY.encode(),))]


def test_two_servers_have_their_own_keys_and_are_shown_as_they_were_written(tmp_path: Path) -> None:
    config, layers = load_layers(written(tmp_path, TWO))
    assert [(server.address, len(server.keys)) for server in config.servers] == [
        ("tcp://hall:5555", 1),
        ("tcp://loft:6666", 2),
    ]
    shown = tmp_path / "shown.toml"
    shown.write_text(as_toml(as_plain(config), layers))
    assert load(shown).servers == config.servers


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("loft:6666", "loft", r"server\[1\]\.address: 'tcp://loft' is not an address"),
        ("loft:6666", "hall:5555", r"server\[1\]\.address: tcp://hall:5555 is the other server's, too"),
        (OTHER, "short", r"server\[1\]\.public_keys\[0\]"),
        ("public_keys", "public_key", r"server\[0\]\.public_key: unknown key; did you mean 'public_keys'"),
    ],
)
def test_a_fault_of_one_server_is_told_with_its_place(tmp_path: Path, before: str, after: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(written(tmp_path, TWO.replace(before, after)))


def test_neither_none_nor_three_servers_are_taken(tmp_path: Path) -> None:
    third = f'[[server]]\naddress = "tcp://attic:5555"\npublic_keys = ["{KEY}"]\n'
    with pytest.raises(ConfigError, match=r"server: 3 servers; name one, or 2 as \[\[server\]\]"):
        load(written(tmp_path, TWO + third))
    path = tmp_path / "none.toml"
    path.write_text("server = []\n" + CONFIG)
    with pytest.raises(ConfigError, match="server: 0 servers"):
        load(path)


@pytest.mark.parametrize(
    "servers", [[("tcp://hall:5555", KEY)], [("tcp://hall:5555", KEY), ("tcp://loft:6666", OTHER)]]
)
def test_what_a_deployment_writes_takes_the_place_of_the_servers_before(
    tmp_path: Path, servers: list[tuple[str, str]]
) -> None:
    for before in (f'[server]\naddress = "tcp://old:5555"\npublic_keys = ["{KEY}"]\n', TWO):
        path = written(tmp_path, before)
        (tmp_path / "conf.d").mkdir(exist_ok=True)
        (tmp_path / "conf.d" / "server.toml").write_text(device_servers(servers))
        assert [(server.address, server.public_keys[0]) for server in load(path).servers] == servers
