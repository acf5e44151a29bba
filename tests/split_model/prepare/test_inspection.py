"""The report agrees with the graph, goes to JSON and back, and fits a terminal."""

from __future__ import annotations

import msgspec

from split_model.prepare.inspection import WIDTH, ModelReport, inspect_model, render
from split_model.prepare.tflite.reading import parse_model


def test_report(residual):
    report = inspect_model(parse_model(residual(half=True), source="net.tflite").graph)
    assert report.params == (3 * 2 + 3) + (3 * 9 * 3 + 3) + (2 * 3 + 2)
    assert report.macs == sum(op.macs for op in report.ops) == 16 * (6 + 81 + 6)
    assert [op.constant_only for op in report.ops].count(True) == 3
    assert [(cut.index, len(cut.tensors), cut.dominated) for cut in report.cuts] == [
        (0, 1, False),
        (2, 1, True),
        (4, 2, True),
        (5, 1, True),
    ]
    assert [cut.index for cut in report.cuts if cut.offered] == [0, 2, 5]
    assert report.cuts[2].raw_bytes == 2 * 4 * 4 * 3 * 4
    assert msgspec.json.decode(msgspec.json.encode(report), type=ModelReport) == report


def test_text_fits_a_terminal_and_prints_no_control_characters(builder):
    build = builder()
    image = build.tensor([1, 2, 2, 1], name="\x1b[31m" + "long " * 40)
    parts = [build.op("RELU", [image], [1, 2, 2, 1]) for _ in range(20)]
    joined = build.op("CONCATENATION", parts, [1, 2, 2, 20])
    text = render(inspect_model(parse_model(build.build([image], [joined])).graph))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert text.replace("\n", "").isprintable()
    assert "CONCATENATION" in text


def test_text_marks_what_is_offered_and_what_is_dominated(residual):
    lines = render(inspect_model(parse_model(residual()).graph)).splitlines()
    assert any(line.startswith("    0 *        128") for line in lines)
    assert any("    2 ·        384" in line and "float32 1x4x4x3 + float32 1x4x4x3" in line for line in lines)
