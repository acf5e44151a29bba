"""The reader of files that people edit: its lines are those of an editor, whatever a file holds."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from split_model.errors import BadInputError, ConfigError, MissingInputError
from split_model.features.data import read_labels
from split_model.protocol.keys import make_pair, read_pair, read_public
from split_model.service import text_file
from split_model.service.config_file import read_toml

MARK = b"\xef\xbb\xbf"
#: Each ends a line for `str.splitlines`, and none does in an editor.
ODD = ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\r"]
NO_TEXT = [*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), "\u2028", "\u2029"]
any_sign = st.characters(exclude_categories=["Cs"])
any_text = st.text(st.one_of(st.sampled_from(["\n", "\r", *ODD, "#"]), any_sign), max_size=40)


def as_an_editor_shows(text: str) -> list[str]:
    shown = text.split("\n")
    last = shown.pop()
    return [line.removesuffix("\r") for line in shown] + ([last] if last else [])


@given(any_text)
@example("# porch\u2028mallory KEY\n")
@example("a\r\n\r\n\rb\r")
def test_lines_are_those_of_an_editor(text):
    marked = MARK + text.encode()
    assert [line.text for line in text_file.lines(marked)] == as_an_editor_shows(text)


@given(any_text)
def test_text_is_all_of_the_file_or_an_error_that_names_the_line(text):
    try:
        found = text_file.text(MARK + text.encode(), "file")
    except BadInputError as error:
        line = as_an_editor_shows(text)[int(error.problem.split(":")[1]) - 1]
        assert any(sign in line for sign in NO_TEXT if sign != "\t")
    else:
        assert found == text.replace("\r\n", "\n")
        assert not any(sign in found for sign in ODD)


@pytest.mark.parametrize("odd", ODD)
def test_a_character_that_would_end_a_line_elsewhere_is_named_where_it_stands(odd):
    with pytest.raises(BadInputError, match=rf"labels:2: character U\+{ord(odd):04X}"):
        text_file.text(f"one\ntw{odd}o\n".encode(), "labels")


def test_bytes_that_are_not_utf8_are_named_where_they_stand():
    with pytest.raises(BadInputError, match=r"labels:2: byte 0xfc is not UTF-8"):
        text_file.text("one\nK\xfcche\n".encode("latin-1"), "labels")


def test_windows_labels_are_the_same_labels(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes(MARK + "cat\r\ndog\r\n\r\nKüche\r\n".encode())
    assert read_labels(path) == ("cat", "dog", "", "Küche")
    path.write_bytes(b"cat\ndog\n\nKu")
    assert read_labels(path) == ("cat", "dog", "", "Ku")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_labels_in_utf_16_are_refused_by_that_name(tmp_path, encoding):
    path = tmp_path / "labels.txt"
    text = "\ufeffcat\r\n" if encoding == "utf-16-be" else "cat\r\n"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(
        BadInputError, match=r"labels.txt:1: the file is UTF-16 text .*; save the file as UTF-8 text"
    ):
        read_labels(path)


def test_a_label_with_a_line_separator_moves_no_other_label(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("cat\ndo\u2028g\nbird\n")
    with pytest.raises(BadInputError, match=r"labels.txt:2: character U\+2028 \(line separator\)"):
        read_labels(path)


def test_a_config_with_a_byte_order_mark_and_windows_lines_is_a_config(tmp_path):
    path = tmp_path / "config.toml"
    path.write_bytes(MARK + b"[device]\r\nname = 'porch' # here\r\n")
    assert read_toml(path) == {"device": {"name": "porch"}}


@pytest.mark.parametrize("raw", ["# a\u2028b = 1\n".encode(), "b = '\x85'\n".encode(), b"# K\xfcche\n"])
def test_a_config_with_what_an_editor_does_not_show_is_refused_by_line(tmp_path, raw):
    path = tmp_path / "config.toml"
    path.write_bytes(b"a = 1\n" + raw)
    with pytest.raises(ConfigError, match=r"config.toml:2: "):
        read_toml(path)


@pytest.mark.parametrize("wrap", [(b"", b""), (MARK, b"\r\n"), (b"", b"\r\n"), (b"\n", b"\n\n")])
def test_key_files_that_an_editor_has_saved_are_the_same_keys(tmp_path, wrap):
    pair = make_pair(tmp_path, "device")
    before, after = wrap
    for name, key in (("device.pub", pair.public), ("device.key", pair.secret)):
        (tmp_path / name).write_bytes(before + key + after)
    assert read_public(tmp_path / "device.pub") == pair.public
    assert read_pair(tmp_path / "device.key") == pair


def test_a_key_file_that_is_none_says_so(tmp_path):
    make_pair(tmp_path, "device")
    for raw in (b"", b"\xff" * 40, b"x" * 40 + b"\x85", b"\n" * 300, "ü".encode() * 20):
        (tmp_path / "device.key").write_bytes(raw)
        (tmp_path / "device.pub").write_bytes(raw)
        with pytest.raises(BadInputError, match=r"device\.key"):
            read_pair(tmp_path / "device.key")
        with pytest.raises(BadInputError, match=r"device\.pub"):
            read_public(tmp_path / "device.pub")
    with pytest.raises(MissingInputError):
        read_public(tmp_path / "other.pub")
