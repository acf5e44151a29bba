"""Which machines can be deployed to, and which wheels fit them."""

from __future__ import annotations

import pytest

from deploy.errors import NotAllowedError, UnfitError
from deploy.target import Facts, choose_target, clock_warning, platforms, read_facts

BOARD = """\
machine aarch64
hostname porch
glibc 2.36
clock_s 1700000000
init systemd
root yes
disk_kib 5000000
python /usr/bin/python3.11 3.11 64 venv
python /usr/bin/python3.11 3.11 64 venv
release 0123456789abcdef
active active
stored aa
stored bb
environment cc
offered dd /etc/edge-runtime/config.toml
manifest program edge-runtime
manifest bundle aa bundle/manifest.json
"""


def facts(**changes: str) -> Facts:
    lines = [line for line in BOARD.splitlines() if line.partition(" ")[0] not in changes]
    return read_facts("\n".join([*lines, *(f"{key} {value}" for key, value in changes.items() if value)]))


def test_what_a_board_says_of_itself_is_read_whole() -> None:
    board = facts()
    target = choose_target(board)
    assert (target.name, target.glibc, target.python.path) == ("cp311-aarch64", (2, 36), "/usr/bin/python3.11")
    assert board.stored == {"aa", "bb"}
    assert (board.public_key, board.earlier_key, board.next_key, board.unfinished) == ("", "", "", False)
    rotated = facts(**{"public_key": "n", "public_key.old": "o", "public_key.next": "x", "unfinished": "yes"})
    assert (rotated.public_key, rotated.earlier_key, rotated.next_key, rotated.unfinished) == ("n", "o", "x", True)
    assert board.environments == {"cc"}
    assert board.offered == {"/etc/edge-runtime/config.toml": "dd"}
    assert board.manifest == "program edge-runtime\nbundle aa bundle/manifest.json\n"


@pytest.mark.parametrize("machine", ["armv7l", "armv6l", "i686"])
def test_a_32_bit_machine_is_refused_with_the_reason(machine: str) -> None:
    with pytest.raises(UnfitError, match=rf"{machine} is a 32-bit system.*no 32-bit wheels.*64-bit"):
        choose_target(facts(machine=machine, python="/usr/bin/python3 3.11 32 venv"))


def test_a_64_bit_kernel_under_a_32_bit_system_is_a_32_bit_system() -> None:
    """What 32-bit Raspberry Pi OS is on a Pi 4: uname says aarch64."""
    with pytest.raises(UnfitError, match="aarch64 with a 32-bit system"):
        choose_target(facts(python="/usr/bin/python3.11 3.11 32 venv"))


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"machine": "riscv64"}, UnfitError, "riscv64, for which there are no wheels; use x86_64 or aarch64"),
        ({"glibc": ""}, UnfitError, "not glibc"),
        ({"init": "busybox"}, UnfitError, "does not run systemd"),
        ({"root": ""}, NotAllowedError, "sudo -n"),
        ({"python": "/usr/bin/python3.9 3.9 64 venv"}, UnfitError, "needs Python 3.10 to 3.14 and has 3.9"),
        ({"python": ""}, UnfitError, "has none"),
        ({"python": "/usr/bin/python3.15 3.15 64 venv"}, UnfitError, "has 3.15"),
        ({"python": "/usr/bin/python3.12 3.12 64 -"}, UnfitError, "apt install python3-venv"),
    ],
)
def test_what_is_missing_is_named(changes: dict[str, str], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        choose_target(facts(**changes))


def test_the_newest_python_that_has_venv_is_taken() -> None:
    text = BOARD + "python /usr/bin/python3.13 3.13 64 -\npython /usr/local/bin/python3.12 3.12 64 venv\n"
    assert choose_target(read_facts(text)).name == "cp312-aarch64"


def test_platform_tags_go_from_the_boards_glibc_down() -> None:
    tags = platforms("aarch64", (2, 18))
    assert tags == ["manylinux_2_18_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"]
    assert platforms("x86_64", (2, 36))[-1] == "manylinux1_x86_64"


def test_a_clock_that_is_off_is_told() -> None:
    assert clock_warning(facts(), now_s=1700000060) == ""
    assert "100000 s behind" in clock_warning(facts(), now_s=1700100000)
