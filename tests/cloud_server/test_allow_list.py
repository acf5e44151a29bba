"""The allow-list file: what it says, how it changes, and that doubt admits nobody."""

from __future__ import annotations

import os
import resource

import pytest
import zmq

from cloud_server.allow_list import AllowList, Entry, allow, entries, parse, revoke, revoked_path
from split_model.errors import BadInputError, MissingInputError, UsageError


@pytest.fixture
def key():
    return zmq.curve_keypair()[0].decode()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "devices"


def test_allow_and_revoke_keep_comments(path, key):
    path.write_text("# the fleet\n\n")
    allow(path, "porch", key)
    assert path.read_text() == f"# the fleet\n\nporch {key}\n"
    revoke(path, "porch")
    assert path.read_text() == "# the fleet\n\n"


def test_a_revoked_key_is_remembered_until_it_is_allowed_again(path, key):
    other = zmq.curve_keypair()[0].decode()
    for name, public in (("porch", key), ("roof", other)):
        allow(path, name, public)
        revoke(path, name)
    assert parse(revoked_path(path).read_bytes(), "")[0] == {key: "porch", other: "roof"}
    allow(path, "attic", key)
    assert parse(revoked_path(path).read_bytes(), "")[0] == {other: "roof"}
    revoke(path, "attic", remember=False)
    assert parse(revoked_path(path).read_bytes(), "")[0] == {other: "roof"}


def test_a_file_without_a_last_newline_is_not_spoilt(path, key):
    other = zmq.curve_keypair()[0].decode()
    path.write_text(f"one {other}")
    allow(path, "two", key)
    assert parse(path.read_bytes(), "")[0] == {other: "one", key: "two"}


def test_a_name_or_key_that_is_there_already_is_refused(path, key):
    allow(path, "porch", key)
    with pytest.raises(UsageError, match="as porch"):
        allow(path, "roof", key)
    with pytest.raises(UsageError, match="porch already"):
        allow(path, "porch", zmq.curve_keypair()[0].decode())


@pytest.mark.parametrize("name", ["", "#x", "a b", "-c", "a" * 65, "a\nb", "é"])
def test_names_that_would_break_the_file_are_refused(path, key, name):
    with pytest.raises(UsageError):
        allow(path, name, key)
    assert not path.exists()


def test_a_key_that_is_none_is_refused(path):
    with pytest.raises(BadInputError):
        allow(path, "porch", "x" * 39)


def test_revoking_the_unknown_is_an_error(path, key):
    with pytest.raises(MissingInputError):
        revoke(path, "porch")
    allow(path, "porch", key)
    with pytest.raises(MissingInputError, match="no device roof"):
        revoke(path, "roof")


def test_a_broken_line_admits_nobody_and_spares_the_others(path, key):
    path.write_text(f"porch {key}\nroof {key[:-1]}\nnonsense\n")
    devices, complaints = parse(path.read_bytes(), "devices")
    assert devices == {key: "porch"}
    assert [complaint.split(":")[1] for complaint in complaints] == ["2", "3"]


def test_the_server_sees_a_change_and_only_a_change(path, key):
    listed = AllowList(path)
    listed.refresh()
    assert not listed.refresh()
    allow(path, "porch", key)
    assert listed.refresh()
    assert listed.name_of(key) == "porch"
    assert not listed.refresh()
    revoke(path, "porch")
    assert listed.refresh()
    assert listed.name_of(key) is None


def test_a_change_of_the_same_size_in_the_same_instant_is_seen(path, key):
    """Editors and our own commands replace the file, so its inode changes even if nothing else does."""
    allow(path, "porch", key)
    listed = AllowList(path)
    listed.refresh()
    before = path.stat()
    scratch = path.with_name("scratch")
    scratch.write_text(path.read_text().replace("porch", "PORCH"))
    os.utime(scratch, ns=(before.st_mtime_ns, before.st_mtime_ns))
    scratch.replace(path)
    assert listed.refresh()
    assert listed.name_of(key) == "PORCH"


def test_a_file_that_is_gone_admits_nobody(path, key):
    allow(path, "porch", key)
    listed = AllowList(path)
    listed.refresh()
    path.unlink()
    assert listed.refresh()
    assert listed.name_of(key) is None
    assert not listed.refresh()  # and is not complained of at every message


