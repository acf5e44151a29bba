"""The picture of a model: drawn twice the same, in two formats, and refused with one line."""

from __future__ import annotations

import pytest

from split_model.cli import main


@pytest.fixture
def model(residual, tmp_path):
    path = tmp_path / "a$b.tflite"  # a formula, were it taken for one
    path.write_bytes(residual())
    return path


def test_the_picture_names_the_offered_cuts_and_is_the_same_each_time(model, tmp_path, capsys):
    for name in ("one.svg", "two.svg"):
        assert main(["inspect", str(model), "--plot", str(tmp_path / name)]) == 0
    assert "4 cuts; * offered by default" in capsys.readouterr().out
    drawn = (tmp_path / "one.svg").read_text()
    assert (tmp_path / "two.svg").read_text() == drawn
    for text in ("Pareto front", "offered by default", "raw kB across the cut", "MACs in the head"):
        assert f">{text}" in drawn


def test_png_and_json_go_together(model, tmp_path, capsys):
    assert main(["inspect", str(model), "--json", "--plot", str(tmp_path / "net.PNG")]) == 0
    assert capsys.readouterr().out.startswith('{"source"')
    assert (tmp_path / "net.PNG").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("name", "code", "message"), [("net.pdf", 64, "draws"), ("none/net.png", 73, "choose")])
def test_a_path_that_does_not_work(model, tmp_path, capsys, name, code, message):
    assert main(["inspect", str(model), "--plot", str(tmp_path / name)]) == code
    assert message in capsys.readouterr().err
