"""The strict release between real programs: a codeword leaves, its epsilon is spent, an answer comes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edge_runtime.config import config
from edge_runtime.privacy.ledger import epsilon_units, read
from split_model.errors import ConfigError
from split_model.prepare.calibrate.allocators import TrialOptions
from split_model.prepare.calibrate.calibration import CalibrationOptions
from split_model.prepare.codebook.codebooks import CodebookWish
from split_model.prepare.pipeline import PrepareOptions, prepare

FOLDER = Path(__file__).resolve().parents[3] / "models" / "fashion"
FRAMES = 40
EPSILON = 8.0


@pytest.fixture(scope="module")
def fashion(tmp_path_factory):
    """A bundle of three cuts, two of them with codebooks, and pictures to send."""
    root = tmp_path_factory.mktemp("fashion")
    with np.load(FOLDER / "test.npz") as test:
        np.savez(root / "frames.npz", pictures=test["pictures"][:FRAMES], labels=test["labels"][:FRAMES])
    with np.load(FOLDER / "public.npz") as public:
        np.savez(root / "public.npz", pictures=public["pictures"][:700], labels=public["labels"][:700])
    options = PrepareOptions(
        model=FOLDER / "fashion_f32.tflite",
        output=root / "plain",
        cuts=(4, 7, 11),
        preprocess=FOLDER / "preprocess.json",
        labels=FOLDER / "labels.txt",
        calibration=root / "public.npz",
        calibration_options=CalibrationOptions(samples=8, weight_samples=1),
        trial_options=TrialOptions(samples=4, draws=1),
        codebooks=(CodebookWish(7, 16), CodebookWish(11, 300)),
    )
    plain = prepare(options, lambda *_: None)
    return plain, root / "frames.npz"


@pytest.fixture
def settings(fashion):
    bundle, frames = fashion
    return {
        "device_bundle": str(bundle.root),
        "device_state": "state",
        "source_path": str(frames),
        "source_repeat": 0,
        "source_interval_s": 0.02,
        "planner_split": 7,
        "planner_answer_within_s": 30.0,
        "planner_earliest_cut": 1,
        "release_mechanism": "codebook",
        "release_whole_input_epsilon": EPSILON,
        "privacy_whole_input_budget": 1000.0,
        "privacy_block_frames": 5,
    }


def spent(device):
    return read(device.config.parent / "state").total


def test_a_budget_of_a_thousand_lasts_and_answers_come_from_words(rig, fashion, settings):
    bundle, frames = fashion
    device = rig.device(rig.server(bundle=bundle), verbose=True, **settings)
    device.wait_more("offloaded", FRAMES)
    assert device.stop() == 0
    sent = [record for record in device.records() if record["outcome"] == "offloaded"]
    assert {record["payload_bytes"] for record in sent} == {1}
    names = (FOLDER / "labels.txt").read_text().splitlines()
    with np.load(frames) as data:
        right = [record["top"][0]["label"] == names[data["labels"][record["index"] % FRAMES]] for record in sent]
    assert np.mean(right) > 0.65
    total = spent(device)
    assert total.releases >= len(sent)
    assert (total.epsilon, total.unprotected) == (total.releases * epsilon_units(EPSILON), 0)
    said = device.log()
    assert "codebook of 16 codewords, 1 groups; per-value and whole-input epsilon 8 a frame" in said
    assert "a lookup on the device itself" in said
    assert "a whole frame is protected: whole-input epsilon 8 a frame, per-value epsilon 8 at most" in said
    assert "cut 4" not in said  # it has no codebook, so nothing is measured or leaves there


def test_what_the_budget_cannot_pay_for_is_answered_on_the_device(rig, fashion, settings):
    budget = {"privacy_whole_input_budget": 10 * EPSILON + 1}
    device = rig.device(rig.server(bundle=fashion[0]), **settings | budget)
    device.wait_more("offloaded", 10)
    device.wait_more("local", 5)
    assert device.stop() == 0
    assert device.count("offloaded") == 10
    assert spent(device).epsilon == 10 * epsilon_units(EPSILON)


def test_a_codebook_of_many_words_takes_two_bytes(rig, fashion, settings):
    changes = {"planner_split": 11, "release_codewords": 300, "release_whole_input_epsilon": 14.0}
    device = rig.device(rig.server(bundle=fashion[0]), **settings | changes)
    device.wait_more("offloaded", 5)
    assert device.stop() == 0
    assert {record["payload_bytes"] for record in device.records() if record["outcome"] == "offloaded"} == {2}


def test_the_benchmark_measures_and_sends_words(rig, fashion, settings, command):
    server = rig.server(bundle=fashion[0])
    path = rig.configure(server, **settings)
    server.allow("device", (path.parent / "device.pub").read_bytes().strip())
    done = command("edge_runtime", "bench", "-c", path, "--json", "--runs", "5")
    assert done.returncode == 0, done.stderr
    cuts = {cut["split"]: cut for cut in json.loads(done.stdout)["cuts"]}
    assert set(cuts) == {7, 11, 15}
    assert cuts[7]["payload_bytes"] == 1
    assert cuts[7]["whole_input_epsilon"] == cuts[7]["per_value_epsilon_max"] == EPSILON
    assert cuts[7]["tail_s"] > 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"release_whole_input_epsilon": None}, "needs release.whole_input_epsilon"),
        ({"release_epsilon": 8.0}, "release.epsilon is per value"),
        ({"release_mechanism": "noise"}, "release.whole_input_epsilon is of a frame as a whole"),
        ({"release_mechanism": "none"}, "release.whole_input_epsilon is of a frame"),
        ({"release_allocation": "rank"}, "release.allocation belongs to"),
        ({"release_preset": "cis"}, "release.preset = 'cis'"),
        ({"release_whole_input_epsilon": -1.0}, "release.whole_input_epsilon"),
        ({"release_codewords": 1}, "release.codewords"),
    ],
)
def test_the_two_units_cannot_be_taken_for_each_other(rig, settings, changes, said):
    with pytest.raises(ConfigError) as caught:
        config.load(rig.configure(**settings | changes))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"planner_split": 4}, r"the bundle offers \[7, 11\]"),
        ({"release_codewords": 64}, "no cut of the bundle has a codebook that fits"),
        ({"release_whole_input_epsilon": 65.0}, "no cut of the bundle has a codebook that fits"),
    ],
)
def test_a_codebook_that_is_not_there_is_told_before_anything_runs(rig, settings, changes, said, command):
    done = command("edge_runtime", "config", "check", "-c", rig.configure(**settings | changes))
    assert done.returncode == 78
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert re.search(said, done.stderr)


def always(tail, label):
    """The bytes of a tail of the fashion model whose every answer is ``label``."""
    model = schema.ModelT.InitFromPackedBuf(tail, 0)
    graph = model.subgraphs[0]
    bias = next(tensor for tensor in graph.tensors if tensor.name == b"logits/bias")
    values = np.frombuffer(bytes(model.buffers[bias.buffer].data), np.float32).copy()
    values[label] += 1e4
    model.buffers[bias.buffer].data = np.frombuffer(values.tobytes(), np.uint8)
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_noise_of_exactly_its_epsilon_is_answered_by_the_tail_trained_for_it(rig, fashion, settings, tmp_path):
    bundle, frames = fashion
    (tmp_path / "bag.tflite").write_bytes(always(bundle.path(bundle.cut(11).tail).read_bytes(), 8))
    (tmp_path / "tails.json").write_text(json.dumps([{"cut": 11, "epsilon": 64.0, "tail": "bag.tflite"}]))
    options = PrepareOptions(
        model=FOLDER / "fashion_f32.tflite",
        output=tmp_path / "bundle",
        cuts=(11,),
        preprocess=FOLDER / "preprocess.json",
        labels=FOLDER / "labels.txt",
        calibration=frames,
        calibration_options=CalibrationOptions(samples=8, weight_samples=1, tail_runs=1),
        trial_options=TrialOptions(samples=1, draws=1),
        noise_tails=tmp_path / "tails.json",
    )
    made = prepare(options, lambda *_: None)
    noise = settings | {
        "device_bundle": str(made.root),
        "planner_split": 11,
        "release_mechanism": "noise",
        "release_whole_input_epsilon": None,
        "privacy_whole_input_budget": "unlimited",
    }
    server = rig.server(bundle=made)

    def answers(name, epsilon):
        device = rig.device(server, name=name, **noise, release_epsilon=epsilon)
        device.wait_more("offloaded", 12)
        assert device.stop() == 0
        return {record["top"][0]["label"] for record in device.records() if record["outcome"] == "offloaded"}

    assert answers("trained", 64.0) == {"bag"}
    assert len(answers("other", 63.0)) > 3
