"""What users get wrong with the device program: one line with cause and remedy, an exit code, no traceback."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_server.cli import main as server_main
from edge_runtime.cli import main

ENDLESS = {"source_repeat": 0, "source_interval_s": 0.0, "planner_split": "local", "emulation_slowdown": 1.0}


def one_line(text: str, program: str = "edge-runtime") -> str:
    """The error, which must be the only one."""
    assert "Traceback" not in text
    errors = [line for line in text.splitlines() if line.startswith(f"{program}: error: ")]
    assert len(errors) == 1, text
    return errors[0]


def check(config: Path, capsys: Any) -> tuple[int, str]:
    """`config check`, in this process."""
    code = main(["config", "check", "-c", str(config)])
    return code, one_line(capsys.readouterr().err) if code else ""


def test_good_config(rig: Any, capsys: Any) -> None:
    assert check(rig.configure(), capsys) == (0, "")
    assert main(["config", "show", "--json", "-c", str(rig.configure())]) == 0
    assert json.loads(capsys.readouterr().out.split("good\n")[-1])["planner"]["split"] == 2


@pytest.mark.parametrize("arguments", [["run", "--fast"], ["walk"], ["config", "check", "-c"], ["keys"]])
def test_usage(arguments: list[str], capsys: Any) -> None:
    assert main(arguments) == os.EX_USAGE
    assert "--help" in one_line(capsys.readouterr().err)


def test_missing_config(tmp_path: Path, capsys: Any) -> None:
    code, line = check(tmp_path / "nowhere.toml", capsys)
    assert code == os.EX_NOINPUT
    assert "nowhere.toml" in line
    assert "-c" in line


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"planner_spilt": 2}, ("planner.spilt", "did you mean 'split'?")),
        ({"planner_split": 7}, ("planner.split = 7", "[0, 1, 2, 3]")),
        ({"planner_split": "lokal"}, ("planner.split",)),
        ({"planner_split": 1, "planner_earliest_cut": 2}, ("planner.split = 1", "planner.earliest_cut")),
        ({"planner_dwell_s": -1}, ("planner.dwell_s",)),
        ({"release_epsilon": 0}, ("release.epsilon",)),
        ({"release_mechanism": "nose"}, ("release.mechanism",)),
        ({"server_address": "localhost:5555"}, ("server.address", "tcp://HOST:5555")),
        ({"server_address": "tcp://localhost:99999"}, ("server.address",)),
        ({"server_address": "tcp://*:5555"}, ("server.address",)),
        ({"server_address": "tcp://_gateway:5555"}, ("server.address",)),
        ({"server_address": "tcp://-hall:5555"}, ("server.address",)),
        ({"server_address": "tcp://.local:5555"}, ("server.address",)),
        ({"server_public_keys": ["short"]}, ("server.public_keys[0]", "40 characters")),
        ({"server_public_keys": []}, ("server.public_keys",)),
        ({"device_key": "device.secret"}, ("device.key", ".key")),
        ({"device_threads": 2}, ("device.threads", "slowdown")),
        ({"device_bundle": None}, ("bundle",)),
    ],
)
def test_config_errors_name_the_key(rig: Any, capsys: Any, changes: Any, named: Any) -> None:
    code, line = check(rig.configure(**changes), capsys)
    assert code == os.EX_CONFIG, line
    assert all(word in line for word in named), line


@pytest.mark.parametrize(
    ("changes", "code", "named"),
    [
        ({"device_bundle": "nowhere"}, os.EX_NOINPUT, ("nowhere", "split-model prepare")),
        ({"device_key": "nowhere.key"}, os.EX_NOINPUT, ("nowhere.key", "'keys' command")),
        ({"source_path": "nowhere"}, os.EX_NOINPUT, ("nowhere",)),
        ({"source_path": "device.toml"}, os.EX_DATAERR, ("device.toml", ".npz")),
        ({"source_path": "."}, os.EX_DATAERR, ("holds no pictures",)),
    ],
)
def test_inputs_that_are_not_there(rig: Any, capsys: Any, changes: Any, code: int, named: Any) -> None:
    found, line = check(rig.configure(**changes), capsys)
    assert found == code, line
    assert all(word in line for word in named), line


def test_secret_key_that_others_can_read(rig: Any, capsys: Any) -> None:
    config = rig.configure()
    config.with_name("device.key").chmod(0o644)
    code, line = check(config, capsys)
    assert code == os.EX_NOPERM
    assert "chmod 600" in line


def test_damaged_secret_key(rig: Any, capsys: Any) -> None:
    config = rig.configure()
    config.with_name("device.key").write_text("not a key\n")
    code, line = check(config, capsys)
    assert code == os.EX_DATAERR
    assert "not a CURVE secret key" in line


def test_keys_are_never_overwritten(rig: Any, capsys: Any) -> None:
    config = rig.configure()
    before = config.with_name("device.key").read_bytes()
    assert main(["keys", "make", "-c", str(config)]) == os.EX_CANTCREAT
    assert "exists already" in one_line(capsys.readouterr().err)
    assert config.with_name("device.key").read_bytes() == before


def test_array_of_another_shape(rig: Any, capsys: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "wide.npz", inputs=np.zeros((4, 9, 8, 3), np.float32))
    code, line = check(rig.configure(source_path=str(tmp_path / "wide.npz")), capsys)
    assert code == os.EX_DATAERR
    assert "[4, 9, 8, 3]" in line
    assert "[samples, 8, 8, 3]" in line


def test_one_flipped_byte_anywhere_in_the_bundle(rig: Any, parts: Any, capsys: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(parts.bundle.root, copy)
    config = rig.configure(device_bundle=str(copy))
    # An evaluation may be replaced at any time; the manifest, which has every other hash, is tried below.
    unhashed = ("manifest.json", "evaluation.json")
    files = [path for path in copy.rglob("*") if path.is_file() and path.name not in unhashed]
    assert len(files) >= 8
    for path in files:
        good = path.read_bytes()
        path.write_bytes(good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
        code, line = check(config, capsys)
        assert code == os.EX_DATAERR
        assert str(path) in line
        assert "SHA-256" in line
        path.write_bytes(good)
    assert check(config, capsys) == (0, "")


def test_damaged_manifest(rig: Any, parts: Any, capsys: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(parts.bundle.root, copy)
    manifest = copy / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-40])
    code, line = check(rig.configure(device_bundle=str(copy)), capsys)
    assert code == os.EX_DATAERR
    assert "prepare the bundle again" in line


def test_bundle_without_calibration_releases_nothing(rig: Any, parts: Any, capsys: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(parts.bundle.root, copy)
    manifest = json.loads((copy / "manifest.json").read_bytes())
    for cut in manifest["cuts"]:
        cut["calibration"] = None
    (copy / "manifest.json").write_text(json.dumps(manifest))
    code, line = check(rig.configure(device_bundle=str(copy)), capsys)
    assert code == os.EX_CONFIG
    assert "--calibration" in line


# The program itself, as a process.


def test_run_refuses_a_damaged_bundle(rig: Any, parts: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(parts.bundle.root, copy)
    path = copy / "cut-002" / "head.tflite"
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    device = rig.device(device_bundle=str(copy))
    assert device.ended() == os.EX_DATAERR
    assert str(path) in one_line(device.log())
    assert not device.answers.exists()


def test_bad_picture_among_good_ones_is_a_failed_frame(rig: Any, parts: Any, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    shutil.copytree(parts.pictures, folder)
    (folder / "1.png").write_bytes(b"this is no picture")
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:60])
    device = rig.device(source_path=str(folder), source_repeat=1, planner_split="local")
    assert device.ended() == 0
    frames = device.records()
    assert [frame["outcome"] for frame in frames] == ["local", "failed", "failed", "local"]
    assert [frame["name"] for frame in frames] == ["0.png", "1.png", "2.png", "3.png"]
    assert str(folder / "1.png") in frames[1]["error"]
    assert str(folder / "1.png") in device.log()
    counters = device.counters()
    assert (counters["frames_in"], counters["local"], counters["failed"]) == (4, 2, 2)


def test_source_without_one_good_picture_ends_the_run(rig: Any, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "1.png").write_bytes(b"this is no picture")
    device = rig.device(source_path=str(folder), source_repeat=0)
    assert device.ended() == os.EX_DATAERR
    assert "not one sample" in one_line(device.log())


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"sink_path": "device.toml/answers.jsonl"}, "sink.path"),
        ({"device_state": "device.toml/state"}, "device.state"),
    ],
)
def test_folder_that_cannot_be_written(rig: Any, changes: Any, key: str) -> None:
    device = rig.device(**ENDLESS, **changes)
    assert device.ended() == os.EX_CANTCREAT
    line = one_line(device.log())
    assert key in line
    assert "device.toml" in line


def test_full_disk(rig: Any) -> None:
    device = rig.device(**ENDLESS, sink_path="/dev/full")
    assert device.ended() == os.EX_CANTCREAT
    assert "/dev/full: No space left on device" in one_line(device.log())


def test_disk_that_fills_up_leaves_whole_records(rig: Any) -> None:
    limit = 20_000
    config = rig.configure(**ENDLESS)
    done = subprocess.run(
        [sys.executable, "-m", "edge_runtime", "run", "-c", str(config)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == os.EX_CANTCREAT, done.stderr
    assert "make room" in one_line(done.stderr)
    answers = config.with_name("answers.jsonl").read_bytes()
    assert limit - 2000 < len(answers) <= limit
    assert answers.endswith(b"\n")
    assert all(json.loads(line)["kind"] == "frame" for line in answers.splitlines())


def test_reader_that_goes_away(rig: Any) -> None:
    config = rig.configure(**ENDLESS, sink_path=None)
    command = [sys.executable, "-m", "edge_runtime", "run", "-c", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as popen:
        assert popen.stdout is not None
        assert popen.stderr is not None
        assert json.loads(popen.stdout.readline())["outcome"] == "local"
        popen.stdout.close()
        log = popen.stderr.read().decode()
        assert popen.wait(30) == 128 + 13
    assert "Traceback" not in log


def test_server_refuses_a_damaged_bundle(rig: Any, parts: Any, capsys: Any, tmp_path: Path) -> None:
    rig.server().stop()
    copy = tmp_path / "copy"
    shutil.copytree(parts.bundle.root, copy)
    path = copy / "cut-002" / "tail.tflite"
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    config = tmp_path / "server" / "server.toml"
    config.write_text(config.read_text().replace(str(parts.bundle.root), str(copy)))
    assert server_main(["run", "-c", str(config)]) == os.EX_DATAERR
    assert str(path) in one_line(capsys.readouterr().err, "cloud-server")
