"""A log that is damaged is refused with the line to look at; what is optional may be absent."""

from __future__ import annotations

import json
import re

import pytest

from split_model.errors import BadInputError, MissingInputError
from split_model.report.log import read_log

RUN = {"kind": "run", "title": "t"}
POLICY = {"kind": "policy", "name": "adaptive", "role": "adaptive"}
FRAME = {"kind": "frame", "policy": "adaptive", "at_s": 1, "split": 3, "outcome": "local", "latency_s": 0.5}


def write(folder, *records):
    path = folder / "RUN.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return path


def test_bare_log_is_enough_and_summary_is_counted(tmp_path):
    log = read_log(
        write(tmp_path, RUN, "", POLICY, FRAME, FRAME | {"at_s": 0, "latency_s": 0.1}, {"kind": "later"})
    )
    assert [frame.at_s for frame in log.frames["adaptive"]] == [0, 1]
    assert log.summaries["adaptive"]["latency_p50_s"] == 0.1
    assert log.unknown == 1


def test_log_of_an_earlier_version_is_read(tmp_path):
    old = {"how" if key == "outcome" else key: value for key, value in FRAME.items()}
    assert [frame.outcome for frame in read_log(write(tmp_path, RUN, POLICY, old)).frames["adaptive"]] == ["local"]


def test_told_summary_is_taken(tmp_path):
    told = {"kind": "summary", "policy": "adaptive", "frames": 1, "latency_mean_s": 0.123}
    assert read_log(write(tmp_path, RUN, POLICY, FRAME, told)).summaries["adaptive"]["latency_mean_s"] == 0.123


def test_best_fixed_has_the_lowest_mean(tmp_path):
    records = [RUN]
    for name, latency_s in (("fixed cut 1", 0.4), ("fixed cut 2", 0.2), ("fixed cut 3", 0.3)):
        records += [POLICY | {"name": name, "role": "fixed"}, FRAME | {"policy": name, "latency_s": latency_s}]
    assert [p.name for p in read_log(write(tmp_path, *records)).of_role("fixed")] == [
        "fixed cut 2",
        "fixed cut 3",
        "fixed cut 1",
    ]


@pytest.mark.parametrize(
    ("records", "says"),
    [
        ([RUN, POLICY, "{", FRAME], "line 3: not JSON"),
        ([RUN, POLICY, '{"kind": "frame", "latency_s": NaN}'], "line 3"),
        ([RUN, POLICY, "[" * 100_000], "line 3"),
        ([RUN, POLICY, [1]], "line 3: has no 'kind'"),
        ([RUN, POLICY, FRAME | {"latency_s": -1}], "line 3.*latency_s"),
        ([RUN, POLICY, FRAME | {"outcome": "lost"}], "line 3.*outcome"),
        ([RUN, POLICY, {k: v for k, v in FRAME.items() if k != "split"}], "line 3.*split"),
        ([RUN, POLICY, FRAME | {"policy": "other"}], "line 3.*other"),
        ([RUN, POLICY, FRAME, {"kind": "summary", "policy": "adaptive", "frames": 2}], "line 4: counts 2"),
        ([RUN, POLICY, FRAME, {"kind": "summary", "policy": "x", "frames": 2}], "line 4.*'x'"),
        ([RUN, {"kind": "policy", "name": "a", "role": "best"}], "line 2.*role"),
        ([POLICY, FRAME], "0 lines of kind 'run'"),
        ([RUN, RUN, POLICY, FRAME], "2 lines of kind 'run'"),
        ([RUN, POLICY], "no frames"),
    ],
)
def test_faults_are_named_in_one_line(tmp_path, records, says):
    with pytest.raises(BadInputError) as caught:
        read_log(write(tmp_path, *records))
    assert re.search(says, str(caught.value))
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(MissingInputError, match=r"RUN\.jsonl"):
        read_log(tmp_path / "RUN.jsonl")
    with pytest.raises(BadInputError):
        read_log(tmp_path)
