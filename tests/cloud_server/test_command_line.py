"""The command ``cloud-server``: output a program can read, and one-line errors with the right exit code."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

import pytest
import zmq

from cloud_server import cli, status
from cloud_server.counters import Counters
from split_model import command_line
from split_model.protocol.keys import make_pair
from split_model.service import status_file


@pytest.fixture
def run(capfd):
    """Run a command; its exit code, output and errors."""

    def call(*words):
        code = cli.main([str(word) for word in words])
        return code, *capfd.readouterr()

    return call


@pytest.fixture
def config(tmp_path, model, config_file):
    return config_file(tmp_path, model)


def one_line(text: str) -> str:
    assert text.startswith("cloud-server: error: ")
    assert text.count("\n") == 1
    return text


def test_a_device_is_allowed_listed_and_revoked(run, config, tmp_path):
    key = zmq.curve_keypair()[0].decode()
    assert run("devices", "allow", "-c", config, "porch", key)[0] == 0
    assert run("devices", "list", "-c", config)[1] == f"porch {key}\n"
    assert json.loads(run("devices", "list", "--json", "-c", config)[1]) == [
        {"name": "porch", "public_key": key, "weight": 1}
    ]
    code, _, errors = run("devices", "allow", "-c", config, "porch", key)
    assert code == os.EX_USAGE
    one_line(errors)
    assert run("devices", "revoke", "-c", config, "porch")[0] == 0
    assert run("devices", "list", "-c", config)[1] == ""
    assert run("devices", "revoke", "-c", config, "porch")[0] == os.EX_NOINPUT


def test_a_key_that_opens_with_a_dash_is_not_an_option(run, config):
    key = "-" + "a" * 39
    assert run("devices", "allow", "porch", key, "-c", config)[0] == 0
    assert run("devices", "list", "-c", config)[1] == f"porch {key}\n"


def test_an_option_that_happens_to_be_as_long_as_a_key_is_no_key(run, config, monkeypatch):
    monkeypatch.chdir(config.parent)
    option = f"--config={'c' * 26}.toml"
    assert len(option) == cli.KEY_CHARS
    config.rename(option.partition("=")[2])
    assert run("devices", "list", option)[0] == 0


def test_a_key_may_be_given_as_its_file(run, config, tmp_path):
    public = make_pair(tmp_path / "porch", "device").public.decode()
    assert run("devices", "allow", "-c", config, "porch", tmp_path / "porch" / "device.pub")[0] == 0
    assert run("devices", "list", "-c", config)[1] == f"porch {public}\n"


def test_a_list_with_a_broken_line_is_shown_and_complained_of(run, config, tmp_path):
    (tmp_path / "devices").write_text("porch nonsense\n")
    code, _, errors = run("devices", "list", "-c", config)
    assert code == os.EX_DATAERR
    assert "devices:1" in one_line(errors)


def test_keys_are_made_once_and_shown(run, config, tmp_path):
    code, public, _ = run("keys", "make", "-c", config)
    assert code == 0
    assert (tmp_path / "server.key").stat().st_mode & 0o777 == 0o600
    assert run("keys", "show", "-c", config)[1] == public
    assert json.loads(run("keys", "show", "--json", "-c", config)[1]) == {"public_key": public.strip()}
    assert run("keys", "make", "-c", config)[0] == os.EX_CANTCREAT
    assert run("keys", "show", "-c", config)[1] == public


def test_models_are_listed_with_their_cuts(run, config, model):
    (row,) = json.loads(run("models", "list", "--json", "-c", config)[1])
    assert (row["identity"], row["cuts"]) == (model.bundle.identity, [0, 1])
    assert model.bundle.identity[:12] in run("models", "list", "-c", config)[1]


def test_config_is_checked_and_shown_with_every_value(run, config, tmp_path):
    assert run("config", "check", "-c", config)[0] == os.EX_NOINPUT  # no key yet
    run("keys", "make", "-c", config)
    code, output, _ = run("config", "check", "-c", config)
    assert code == 0
    assert output.startswith(f"{config}: good; hosts ")
    (tmp_path / "devices").write_text("porch nonsense\n")
    assert run("config", "check", "-c", config)[0] == os.EX_DATAERR
    shown = json.loads(run("config", "show", "--json", "-c", config)[1])
    assert shown["server"]["key"] == str(tmp_path / "server.key")
    assert shown["limits"]["queue"] == 64
    assert shown["origins"]["server.key"] == str(config)
    assert shown["origins"]["limits.queue"] == "default"
    assert "threads = 2 " in run("config", "show", "-c", config)[1]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"peer_timeout": 3}, "server.peer_timeout: unknown key; did you mean 'peer_timeout_s'?"),
        ({"limits_que": 3}, "limits.que: unknown key; did you mean 'queue'?"),
        ({"threads": 0}, "server.threads: expected `int` >= 1"),
        ({"bundles": []}, "server.bundles: "),
        (
            {"listen": "0.0.0.0:5555"},
            "server.listen: '0.0.0.0:5555' is not an address; write it as 'tcp://0.0.0.0:5555'",
        ),
        ({"key": "server.pub"}, "server.key: "),
    ],
)
def test_a_config_error_names_the_key(run, tmp_path, model, config_file, keys, says):
    code, output, errors = run("config", "check", "-c", config_file(tmp_path, model, **keys))
    assert (code, output) == (os.EX_CONFIG, "")
    assert says in one_line(errors)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], os.EX_USAGE),
        (["nonsense"], os.EX_USAGE),
        (["run", "--fast"], os.EX_USAGE),
        (["devices", "nonsense"], os.EX_USAGE),
        (["keys"], os.EX_USAGE),
        (["run", "-c", "/nowhere.toml"], os.EX_NOINPUT),
    ],
)
def test_exit_codes_of_what_does_not_parse(run, words, code):
    assert run(*words)[0] == code


def test_a_server_without_keys_bundle_or_with_open_keys_does_not_start(run, config, config_file, model, tmp_path):
    code, _, errors = run("run", "-c", config)
    assert code == os.EX_NOINPUT
    assert "keys" in one_line(errors)
    run("keys", "make", "-c", config)
    (tmp_path / "server.key").chmod(0o644)
    code, _, errors = run("run", "-c", config)
    assert code == os.EX_NOPERM
    assert "chmod 600" in one_line(errors)
    (tmp_path / "server.key").chmod(0o600)
    code, _, errors = run("run", "-c", config_file(tmp_path, model, bundles=["gone"]))
    assert code == os.EX_NOINPUT
    one_line(errors)


def test_status_tells_running_stopped_and_dead_apart(run, start):
    server = start()
    code, output, _ = run("status", "-c", server.config)
    assert code == 0
    assert output.startswith(f"running   pid {server.process.pid}")
    found = json.loads(run("status", "--json", "-c", server.config)[1])
    assert (found["condition"], found["listen"]) == ("running", server.endpoint)
    server.stop()
    code, output, _ = run("status", "-c", server.config)
    assert (code, output.split()[0]) == (os.EX_UNAVAILABLE, "stopped")


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("running", 0),
        ("reloading", 0),
        ("draining", 0),
        ("starting", os.EX_UNAVAILABLE),
        ("stopped", os.EX_UNAVAILABLE),
    ],
)
def test_status_is_good_while_devices_are_answered(run, tmp_path, model, config_file, state, code):
    config = config_file(tmp_path, model, status="status.json")
    ours = os.getpid()
    found = status.Status(
        state=state, pid=ours, process_ticks=status_file.process_ticks(ours) or 0,
        written_boot_s=status_file.boot_s(), written_unix_s=0.0, uptime_s=1.0, software="x", listen="tcp://x:1",
        public_key="", bundles={}, tails=0, threads=1, devices=0, peers=0, queued=0, running=0, held_bytes=0,
        counters=Counters(), refused_keys={},
    )  # fmt: skip
    status_file.write(tmp_path / "status.json", found, key=status.KEY)
    assert run("status", "-c", config)[0] == code
    assert json.loads(run("status", "--json", "-c", config)[1])["condition"] == state


def test_status_of_a_killed_server_is_dead(run, start):
    server = start()
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    code, output, _ = run("status", "-c", server.config)
    assert (code, output.split()[0]) == (os.EX_UNAVAILABLE, "dead")


def test_status_before_the_first_run_says_so(run, config):
    code, output, _ = run("status", "-c", config)
    assert (code, output.split()[0]) == (os.EX_UNAVAILABLE, "stopped")
    assert f"nothing runs with {config}" in output
    code, output, _ = run("status", "--json", "-c", config)
    assert (code, json.loads(output)) == (os.EX_UNAVAILABLE, {"condition": "stopped"})


def test_logs_carry_their_priority_under_systemd(monkeypatch, capsys):
    import logging

    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    command_line.set_up_logging()
    logging.getLogger("x").warning("a warning")
    logging.getLogger("x").info("one")
    try:
        raise ValueError("why\x1b[2J")  # noqa: TRY301
    except ValueError:
        logging.getLogger("x").exception("failed")
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["<4>a warning", "<6>one", "<3>failed"]
    assert lines[3] == "<3>Traceback (most recent call last):"
    assert lines[-1] == "<3>ValueError: why?[2J"


@pytest.mark.parametrize("journal", [False, True])
def test_what_a_peer_says_is_one_line_of_the_log(monkeypatch, capsys, journal):
    import logging

    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    if journal:
        monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    command_line.set_up_logging()
    logging.getLogger("x").info("%s says hello", "evil\n12:00:00 ERROR forged\r\x1b[2J\u2028\x85end")
    logging.getLogger("x").info("next")
    said, following = capsys.readouterr().err.split("\n")[:-1]
    assert said.endswith("evil?12:00:00 ERROR forged??[2J??end says hello")
    assert following.endswith("next")


def test_a_reader_that_leaves_is_no_error(tmp_path):
    """As in ``cloud-server devices list | head -1``."""
    import subprocess

    program = """if True:
        import sys
        from split_model.command_line import Parser, run_main
        parser = Parser(prog="x")
        parser.set_defaults(func=lambda args: print("y" * 100_000))
        sys.exit(run_main("x", parser, []))
    """
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 128 + signal.SIGPIPE


@pytest.fixture
def examined(run):
    def examine(config):
        code, output, _ = run("doctor", "--json", "-c", config)
        return code, {finding["about"]: finding for finding in json.loads(output)}

    return examine


def test_a_server_that_is_well(examined, start, run):
    server = start()
    code, found = examined(server.config)
    assert code == 0
    assert {about for about, finding in found.items() if finding["level"] == "fail"} == set()
    for about in ("config", "key", "bundles", "backend", "memory", "program"):
        assert found[about]["level"] == "ok", found[about]
    assert "running at" in found["program"]["text"]
    assert run("doctor", "-c", server.config)[1].startswith("ok    software")


def test_what_is_missing_is_named_with_what_to_do(examined, config):
    code, found = examined(config)
    assert (code, found["key"]["level"]) == (os.EX_NOINPUT, "fail")
    assert "keys make" in found["key"]["remedy"]
    assert found["devices"]["level"] == "warn"
    assert "devices allow" in found["devices"]["remedy"]
    assert found["program"]["level"] == "warn"


def test_a_bad_list_of_devices_and_a_port_that_is_taken(examined, run, config, tmp_path):
    run("keys", "make", "-c", config)
    (tmp_path / "devices").write_text("porch nonsense\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = config.read_text()
        listen = next(line for line in text.splitlines() if line.startswith("listen"))
        config.write_text(text.replace(listen, f'listen = "tcp://127.0.0.1:{port}"'))
        code, found = examined(config)
    assert found["devices"]["level"] == "warn"
    assert (code, found["program"]["level"]) == (os.EX_UNAVAILABLE, "fail")
    assert f"another program listens on port {port}" in found["program"]["text"]


def test_a_config_that_does_not_load(examined, config):
    config.write_text("[server]\nlisten = 3\n")
    code, found = examined(config)
    assert (code, found["config"]["level"]) == (os.EX_CONFIG, "fail")
