"""A config file and its ``conf.d``: who wins, who is named, and where a value is from."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from split_model.errors import ConfigError, MissingInputError
from split_model.service.config_file import as_plain, read_layers
from split_model.service.config_show import as_toml, origin_rows


class Planner(msgspec.Struct, frozen=True):
    split: int | str = "auto"
    dwell_s: float = 0.25
    home: Path | None = None


class Config(msgspec.Struct, frozen=True):
    planner: Planner = Planner()
    source: Planner | tuple[Planner, ...] = ()


@pytest.fixture
def write(tmp_path: Path):
    def one(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return one


def test_later_files_win_key_by_key_and_paths_start_at_the_first(write, tmp_path: Path) -> None:
    config = write("config.toml", "[planner]\nsplit = 1\ndwell_s = 1.0\n")
    write("conf.d/20-late.toml", "[planner]\nsplit = 3\n")
    write("conf.d/10-early.toml", '[planner]\nsplit = 2\nhome = "x"\n')
    write("conf.d/notes.txt", "no config")
    layers = read_layers(config)
    assert [file.name for file in layers.files] == ["config.toml", "10-early.toml", "20-late.toml"]
    assert layers.parse(Config).planner == Planner(split=3, dwell_s=1.0, home=tmp_path / "x")
    rows = origin_rows(as_plain(layers.parse(Config)), layers)
    assert {key: Path(origin).name for key, origin in rows.items()} == {
        "planner.split": "20-late.toml",
        "planner.dwell_s": "config.toml",
        "planner.home": "10-early.toml",
        "source": "default",
    }


def test_a_list_is_replaced_as_a_whole(write) -> None:
    config = write("config.toml", "[[source]]\nsplit = 1\n[[source]]\nsplit = 2\n")
    late = write("conf.d/a.toml", "[[source]]\nsplit = 9\n")
    layers = read_layers(config)
    assert layers.parse(Config).source == (Planner(split=9),)
    assert layers.where("source[0].split") == str(late)
    shown = as_toml(as_plain(layers.parse(Config)), layers)
    assert f"[[source]]  # {late}" in shown


def test_a_table_in_the_place_of_a_list_forgets_it(write) -> None:
    config = write("config.toml", "[[source]]\nsplit = 1\n")
    write("conf.d/a.toml", "[source]\ndwell_s = 2.0\n")
    assert read_layers(config).parse(Config).source == Planner(dwell_s=2.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[planner]\nsplitt = 2\n", "planner.splitt: unknown key; did you mean 'split'?"),
        ("[planner]\ndwell_s = 'long'\n", "planner.dwell_s: expected"),
        ("[planer]\n", "planer: unknown key; did you mean 'planner'?"),
        ("[planner\n", "not TOML"),
    ],
)
def test_an_error_names_the_file_that_has_it(write, text: str, says: str) -> None:
    config = write("config.toml", "[planner]\nsplit = 1\n")
    late = write("conf.d/a.toml", text)
    with pytest.raises(ConfigError) as raised:
        read_layers(config).parse(Config)
    assert str(raised.value).startswith(f"{late}: ")
    assert says in str(raised.value)


def test_conf_d_alone_is_no_config(write, tmp_path: Path) -> None:
    write("conf.d/a.toml", "[planner]\n")
    with pytest.raises(MissingInputError, match="name a config file with -c"):
        read_layers(tmp_path / "config.toml")


def test_what_is_shown_can_be_read_again(write) -> None:
    config = write("config.toml", '[planner]\nsplit = 3\nhome = "a#b"\n')
    layers = read_layers(config)
    again = write("again.toml", as_toml(as_plain(layers.parse(Config)), layers))
    assert as_plain(read_layers(again).parse(Config)) == as_plain(layers.parse(Config))
