"""Every example config is one that its program takes, once the server's key is filled in."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import msgspec
import pytest
import zmq

from cloud_server import config as server_config
from edge_runtime.config import config as device_config
from edge_runtime.sinks.jsonl import JsonlTable
from edge_runtime.sources.files import FilesTable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2] / "deploy" / "examples"
EXAMPLES = sorted(ROOT.rglob("*.toml"))
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


TABLES = {
    "device": {
        "device": device_config.DeviceTable,
        "server": device_config.ServerTable,
        "release": device_config.ReleaseTable,
        "privacy": device_config.PrivacyTable,
        "planner": device_config.PlannerTable,
        "source": FilesTable,
        "sink": JsonlTable,
        "report": device_config.ReportTable,
        "emulation": device_config.EmulationTable,
    },
    "server": {"server": server_config.ServerTable, "limits": server_config.LimitsTable},
}
CODEBOOKS = {"release.whole_input_epsilon", "release.codewords", "release.groups"}
#: Each needs another that is off too, or forbids what is on.
TOGETHER = {"privacy.window_s", "privacy.window_budget", "release.preset", *CODEBOOKS}
#: Of the machine, so that no example can show it.
MACHINES_OWN = {"server.threads"}
_KEY = re.compile(r"(?P<off># )?(?P<name>[a-z_]+) = (?P<value>\[.*?\]|\".*?\"|[^#]*?)\s*(#.*)?")


def keys(stem: str) -> dict[str, tuple[bool, str]]:
    """Of an example: key path -> whether it stands there as a comment, and its value as TOML."""
    found, table = {}, ""
    for line in (ROOT / f"{stem}.toml").read_text().splitlines():
        if heading := re.match(r"\[([a-z]+)\]", line):
            table = heading[1]
        elif line.startswith("# ["):
            table = ""  # a whole table in a comment: tests/edge_runtime/config/test_documented_kinds.py reads those
        elif (match := _KEY.fullmatch(line)) and table:
            path = f"{table}.{match['name']}"
            assert path not in found, f"{path} twice"
            found[path] = (match["off"] is not None, match["value"])
    return found


@pytest.mark.parametrize("stem", TABLES)
def test_an_example_has_every_key_with_its_default(stem: str) -> None:
    """A key that has a default stands there with it; one that is off by default stands there as a comment."""
    fields = {
        f"{table}.{field.encode_name}": field
        for table, struct in TABLES[stem].items()
        for field in msgspec.structs.fields(struct)
    }
    shown = {path: value for path, value in keys(stem).items() if not path.endswith(".kind")}
    assert set(shown) == set(fields)
    for path, (is_comment, value) in shown.items():
        default = fields[path].default
        if default is msgspec.NODEFAULT or path in MACHINES_OWN | {"privacy.whole_input_budget"}:
            assert not is_comment, f"{path} must be set"
        elif default is None:
            # Stands for something else, which the comment beside it tells; the table of releases shows that.
            assert is_comment or path.startswith("release."), path
        else:
            assert not is_comment, f"{path} has a default: show it"
            assert tomllib.loads(f"x = {value}")["x"] == default, path


def test_the_table_of_the_page_can_be_switched_on_and_has_every_key(tmp_path: Path) -> None:
    text = (ROOT / "server.toml").read_text()
    table = text[text.index("# [web]") :].partition("\n\n")[0]
    assert set(re.findall(r"^# ([a-z_]+) = ", table, re.MULTILINE)) == set(server_config.WebTable.__struct_fields__)
    switched_on = tmp_path / "server.toml"
    switched_on.write_text(text.replace(table, re.sub("^# ", "", table, flags=re.MULTILINE)))
    assert server_config.load(switched_on).web is not None


@pytest.mark.parametrize("stem", TABLES)
def test_what_stands_in_a_comment_can_be_set(stem: str, tmp_path: Path) -> None:
    text = (ROOT / f"{stem}.toml").read_text().replace(PLACEHOLDER, zmq.curve_keypair()[0].decode())
    for path, (is_comment, value) in keys(stem).items():
        name = path.split(".")[1]
        if not is_comment or path in TOGETHER:
            continue
        config = tmp_path / f"{name}.toml"
        config.write_text(text.replace(f"# {name} = {value}", f"{name} = {value}", 1))
        if stem == "device":
            device_config.load(config)
        else:
            server_config.load(config)