def test_a_list_that_cannot_be_read_for_want_of_descriptors_stays_in_force(path, key, caplog):
    """Strangers may have used them up: nobody else is to lose the connection for that."""
    allow(path, "porch", key)
    listed = AllowList(path)
    listed.refresh()
    allow(path, "roof", zmq.curve_keypair()[0].decode())
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        assert [listed.refresh() for _ in range(3)] == [False] * 3
        assert list(listed.devices.values()) == ["porch"]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(caplog.records) == 1
    assert listed.refresh()
    assert sorted(listed.devices.values()) == ["porch", "roof"]


def test_a_list_that_stays_unreadable_admits_nobody_and_is_told_of_once(path, key, caplog):
    allow(path, "porch", key)
    listed = AllowList(path)
    listed.refresh()
    path.unlink()
    path.mkdir()
    assert [listed.refresh() for _ in range(3)] == [True, False, False]
    assert listed.devices == {}
    assert len(caplog.records) == 1


@pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\r"])
def test_an_entry_inside_of_a_comment_admits_nobody(path, key, odd):
    other = zmq.curve_keypair()[0].decode()
    path.write_bytes(f"# the porch{odd}mallory {key}\nporch {other}\n".encode())
    devices, complaints = parse(path.read_bytes(), "devices")
    assert devices == {other: "porch"}
    assert len(complaints) == 1
    assert complaints[0].startswith(f"devices:1: character U+{ord(odd):04X}")


def test_a_byte_order_mark_does_not_lock_out_the_first_line(path, key):
    path.write_bytes(b"\xef\xbb\xbf" + f"porch {key}\r\n".encode())
    assert parse(path.read_bytes(), "") == ({key: "porch"}, [])


def test_a_line_that_is_no_utf8_admits_nobody_and_the_others_stay(path, key):
    path.write_bytes(b"# K\xfcche\n" + f"porch {key}\n".encode())
    devices, complaints = parse(path.read_bytes(), "devices")
    assert devices == {key: "porch"}
    assert complaints == ["devices:1: byte 0xfc is not UTF-8; this line admits nobody"]


def test_the_commands_change_no_byte_of_other_lines(path, key):
    before = b"\xef\xbb\xbf# the fleet\x0b\r\n\r\n# K\xfcche \xe2\x80\xa8 \n"
    path.write_bytes(before)
    allow(path, "porch", key)
    assert path.read_bytes() == before + f"porch {key}\n".encode()
    revoke(path, "porch")
    assert path.read_bytes() == before


def test_a_weight_is_read_and_kept(path, key):
    other = zmq.curve_keypair()[0].decode()
    allow(path, "porch", key)
    allow(path, "gate", other, weight=3)
    assert path.read_text() == f"porch {key}\ngate {other} weight=3\n"
    assert entries(path.read_bytes(), "")[0] == {key: Entry("porch"), other: Entry("gate", 3)}
    listed = AllowList(path)
    listed.refresh()
    assert [listed.weight_of(one) for one in (key, other, "nobody's")] == [1, 3, 1]
    revoke(path, "porch")
    assert path.read_text() == f"gate {other} weight=3\n"


@pytest.mark.parametrize(
    "rest",
    ["weight=0", "weight=101", "weight=1.5", "weight=-1", "weight=01", "weight=", "weight = 2", "wieght=2",
     "weight=2 weight=3", " weight=2", "weight=\u0662", "2", "# the porch"],
)  # fmt: skip
def test_what_is_no_weight_admits_nobody(path, key, rest):
    path.write_text(f"porch {key} {rest}\n", encoding="utf-8")
    devices, complaints = parse(path.read_bytes(), "devices")
    assert devices == {}
    assert complaints[0].startswith("devices:1: ")
    assert "this line admits nobody" in complaints[0]


@pytest.mark.parametrize("weight", [0, -3, 101])
def test_a_weight_out_of_range_is_refused_before_the_file_is_touched(path, key, weight):
    with pytest.raises(UsageError, match=f"weight {weight}"):
        allow(path, "porch", key, weight=weight)
    assert not path.exists()
