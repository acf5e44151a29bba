"""The pictures of a model and of an evaluation: the same twice, in two formats, and refused with one line."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from split_model.bundle.evaluation import DataRecord, Evaluation, Mean, Row, Share
from split_model.cli import main
from split_model.prepare.evaluate.plot import plot_evaluation
from split_model.privacy import CodebookSpec, NoiseSpec


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


def test_the_two_units_of_an_evaluation_never_share_an_axis(tmp_path):
    share = Share(value=0.9, low=0.8, high=0.95, samples=40)
    mean = Mean(value=0.1, low=0.05, high=0.2, samples=40)

    def row(mechanism, **fields):
        return Row(cut=7, mechanism=mechanism, tensors=("x",), payload_bytes=8, draws=3, agreement=share,
                   accuracy=None, output_error=mean, **({"spec": None} | fields))  # fmt: skip

    rows = (
        row("clip"),
        row("noise", spec=NoiseSpec(epsilon=8.0)),
        row("lookup", codebook=CodebookSpec(epsilon=64.0, codewords=16)),
        row("codebook", codebook=CodebookSpec(epsilon=6.0, codewords=16)),
    )
    data = DataRecord(name="d", sha256="d", samples=40, labelled=0)
    evaluation = Evaluation(format=1, bundle="b", data=data, unprotected_accuracy=None, rows=rows)
    plot_evaluation(evaluation, tmp_path / "both.svg", title="model")
    text = (tmp_path / "both.svg").read_text()
    for said in (
        "cut 7",
        "cut 7, codebook",
        "mean per-value epsilon",
        "whole-input epsilon",
        "16 codewords",
        "clip only",
    ):
        assert f">{said}<" in text
    for only in (rows[:1], rows[3:]):
        plot_evaluation(replace(evaluation, rows=only), tmp_path / "one.png", title="model")
        assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
