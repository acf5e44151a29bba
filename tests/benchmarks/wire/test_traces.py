"""A trace must be read as it stands in the file, and integrate exactly, or every figure drawn on it is off."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.wire.traces import Trace, constant, load_trace
from split_model.errors import BadInputError, MissingInputError

RECORDED = Path(__file__).resolve().parents[3] / "benchmarks" / "traces"


def write(folder: Path, *rows: str) -> Path:
    path = folder / "t.csv"
    path.write_text("\n".join(("time_s,uplink_mbit_s", *rows)) + "\n")
    return path


@pytest.mark.parametrize(
    ("name", "seconds", "mean"),
    [("verizon-lte", 140, 5.92), ("tmobile-lte", 140, 13.27), ("att-lte-driving-2016", 120, 1.90)],
)
def test_recorded_traces_have_the_means_their_readme_states(name, seconds, mean):
    trace = load_trace(RECORDED / f"{name}.csv")
    assert trace.duration_s == pytest.approx(seconds, abs=1)
    assert trace.bits_between(0, trace.duration_s) / trace.duration_s / 1e6 == pytest.approx(mean, rel=0.01)


def test_steps_loop_and_start(tmp_path):
    path = write(tmp_path, "10.0,1", "10.5,0", "11.0,3")
    assert [load_trace(path).mbit_s_at(t) for t in (-1, 0, 0.49, 0.5, 1.2, 1.5, 2.1)] == [1, 1, 1, 0, 3, 1, 0]
    assert [load_trace(path, start_s=0.6).mbit_s_at(t) for t in (0, 0.5, 1)] == [0, 3, 1]
    assert load_trace(path, loop=False).mbit_s_at(99) == 3


def test_transmission_waits_through_a_blackout():
    trace = Trace(edges_s=(0.0, 1.0, 3.0, 4.0), mbit_s=(1.0, 0.0, 2.0))
    assert trace.finish_s(0.5, 1e6) == pytest.approx(3.25)  # half before, half after, at twice the rate
    assert trace.finish_s(1.5, 0.1e6) == pytest.approx(3.05)
    assert trace.finish_s(3.5, 1e6) == pytest.approx(4.0)  # through as the round ends
    assert trace.finish_s(3.5, 1.5e6) == pytest.approx(4.5)  # and into the next one


def test_a_dead_link_never_finishes():
    assert math.isinf(Trace(edges_s=(0.0, 1.0), mbit_s=(0.0,)).finish_s(0.0, 1))
    assert math.isinf(Trace(edges_s=(0.0, 1.0, 2.0), mbit_s=(1.0, 0.0), loop=False).finish_s(0.5, 1e6))
    assert constant(2).finish_s(1.0, 1e6) == pytest.approx(1.5)


@given(
    rates=st.lists(st.sampled_from([0.0, 0.1, 1.0, 12.312]), min_size=1, max_size=6).filter(any),
    loop=st.booleans(),
    from_s=st.floats(-3, 50),
    start_s=st.floats(0, 4),
    bits=st.floats(1, 1e8),
)
def test_finishing_time_is_the_inverse_of_capacity(rates, loop, from_s, start_s, bits):
    trace = Trace(tuple(i / 2 for i in range(len(rates) + 1)), tuple(rates), loop=loop, start_s=start_s)
    finish_s = trace.finish_s(from_s, bits)
    if math.isinf(finish_s):
        assert trace.bits_between(from_s, 1e6) < bits
    else:
        assert trace.bits_between(from_s, finish_s) == pytest.approx(bits, rel=1e-6, abs=0.1)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["0,1", "0.5,x"], "line 3"),
        (["0,1", "0.5"], "line 3"),
        (["0,1", "0,1"], "line 3"),
        (["0,-1"], "line 2"),
        (["0,nan"], "line 2"),
        (["0,0", "0.5,0"], "above zero"),
        ([], "above zero"),
    ],
)
def test_bad_rows_are_named_in_one_line(tmp_path, rows, says):
    with pytest.raises(BadInputError, match=says) as caught:
        load_trace(write(tmp_path, *rows))
    assert "\n" not in str(caught.value)


def test_not_a_trace_at_all(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "y.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BadInputError):
        load_trace(tmp_path / "x.csv")
    with pytest.raises(BadInputError, match="header"):
        load_trace(tmp_path / "y.csv")
    with pytest.raises(MissingInputError, match=r"none\.csv"):
        load_trace(tmp_path / "none.csv")
