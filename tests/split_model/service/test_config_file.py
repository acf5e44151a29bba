"""Reading a config file: paths from its folder, and errors that name file and key."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from split_model.errors import ConfigError, MissingInputError
from split_model.service.config_file import as_plain, parse_tree, read_layers


class Fixed(msgspec.Struct, tag="fixed", frozen=True):
    cut: int


class Moving(msgspec.Struct, tag="moving", frozen=True):
    dwell_s: float = 5.0


class Source(msgspec.Struct, frozen=True):
    folder: Path
    subject: str = ""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    split: Fixed | Moving = Moving()
    sources: tuple[Source, ...] = ()
    labels: dict[str, Source] = {}
    log: Path | None = None
    limit: int | str = 3


def load(tmp_path, text):
    path = tmp_path / "edge.toml"
    path.write_text(text)
    return read_layers(path).parse(Config)


def test_relative_paths_start_at_the_config_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    config = load(tmp_path, 'log = "run.jsonl"\n[[sources]]\nfolder = "/data"\n[[sources]]\nfolder = "~/pictures"')
    assert config.log == tmp_path / "run.jsonl"
    assert [source.folder for source in config.sources] == [Path("/data"), Path("/home/somebody/pictures")]
    assert as_plain(config)["log"] == str(tmp_path / "run.jsonl")


def test_a_relative_config_path_gives_absolute_paths(tmp_path, monkeypatch):
    (tmp_path / "edge.toml").write_text('log = "x"')
    monkeypatch.chdir(tmp_path)
    assert read_layers(Path("edge.toml")).parse(Config).log == tmp_path / "x"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lgo = 1", "edge.toml: lgo: unknown key; did you mean 'log'?"),
        ("xyz = 1", "xyz: unknown key; known here: "),
        ("[split]\ntype = 'moving'\ndwel_s = 1", "split.dwel_s: unknown key; did you mean 'dwell_s'?"),
        (
            "[[sources]]\nfolder = 'a'\n[[sources]]\nfoldr = 'b'",
            "sources[1].foldr: unknown key; did you mean 'folder'?",
        ),
        ("[labels.front]\nfoldr = 'a'", "labels.front.foldr: unknown key; did you mean 'folder'?"),
        ("[split]\ntype = 'still'", "split.type = 'still'; it is one of 'fixed', 'moving'"),
        ("[[sources]]\nsubject = 'a'", "sources[0]: object missing required field `folder`"),
        ("log = 3", "log: expected `path"),
        ("log = ''", "log: expected `path"),
        ("[[sources]]\nfolder = 'a'\nsubject = 3", "sources[0].subject: expected `str`, got `int`"),
        ("limit = 1.5", "limit: expected `int | str`, got `float`"),
        ("log = [", "not TOML: "),
        ("a = 1\na = 2", "not TOML: "),
    ],
)
def test_an_error_names_the_key_and_a_remedy(tmp_path, text, says):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert says in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "edge.toml"))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == os.EX_CONFIG


def test_a_file_that_is_not_there_or_not_text(tmp_path):
    with pytest.raises(MissingInputError):
        read_layers(tmp_path / "none.toml").parse(Config)
    with pytest.raises(MissingInputError):
        read_layers(tmp_path).parse(Config)
    (tmp_path / "picture").write_bytes(b"\x89PNG\xff")
    with pytest.raises(ConfigError, match="picture:1: byte 0x89 is not UTF-8"):
        read_layers(tmp_path / "picture").parse(Config)
    (tmp_path / "film").write_bytes(b"#" * (1 << 21))
    with pytest.raises(ConfigError, match="over 1 MiB"):
        read_layers(tmp_path / "film").parse(Config)


KEYS = st.sampled_from(["split", "sources", "labels", "log", "limit", "type", "cut", "folder", "subject", "x"])
TREES = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(KEYS, TREES, max_size=5))
def test_any_tree_is_a_config_or_a_config_error(tree):
    try:
        parse_tree(tree, Config, where="f", folder=Path("/"))
    except ConfigError as error:
        assert str(error).startswith("f: ")  # noqa: PT017  (either outcome is right)
