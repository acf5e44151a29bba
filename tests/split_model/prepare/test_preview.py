"""The command ``preview``: the picture that the model gets, what leaves, and what is answered."""

import os

import numpy as np
import pytest
from PIL import Image

from split_model.bundle import Bundle
from split_model.cli import main
from split_model.prepare.preview import preview


@pytest.fixture
def bundle(tmp_path, builder):
    """Answers how bright red, green and blue are; of channels first and blue first, so that both are undone."""
    build = builder()
    given = build.tensor([1, 3, 8, 8], name="image")
    flat = build.op("RESHAPE", [given, build.tensor([2], np.array([1, 192], np.int32), dtype="int32")], [1, 192])
    kernel = np.zeros((3, 192), np.float32)
    for row, start in enumerate((128, 64, 0)):
        kernel[row, start : start + 64] = 1 / 64
    none = build.tensor([3], np.zeros(3, np.float32))
    sums = build.op("FULLY_CONNECTED", [flat, build.tensor([3, 192], kernel), none], [1, 3])
    (tmp_path / "net.tflite").write_bytes(build.build([given], [sums]))
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for at in range(4):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / "pictures" / f"{at}.png")
    arguments = [tmp_path / "net.tflite", "-o", tmp_path / "b", "--labels", tmp_path / "labels.txt"]
    arguments += ["--mean", 0, "--std", 25, "--channels", "bgr", "--calibration", tmp_path / "pictures"]
    assert main(["prepare", *map(str, arguments)]) == 0
    return Bundle.open(tmp_path / "b")


def test_the_picture_is_shown_as_the_model_gets_it_with_its_answer(bundle, tmp_path):
    pixels = np.full((8, 8, 3), (10, 250, 30), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "green.png")
    found = preview(bundle, tmp_path / "green.png", epsilons=[1000.0, 0.1], entropy=os.urandom)
    np.testing.assert_array_equal(found.picture, pixels)
    assert found.answer == "green: 1.00"
    names = "epsilon 1000 a value", "epsilon 0.1 a value"
    assert {cell.release for cell in found.cells} == {"", *names}
    plainly = [cell for cell in found.cells if not cell.release]
    assert all(cell.answer == "green: 1.00" and cell.same == 1.0 for cell in plainly)
    little, much = ([cell for cell in found.cells if cell.release == name] for name in names)
    assert min(cell.same for cell in little) > max(cell.same for cell in much)
    for cell, same in zip(little, much, strict=True):  # the features of little noise are nearer to the plain ones
        reference = next(one for one in plainly if one.cut == cell.cut).features
        assert np.abs(cell.features - reference).mean() < np.abs(same.features - reference).mean()


def test_one_image_is_written(bundle, tmp_path, capsys):
    picture = tmp_path / "pictures" / "0.png"
    out = tmp_path / "out.png"
    assert main(["preview", str(bundle.root), str(picture), "--epsilon", "16,4", "-o", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    with Image.open(out) as image:
        assert image.format == "PNG"
        assert min(image.size) > 300


def test_a_bundle_without_pictures_or_calibration_says_so(tmp_path, builder, residual, capsys):
    (tmp_path / "net.tflite").write_bytes(residual())
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert main(["prepare", str(tmp_path / "net.tflite"), "-o", str(tmp_path / "b")]) == 0
    out = tmp_path / "out.png"
    assert main(["preview", str(tmp_path / "b"), str(tmp_path / "a.png"), "-o", str(out)]) == 65
    assert "declares no pre-processing" in capsys.readouterr().err


def test_codebooks_are_shown_with_the_answer_that_the_server_gives_to_a_codeword(builder, tmp_path):
    build = builder()
    given = build.tensor([1, 8, 8, 3], name="image")
    flat = build.op("RESHAPE", [given, build.tensor([2], np.array([1, 192], np.int32), dtype="int32")], [1, 192])
    kernel = np.tile(np.eye(3, dtype=np.float32), 64) / 64
    sums = build.op("FULLY_CONNECTED", [flat, build.tensor([3, 192], kernel), -1], [1, 3])
    (tmp_path / "net.tflite").write_bytes(build.build([given], [sums]))
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for at in range(24):
        pixels = rng.integers(0, 60, (8, 8, 3), np.uint8)
        pixels[..., at % 3] += 180
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{at:02}.png")
    pictures = str(tmp_path / "pictures")
    arguments = [str(tmp_path / "net.tflite"), "-o", str(tmp_path / "b"), "--labels", str(tmp_path / "labels.txt")]
    arguments += ["--mean", "0", "--std", "25", "--codebook-data", pictures, "--codebook", "0:4"]
    assert main(["prepare", *arguments]) == 0
    found = preview(
        Bundle.open(tmp_path / "b"), tmp_path / "pictures" / "01.png", epsilons=[16.0], entropy=os.urandom
    )
    # Without a calibration no noise is drawn.
    assert [cell.release for cell in found.cells] == [
        "", "4 codewords\nepsilon 8 a frame", "4 codewords\nepsilon 4 a frame",
    ]  # fmt: skip
    plainly, sure, unsure = found.cells
    assert plainly.answer.startswith("green")
    assert sure.answer.startswith("green")
    assert sure.same >= 0.9
    assert unsure.same >= 0.6
