"""A device's config in several files: errors blame the file that holds the fault, and sources can be replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.config.config import load
from split_model.errors import ConfigError

CONFIG = """
[device]
bundle = "bundle"
key = "device.key"
state = "state"
[server]
address = "tcp://127.0.0.1:5555"
public_keys = ["rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"]
[privacy]
whole_input_budget = "unlimited"
[release]
mechanism = "noise"
[source]
kind = "files"
path = "pictures"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    (tmp_path / "conf.d").mkdir()
    return path


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[sink]\nkind = "jsonx"', "sink.kind: there is no kind 'jsonx'; did you mean 'jsonl'?"),
        ('[[sink]]\n[[sink]]\nkind = "pubb"', "sink[1].kind: there is no kind 'pubb'"),
        ('[[source]]\nkind = "cam"', "source[0].kind: there is no kind 'cam'"),
        ("[privacy]\nwhole_input_budget = inf", "privacy.whole_input_budget = inf"),
        ("[privacy]\nwindow_s = 3.0", "privacy.window_s and privacy.window_budget go together"),
        ("[release]\nepsilon = inf", "release.epsilon = inf"),
        ("[release]\nwhole_input_epsilon = 3.0", "belongs to release.mechanism = 'codebook'"),
        ('[release]\nmechanism = "codebook"', "needs release.whole_input_epsilon"),
        (
            '[release]\npreset = "cis"\n[privacy]\nwhole_input_budget = 9.0',
            "release.preset = 'cis' costs thousands",
        ),
        ('[release]\npreset = "cis"\nallocation = "optimal"', "release.preset = 'cis' shares by rank"),
        ("[privacy]\nsubject_budget = 9.0\n[release]\nmechanism = 'none'", "so no budget can hold"),
        ("[emulation]\nslowdown = 2.0\n[device]\nthreads = 2", "emulation.slowdown stretches"),
    ],
)
def test_an_error_blames_the_file_of_conf_d_that_holds_it(config: Path, text: str, says: str) -> None:
    early, late = config.parent / "conf.d" / "10-good.toml", config.parent / "conf.d" / "20-bad.toml"
    early.write_text("[planner]\ndwell_s = 1.0\n")
    late.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load(config)
    assert str(raised.value).startswith(f"{late}: ")
    assert says in str(raised.value)


def test_a_fault_of_the_main_file_is_not_blamed_on_conf_d(config: Path) -> None:
    config.write_text(CONFIG.replace("[privacy]", "[sink]\nkind = 'jsonx'\n[privacy]"))
    (config.parent / "conf.d" / "camera.toml").write_text('[[source]]\nkind = "camera"\n')
    with pytest.raises(ConfigError) as raised:
        load(config)
    assert str(raised.value).startswith(f"{config}: sink.kind: ")


def test_a_source_of_conf_d_replaces_the_one_of_the_main_file(config: Path) -> None:
    (config.parent / "conf.d" / "camera.toml").write_text('[[source]]\nkind = "camera"\n')
    assert [source.kind for source in load(config).sources] == ["camera"]


def test_a_kind_that_changes_in_place_says_how_to_replace_the_table(config: Path) -> None:
    late = config.parent / "conf.d" / "camera.toml"
    late.write_text('[source]\nkind = "camera"\n')
    with pytest.raises(ConfigError) as raised:
        load(config)
    assert str(raised.value) == (
        f"{late}: source.kind = 'camera' does not know source.path, which {config} sets; "
        f"write [[source]] in {late}: that replaces the whole table"
    )
