"""What is refused before any connection is made, and what is understood of a server."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from deploy.enrol import Server, allow_command, device_name, split_server
from deploy.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


def deploy(*arguments: str, script: str = "deploy.sh") -> subprocess.CompletedProcess[str]:
    command = [ROOT / "deploy" / script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ((), os.EX_USAGE, "HOST"),
        (("pi@porch",), os.EX_USAGE, "--bundle is missing"),
        (("pi@porch", "pi@porch", "--bundle", "x"), os.EX_USAGE, "named twice"),
        (("pi@porch", "--bundle", "/nowhere"), os.EX_NOINPUT, "split-model prepare"),
        (("pi@porch", "--purge", "--bundle", "x"), os.EX_USAGE, "--purge needs --uninstall"),
        (("pi@porch", "--bundle", "x", "--whole-input-budget", "lots"), os.EX_USAGE, "positive number"),
        (("pi@porch", "--bundle", "x", "--config", "/nowhere"), os.EX_NOINPUT, "no such file"),
        (("a", "b", "--bundle", "x", "--name", "porch"), os.EX_USAGE, "for one host"),
        (("a", "--server", "hall", "--server", "hall"), os.EX_USAGE, "--server hall is given twice"),
        (("a", "--server", "x", "--server", "y", "--server", "z"), os.EX_USAGE, "give two at most"),
        (
            ("a", "--bundle", "x", "--server-key", "K", "--server", "x", "--server", "y"),
            os.EX_USAGE,
            "--server-key stands before --server",
        ),
        (
            ("a", "--bundle", "x", "--server", "x", "--server-key", "K", "--server-key", "L"),
            os.EX_USAGE,
            "--server-key is given twice",
        ),
        (("a", "--bundle", "x", "--bundle", "y"), os.EX_USAGE, "--bundle is given twice; give it once"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(arguments: tuple[str, ...], code: int, text: str) -> None:
    done = deploy(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("deploy: error: ")
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("script", ["deploy.sh", "deploy-server.sh"])
def test_help_teaches(script: str) -> None:
    done = deploy("--help", script=script)
    assert done.returncode == 0
    assert f"deploy/{script}" in done.stdout
    assert "\nexamples, each with" in done.stdout


def test_a_server_is_an_ssh_destination_with_a_port_if_need_be() -> None:
    assert split_server("hall") == ("hall", None)
    assert split_server("admin@hall:6000") == ("admin@hall", 6000)
    assert split_server("tcp://10.0.0.2:5555") == ("10.0.0.2", 5555)
    assert split_server("admin@[fe80::1]:5555") == ("admin@[fe80::1]", 5555)
    with pytest.raises(UsageError):
        split_server("a b")


def test_the_command_for_the_server_survives_a_shell() -> None:
    """A public key in Z85 holds signs that a shell reads."""
    key = "-a$b&c(d)e*f!g<h>i{j}k[l]m@n%o#p^q/r.s:t"
    server = Server("hall", "tcp://hall:5555", "", {}, "/etc/cloud-server/config.toml", None)
    printed = subprocess.run(
        ["sh", "-c", allow_command(server.config, "porch", key).replace("sudo cloud-server", "printf '%s\\n'")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert printed.stdout.splitlines()[-2:] == ["porch", key]


def test_a_host_name_becomes_a_name_for_the_allow_list() -> None:
    assert device_name("porch.local") == "porch.local"
    assert device_name("my board!") == "my-board"
    assert device_name("-") == "device"
