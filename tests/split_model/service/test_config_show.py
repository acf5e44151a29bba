"""What ``config show`` prints is TOML, or JSON, whatever is in the config: it reads back as it was."""

from __future__ import annotations

import datetime as dt
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from split_model.service import toml_text
from split_model.service.config_file import Layers
from split_model.service.config_show import as_json, as_toml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LAYERS = Layers(Path("a.toml"), (Path("a.toml"),), {})
ZONES = st.integers(-23 * 60, 23 * 60).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
SCALARS = st.one_of(
    st.text(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.datetimes(),
    st.datetimes(timezones=ZONES),
    st.dates(),
    st.times(),
)
KEYS = st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=8)
ENTRIES = st.dictionaries(KEYS, VALUES | st.none(), max_size=4)
CONFIGS = st.dictionaries(KEYS, ENTRIES | st.lists(ENTRIES, max_size=3) | VALUES | st.none(), max_size=4)


def same(one: Any, other: Any) -> bool:
    """Equal, and nan is nan."""
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


def without_none(entries: Any) -> Any:
    """A config as TOML can have it; None at the level of keys is shown as a comment."""
    if isinstance(entries, dict):
        return {key: value for key, value in entries.items() if value is not None}
    return [without_none(entry) for entry in entries] if isinstance(entries, list) else entries


@given(VALUES)
def test_a_value_reads_back(value: Any) -> None:
    assert same(tomllib.loads(f"x = {toml_text.value(value)}")["x"], value)


@given(CONFIGS)
def test_a_config_reads_back(plain: dict[str, Any]) -> None:
    again = tomllib.loads(as_toml(plain, LAYERS))
    assert same(again, {name: without_none(entries) for name, entries in without_none(plain).items()})


def test_every_value_is_on_a_line_and_steers_no_terminal() -> None:
    layers = Layers(Path("a\nb = 1.toml"), (Path("a\nb = 1.toml"),), {}, {"t.x": Path("\x1b[2J\nevil = 1")})
    shown = as_toml({"t": {"x": "\x1b[2J\n\x9b"}}, layers)
    assert shown.replace("\n", "").isprintable()
    assert tomllib.loads(shown) == {"t": {"x": "\x1b[2J\n\x9b"}}


def test_a_path_that_is_no_utf_8_is_a_comment() -> None:
    shown = as_toml({"device": {"state": "/var/\udcff", "threads": 2}}, LAYERS)
    assert tomllib.loads(shown) == {"device": {"threads": 2}}
    assert r"# state = '/var/\udcff' cannot be written in TOML" in shown


@pytest.mark.parametrize(
    "value",
    [
        None,
        "\ud800",
        {"\ud800": 1},
        dt.time(1, tzinfo=dt.timezone.utc),
        dt.datetime(2026, 1, 1, tzinfo=dt.timezone(dt.timedelta(seconds=1))),
    ],
)
def test_what_toml_cannot_say_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"TOML|surrogates"):
        toml_text.value(value)


def test_json_is_json_with_infinite_numbers() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    plain = {"limits": {"budget": math.inf, "steps": [-math.inf, 1.5]}}
    shown = json.loads(as_json(plain, LAYERS), parse_constant=refuse)
    assert shown["limits"] == {"budget": "inf", "steps": ["-inf", 1.5]}
    assert shown["origins"] == {"limits.budget": "default", "limits.steps": "default"}
