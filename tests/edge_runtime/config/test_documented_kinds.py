"""docs/sources.md and the example config: every block loads, every key and default is the real one."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_runtime.config.config import load
from edge_runtime.config.kinds import SINKS, SOURCES
from split_model.service.config_file import as_plain

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[3]
#: Keys of every source or sink; told once.
EVERYWHERE = {"kind", "name", "subject", "frame_within_s"}


def blocks() -> dict[tuple[str, str], str]:
    """By table and kind."""
    found = {}
    for text in re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "sources.md").read_text(), re.DOTALL):
        for block in re.split(r"\n\n(?=\[)", text.strip()):
            ((table, value),) = tomllib.loads(block).items()
            (entry,) = value if isinstance(value, list) else [value]
            found[table, entry["kind"]] = block
    return found


def example() -> dict[tuple[str, str], str]:
    """The kinds that the example config shows behind comment signs."""
    text = (ROOT / "deploy" / "examples" / "device.toml").read_text()
    found = {}
    for block in re.findall(r"^# \[\[(?:source|sink)\]\].*?(?=^(?!# )|^# \[\[)", text, re.DOTALL | re.MULTILINE):
        plain = re.sub(r"^# ", "", block, flags=re.MULTILINE)
        ((table, (entry,)),) = tomllib.loads(plain).items()
        found[table, entry["kind"]] = plain
    return found


def kinds() -> set[tuple[str, str]]:
    return {(registry.table, kind) for registry in (SOURCES, SINKS) for kind in registry.find()}


def test_every_kind_is_documented() -> None:
    assert set(blocks()) == kinds()
    assert set(example()) == kinds() - {("source", "files"), ("sink", "jsonl")}  # those are the ones in force there


@pytest.mark.parametrize("where", [blocks, example], ids=["docs", "example"])
def test_every_key_is_shown_and_every_default_is_the_real_one(where: Any) -> None:
    for (table, kind), block in where().items():
        registry = SOURCES if table == "source" else SINKS
        fields = {field.name: field for field in msgspec.structs.fields(registry.load(kind, "here"))}
        shown = tomllib.loads(re.sub(r"^# (?=\w+ =)", "", block, flags=re.MULTILINE))[table]
        entry = shown[0] if isinstance(shown, list) else shown
        assert entry.keys() - EVERYWHERE == fields.keys() - EVERYWHERE, (table, kind)
        in_force = tomllib.loads(block)[table]
        for key, value in (in_force[0] if isinstance(in_force, list) else in_force).items():
            if key not in EVERYWHERE and "required" not in _line(block, key):
                assert msgspec.to_builtins(fields[key].default, enc_hook=str) == value, (table, kind, key)


def _line(block: str, key: str) -> str:
    return next(line for line in block.splitlines() if line.startswith(f"{key} ="))


@pytest.mark.parametrize("where", [blocks, example], ids=["docs", "example"])
def test_every_block_loads(rig: Any, where: Any) -> None:
    for (table, kind), block in where().items():
        config = rig.configure()
        rest = re.sub(rf"\[{table}\].*?(?=\n\[|\Z)", "", config.read_text(), flags=re.DOTALL)
        config.write_text(rest + "\n" + block + "\n")
        entry = as_plain(load(config))[table]
        assert (entry[0] if isinstance(entry, (list, tuple)) else entry)["kind"] == kind


def test_all_of_the_example_at_once(rig: Any) -> None:
    config = rig.configure()
    rest = re.sub(r"\[(source|sink)\].*?(?=\n\[|\Z)", "", config.read_text(), flags=re.DOTALL)
    config.write_text(rest + "\n" + "\n".join(example().values()))
    wanted = {kind for table, kind in example() if table == "source"}
    assert {source.kind for source in load(config).sources} == wanted
