"""Codebooks and noise-aware tails in `prepare`: learned from real pictures, measured on others, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from split_model import cli
from split_model.bundle import Bundle
from split_model.errors import BadBundleError, BadInputError, MissingInputError, UsageError
from split_model.features.data import open_data
from split_model.interpreter import open_interpreter
from split_model.prepare.calibrate.augmentation import AugmentedPictures
from split_model.prepare.calibrate.calibration import CalibrationOptions
from split_model.prepare.codebook.codebooks import CodebookWish, learn_codebook, lines, read_cut
from split_model.prepare.evaluate.measure import evaluate
from split_model.prepare.noise_tails import add_noise_tails
from split_model.prepare.pipeline import PrepareOptions, prepare
from split_model.privacy.codebook_file import read_decoder, read_encoder

FOLDER = Path(__file__).resolve().parents[4] / "models" / "fashion"


def options(output, model="fashion_f32.tflite", **changes):
    usual = {
        "model": FOLDER / model,
        "output": output,
        "cuts": (7,),
        "preprocess": FOLDER / "preprocess.json",
        "labels": FOLDER / "labels.txt",
        "codebook_data": FOLDER / "public.npz",
    }
    return PrepareOptions(**(usual | changes))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    root = tmp_path_factory.mktemp("fashion") / "bundle"
    wishes = (CodebookWish(7, 16), CodebookWish(7, 8, groups=2))
    calibration = CalibrationOptions(samples=24, weight_samples=1)
    return prepare(
        options(root, codebooks=wishes, calibration=FOLDER / "public.npz", calibration_options=calibration),
        lambda *_: None,
    )


@pytest.fixture(scope="module")
def judged(bundle, tmp_path_factory):
    """The bundle on 300 test pictures."""
    path = tmp_path_factory.mktemp("data") / "test.npz"
    with np.load(FOLDER / "test.npz") as test:
        np.savez(path, pictures=test["pictures"][:300], labels=test["labels"][:300])
    entropy = np.random.default_rng(0).bytes
    return evaluate(bundle, path, entropy=entropy, epsilons=[], whole_input_epsilons=[3.0, 16.0, 100.0], draws=1)


def test_sixteen_words_learned_from_a_thousand_pictures_name_most_others_rightly(bundle, judged):
    one, several = bundle.cut(7).codebooks
    assert (one.codewords, one.groups, one.truth, one.samples) == (16, 1, "labels", 100)
    lookup = next(row for row in judged.rows if row.mechanism == "lookup" and row.codebook.groups == 1)
    assert lookup.accuracy.value > 0.8
    assert abs(lookup.accuracy.value - one.lookup) < 0.12  # what `prepare` printed is what it is on other pictures
    assert one.chance == pytest.approx(0.1, abs=0.03)
    assert several.chance < several.lookup


def test_what_arrives_is_the_worse_the_less_epsilon_and_both_claims_are_there(judged):
    through = {
        row.codebook.epsilon: row for row in judged.rows if row.mechanism == "codebook" and row.codebook.groups == 1
    }
    assert set(through) == {3.0, 16.0}  # one group takes 64 at most
    lookup = next(row for row in judged.rows if row.mechanism == "lookup" and row.codebook.groups == 1)
    assert through[16.0].accuracy.value == pytest.approx(lookup.accuracy.value, abs=0.02)
    keep = np.exp(3) / (np.exp(3) + 15)
    expected = keep * lookup.accuracy.value + (1 - keep) * 0.05
    assert through[3.0].accuracy.value == pytest.approx(expected, abs=0.08)
    assert all(row.whole_input_epsilon == row.per_value_epsilon_max == epsilon for epsilon, row in through.items())
    assert all(row.payload_bytes == 1 for row in through.values())
    assert lookup.whole_input_epsilon is None


def test_an_evaluation_of_codebooks_is_kept_and_found_again(bundle, judged):
    from split_model.bundle import evaluation

    row = next(row for row in judged.rows if row.mechanism == "codebook")
    assert judged.find(7, row.codebook) is row
    kept = evaluation.store(bundle, judged)
    assert evaluation.load(bundle).rows == kept.rows
    evaluation.path_of(bundle).unlink()


def test_a_word_means_features_that_the_tail_answers_as_the_words_samples(bundle):
    book = bundle.cut(7).codebooks[0]
    decoder = read_decoder(bundle.path(book.file), book, bundle.cut(7).tensors)
    encoder = read_encoder(bundle.path(book.file), book, bundle.cut(7).tensors)
    tail = open_interpreter(bundle.path(bundle.cut(7).tail))
    answers = {int(tail.run(decoder([codeword]))[0].argmax()) for codeword in range(16)}
    assert answers == set(range(10))
    assert all(0 <= encoder(decoder([codeword]))[0] < 16 for codeword in range(16))


def test_the_same_pictures_give_the_same_bundle(bundle, tmp_path):
    data = open_data(FOLDER / "public.npz", bundle.manifest.inputs, bundle.manifest.preprocess)
    wish = CodebookWish(7, 8, groups=2)
    again = learn_codebook(read_cut(bundle.root, bundle.manifest, wish, data), wish)
    assert again == bundle.cut(7).codebooks[1]
    Bundle.open(bundle.root)


def test_the_printed_line_has_the_lookup_beside_the_expected(bundle):
    first = lines(bundle.manifest.cuts)[0]
    assert "cut 7: codebook of 16 codewords" in first
    assert f"{bundle.cut(7).codebooks[0].lookup:.3f} right by the labels (100 held-out samples)" in first
    assert "whole-input epsilon" in first


@pytest.mark.parametrize(
    ("wish", "changes", "says"),
    [
        (CodebookWish(99, 16), {}, "cut 99 is not possible"),
        (CodebookWish(7, 16), {"cuts": (14,)}, "--codebook: cut 7 is not among those of --cuts"),
        (CodebookWish(7, 16), {"without": (7,), "cuts": 8}, "--codebook: cut 7 is left out by --without"),
        (CodebookWish(7, 600), {}, "1000 samples are too few to learn 600 codewords from; give at least 1200"),
        (CodebookWish(7, 16, groups=255), {}, "group"),
        (CodebookWish(7, 16), {"codebook_data": Path("/nowhere")}, "/nowhere"),
    ],
)
def test_a_codebook_that_cannot_be_is_told_before_anything_is_calibrated(tmp_path, wish, changes, says):
    steps = []
    chosen = options(tmp_path / "bundle", codebooks=(wish,), calibration=FOLDER / "public.npz", **changes)
    with pytest.raises((UsageError, BadInputError, MissingInputError), match=says):
        prepare(chosen, lambda what, *_: steps.append(what))
    assert "calibrating" not in steps


def test_the_example_of_the_documentation_works_as_it_is_typed(tmp_path, monkeypatch):
    text = (FOLDER.parents[1] / "docs" / "privacy.md").read_text()
    block = next(block for block in text.split("```") if "--codebook 7:16 --codebook 7:32" in block)
    words = block.replace("\\\n", " ").split()
    words[words.index("-o") + 1] = str(tmp_path / "strict")
    monkeypatch.chdir(FOLDER.parents[1])
    assert words[0] == "split-model"
    assert cli.main(words[1:]) == 0
    assert [book.codewords for book in Bundle.open(tmp_path / "strict").cut(7).codebooks] == [16, 32]


def test_quantised_models_several_live_tensors_and_the_model_as_its_own_teacher(tmp_path):
    with np.load(FOLDER / "public.npz") as public:
        np.savez(tmp_path / "unlabelled.npz", pictures=public["pictures"][:200])
    wish = CodebookWish(6, 12)  # inside a residual step
    made = prepare(
        options(
            tmp_path / "bundle", "fashion_int8.tflite", cuts=(6,), codebooks=(wish,),
            codebook_data=tmp_path / "unlabelled.npz",
        ),
        lambda *_: None,
    )  # fmt: skip
    (book,) = made.cut(6).codebooks
    assert len(made.cut(6).tensors) == 2
    assert made.cut(6).tensors[0].dtype == "int8"
    assert book.truth == "model"
    assert book.lookup > 0.5


def test_outputs_that_are_no_classes_are_judged_by_their_variance(tmp_path):
    with np.load(FOLDER / "public.npz") as public:
        np.savez(tmp_path / "unlabelled.npz", pictures=public["pictures"][:300])
    made = prepare(
        options(
            tmp_path / "bundle", labels=None, codebooks=(CodebookWish(7, 16),),
            codebook_data=tmp_path / "unlabelled.npz",
        ),
        lambda *_: None,
    )  # fmt: skip
    (book,) = made.cut(7).codebooks
    assert book.truth == "variance"
    assert 0.3 < book.lookup <= 1.0
    assert book.chance == 0.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("7", "CUT:CODEWORDS"),
        ("7:x", "CUT:CODEWORDS"),
        ("7:8:2:1", "CUT:CODEWORDS"),
        ("7:1", "2 to"),
        ("7:8:0", "1 to"),
    ],
)
def test_a_wish_that_cannot_be_read_says_how_to_write_it(text, said):
    with pytest.raises(UsageError, match=said):
        CodebookWish.parse(text)


@pytest.mark.parametrize(
    ("wish", "error", "said"),
    [
        (CodebookWish(9, 16), UsageError, "cut 9 is not among those of --cuts"),
        (CodebookWish(7, 600), BadInputError, "too few"),
        (CodebookWish(7, 4, 65), BadInputError, "1 to 64"),
    ],
)
def test_what_cannot_be_learned_is_refused_and_no_bundle_is_left(tmp_path, wish, error, said):
    with pytest.raises(error, match=said):
        prepare(options(tmp_path / "bundle", codebooks=(wish,)), lambda *_: None)
    assert not (tmp_path / "bundle").exists()


def test_a_codebook_needs_data(tmp_path):
    with pytest.raises(UsageError, match="--codebook-data"):
        prepare(options(tmp_path / "bundle", codebooks=(CodebookWish(7, 8),), codebook_data=None), lambda *_: None)


def test_a_file_of_the_bundle_that_was_changed_is_found(bundle, tmp_path):
    import shutil

    root = shutil.copytree(bundle.root, tmp_path / "bundle")
    path = root / bundle.cut(7).codebooks[0].file.path
    raw = bytearray(path.read_bytes())
    raw[2000] ^= 1
    path.write_bytes(raw)
    with pytest.raises(BadBundleError, match="SHA-256"):
        Bundle.open(root)


def entries(tmp_path, bundle, *lines):
    tail = bundle.path(bundle.cut(7).tail).read_bytes()
    (tmp_path / "tail.tflite").write_bytes(tail)
    (tmp_path / "whole.tflite").write_bytes((FOLDER / "fashion_f32.tflite").read_bytes())
    path = tmp_path / "tails.json"
    path.write_text(json.dumps([dict(zip(("cut", "epsilon", "tail"), line, strict=True)) for line in lines]))
    return path


def test_noise_aware_tails_are_taken_in_beside_the_plain_one(bundle, tmp_path):
    listed = entries(tmp_path, bundle, (7, 2.0, "tail.tflite"), (7, 1.0, "tail.tflite"))
    made = prepare(options(tmp_path / "bundle", noise_tails=listed), lambda *_: None)
    assert [noisy.epsilon for noisy in made.cut(7).noise_tails] == [2.0, 1.0]
    Bundle.open(made.root)
    assert cli.main(["verify", str(made.root)]) == 0


@pytest.mark.parametrize(
    ("lines", "error", "said"),
    [
        ([(9, 2.0, "tail.tflite")], UsageError, "cut 9"),
        ([(7, 2.0, "whole.tflite")], BadInputError, "not those of a tail"),
        ([(7, 0.0, "tail.tflite")], BadInputError, "epsilon 0"),
        ([(7, 2.0, "tail.tflite")] * 2, BadInputError, "is there twice"),
    ],
)
def test_a_tail_that_does_not_fit_is_refused(bundle, tmp_path, lines, error, said):
    (tmp_path / "cut-007").mkdir()
    with pytest.raises(error, match=said):
        add_noise_tails(tmp_path, bundle.manifest, entries(tmp_path, bundle, *lines))


def test_few_pictures_are_eked_out_with_crops_and_none_of_a_held_out_picture_teaches(tmp_path):
    folder = tmp_path / "pictures"
    with np.load(FOLDER / "public.npz") as public:
        for at in range(30):
            (folder / str(public["labels"][at])).mkdir(parents=True, exist_ok=True)
            Image.fromarray(public["pictures"][at]).save(folder / str(public["labels"][at]) / f"{at}.png")
    wishes = (CodebookWish(11, 10),)
    made = prepare(
        options(tmp_path / "bundle", cuts=(11,), codebooks=wishes, codebook_data=folder), lambda *_: None
    )
    (book,) = made.cut(11).codebooks
    assert (book.samples, book.truth) == (3 * 16, "labels")
    model = open_interpreter(FOLDER / "fashion_f32.tflite")
    views = AugmentedPictures(open_data(folder, model.inputs, made.manifest.preprocess), least=100)
    samples = list(views)
    assert len(samples) == len(views) == 120
    assert len({sample.name for sample in samples}) == 30
    assert all((one.tensors[0] == other.tensors[0]).all() for one, other in zip(samples, views, strict=True))
