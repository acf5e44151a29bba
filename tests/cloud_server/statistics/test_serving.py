"""Statistics of a real server: codewords of twenty devices over the wire, and the command that shows them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cloud_server.config import load_layers
from split_model.prepare.calibrate.allocators import TrialOptions
from split_model.prepare.calibrate.calibration import CalibrationOptions
from split_model.prepare.codebook.codebooks import CodebookWish
from split_model.prepare.pipeline import PrepareOptions, prepare
from split_model.privacy import CodebookPlan, CodebookSpec
from split_model.privacy.randomised_response import RandomisedResponse
from split_model.protocol import messages as wire
from split_model.protocol.device import Answered

FASHION = Path(__file__).resolve().parents[3] / "models" / "fashion"
CUT, CODEWORDS, EPSILON = 11, 10, 3.0
DEVICES, FRAMES = 20, 100


class Fashion:
    """What `conftest.start_server` needs of a model."""

    def __init__(self, bundle):
        self.bundle = bundle


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    root = tmp_path_factory.mktemp("fashion")
    with np.load(FASHION / "public.npz") as public:
        np.savez(root / "public.npz", pictures=public["pictures"][:200], labels=public["labels"][:200])
    options = PrepareOptions(model=FASHION / "fashion_f32.tflite", output=root / "bundle", cuts=(CUT,))
    options = replace(
        options,
        preprocess=FASHION / "preprocess.json",
        labels=FASHION / "labels.txt",
        calibration=root / "public.npz",
        calibration_options=CalibrationOptions(samples=4, weight_samples=1, tail_runs=1),
        trial_options=TrialOptions(samples=2, draws=1),
        codebooks=(CodebookWish(CUT, CODEWORDS),),
    )
    return Fashion(prepare(options, lambda *_: None))


def command(server, *words):
    return subprocess.run(
        [sys.executable, "-m", "cloud_server", "statistics", "-c", str(server.config), *words],
        capture_output=True,
        text=True,
        check=False,
    )


def test_two_thousand_frames_of_twenty_devices(start, model, connect):
    server = start(**{"statistics_path": "statistics.sqlite", "statistics_labels.entrance": ["board-1?"]})
    early = command(server)
    assert (early.returncode, "no codebook releases" in early.stdout) == (0, True)

    plan = CodebookPlan.make(CodebookSpec(epsilon=EPSILON, codewords=CODEWORDS), model.bundle.cut(CUT))
    release = wire.Codebook(spec=plan.spec, digest=plan.digest)
    sampler = RandomisedResponse(CODEWORDS, EPSILON, entropy=os.urandom)
    rng = np.random.default_rng(7)
    true = rng.choice(CODEWORDS, p=rng.dirichlet(np.ones(CODEWORDS)), size=(DEVICES, FRAMES))
    for number in range(DEVICES):
        device = connect(server, server.new_keys(f"board-{number}"), boot_id=f"boot-{number}").greet()
        for frame, codeword in enumerate(true[number].tolist()):
            payload = np.array([sampler(codeword)], np.uint8)
            request = wire.Request(
                request_id=frame,
                boot_id=f"boot-{number}",
                version=1,
                bundle=model.bundle.identity,
                cut=CUT,
                release=release,
                total_bytes=1,
                due_in_s=60.0,
            )
            assert isinstance(device.ask(request, payload), Answered)
        device.close()
    status = server.wait(lambda status: status.statistics.counted == DEVICES * FRAMES)
    assert (status.statistics.lost, status.statistics.error) == (0, "")

    (row,) = json.loads(command(server, "--json").stdout)
    assert row["frames"] == DEVICES * FRAMES
    truth = np.bincount(true.ravel(), minlength=CODEWORDS)
    inside = [word["low"] <= truth[word["codeword"]] <= word["high"] for word in row["distribution"]]
    assert sum(inside) >= CODEWORDS - 3  # of ten intervals of 95 %, four miss once in a thousand runs
    book = model.bundle.cut(CUT).codebooks[0]
    labels = (FASHION / "labels.txt").read_text().split("\n")
    assert {word["codeword"]: word["decoded_as"] for word in row["distribution"]} == {
        codeword: labels[index] for codeword, index in enumerate(book.decoded)
    }
    assert sum(one["frames"] for one in row["classes"]) == pytest.approx(DEVICES * FRAMES)
    measured = sum(one["right_samples"] + sum(one["confused"].values()) for one in row["classes"])
    assert measured == book.samples
    right = sum(one["right_samples"] for one in row["classes"])
    assert right / measured == pytest.approx(book.lookup, abs=1e-6)

    (labelled,) = json.loads(command(server, "--json", "--device", "entrance").stdout)
    assert labelled["frames"] == 10 * FRAMES
    assert len(json.loads(command(server, "--json", "--each", "--last", "1h").stdout)) == DEVICES
    shown = command(server).stdout
    assert "decoded as" in shown
    assert max(map(len, shown.splitlines())) <= 80
    unknown = command(server, "--device", "attic")
    assert (unknown.returncode, "no device of that name" in unknown.stderr) == (os.EX_USAGE, True)


def test_a_request_that_is_sent_again_counts_once(start, model, connect):
    server = start(statistics_path="statistics.sqlite")
    plan = CodebookPlan.make(CodebookSpec(epsilon=EPSILON, codewords=CODEWORDS), model.bundle.cut(CUT))
    keys = server.new_keys("porch")
    for _ in range(2):  # the connection is lost with the answer, and the device sends the same bytes again
        device = connect(server, keys).greet()
        request = wire.Request(
            request_id=1,
            boot_id="boot",
            version=1,
            bundle=model.bundle.identity,
            cut=CUT,
            release=wire.Codebook(spec=plan.spec, digest=plan.digest),
            total_bytes=1,
            due_in_s=60.0,
        )
        assert isinstance(device.ask(request, np.array([3], np.uint8)), Answered)
        device.close()
    status = server.wait(lambda status: status.statistics.copies == 1)
    assert status.statistics.counted <= 1
    assert server.stop() == 0  # what was counted since the last store is stored now
    (row,) = json.loads(command(server, "--json").stdout)
    assert row["frames"] == 1


def test_the_command_says_what_is_missing(tmp_path, model, config_file):
    config = config_file(tmp_path, model)
    words = [sys.executable, "-m", "cloud_server", "statistics", "-c", str(config)]
    off = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (off.returncode, "statistics.path is not set" in off.stderr) == (os.EX_CONFIG, True)
    config = config_file(tmp_path, model, statistics_path="none.sqlite")
    none = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (none.returncode, "no statistics yet" in none.stderr) == (os.EX_NOINPUT, True)
    for wrong in (["--last", "soon"], ["--since", "yesterday"], ["--last", "1h", "--since", "2026-01-01"]):
        found = subprocess.run([*words, *wrong], capture_output=True, text=True, check=False)
        assert found.returncode == os.EX_USAGE, found.stderr
    relative = load_layers(config)[0].statistics.path
    assert relative == tmp_path / "none.sqlite"


def test_a_file_that_is_no_database_is_refused_at_the_start(tmp_path, model, config_file):
    config = config_file(tmp_path, model, statistics_path="other")
    (tmp_path / "other").write_bytes(b"no database" * 1000)
    subprocess.run([sys.executable, "-m", "cloud_server", "keys", "make", "-c", str(config)], check=True)
    began_s = time.monotonic()
    words = [sys.executable, "-m", "cloud_server", "run", "-c", str(config)]
    refused = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert (refused.returncode, "statistics.path" in refused.stderr) == (os.EX_CANTCREAT, True)
    assert time.monotonic() - began_s < 60
