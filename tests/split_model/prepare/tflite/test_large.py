"""Files of gigabytes: looked at without reading their weights, refused where a half would not fit the format."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from split_model.cli import main
from split_model.errors import BadModelError
from split_model.prepare.tflite.cuts import find_cuts
from split_model.prepare.tflite.reading import read_model
from tests.split_model.prepare.sides import slice_model

#: [in, out] of three dense layers; their weights are 0.8, 0.8 and 0.6 GB, and a hole in a sparse file.
LAYERS = ((10_000, 20_000), (20_000, 10_000), (10_000, 15_000))

MEASURED = """
import json, pathlib, sys
from split_model.cli import main
code = main(sys.argv[1:])
# Not getrusage: its peak is handed down from the process that started this one.
status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
print(json.dumps({"code": code, "peak": int(status["VmHWM"].split()[0]) * 1024}))
"""


@pytest.fixture(scope="module")
def large(builder, tmp_path_factory):
    """2.2 GB of weights behind the flatbuffer; on the disk some kilobytes."""
    build = builder()
    value = image = build.tensor([1, LAYERS[0][0]], name="image")
    start = 1 << 20
    for read, made in LAYERS:
        weights = build.tensor([made, read])
        buffer = type(build.model.buffers[0])()
        buffer.offset, buffer.size = start, 4 * read * made
        build.graph.tensors[weights].buffer = len(build.model.buffers)
        build.model.buffers.append(buffer)
        start += buffer.size
        value = build.op("FULLY_CONNECTED", [value, weights, -1], [1, made])
    path = tmp_path_factory.mktemp("large") / "large.tflite"
    with path.open("wb") as file:
        file.write(build.build([image], [value]))
        file.truncate(start)
    assert path.stat().st_blocks * 512 < 1 << 20
    return path


def test_inspecting_reads_no_weights(large):
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, "inspect", str(large), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    report, measured = map(json.loads, done.stdout.splitlines())
    assert measured["code"] == 0
    assert measured["peak"] < 200 << 20
    assert report["params"] == sum(read * made for read, made in LAYERS)
    assert [cut["index"] for cut in report["cuts"]] == [0, 1, 2]


def test_a_side_over_two_gigabytes_is_refused_with_what_to_do(large):
    model = read_model(large)
    first = find_cuts(model.graph).legal[0]
    with pytest.raises(BadModelError, match=r"one side of the cut is over 2 GiB.*quantise the model"):
        slice_model(model, first)


def test_a_buffer_that_claims_more_than_the_file_holds(large, tmp_path, capsys):
    short = tmp_path / "short.tflite"
    with large.open("rb") as file:
        short.write_bytes(file.read(1 << 16))
    assert main(["inspect", str(short)]) == 65
    assert "a buffer ends at byte" in capsys.readouterr().err
