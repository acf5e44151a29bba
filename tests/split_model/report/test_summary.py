"""The figures that are claimed are counted here, so their definitions are held fast."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from split_model.report.summary import percentile, summarise


def frame(**fields):
    return {"outcome": "offloaded", "latency_s": 0.2, "payload_bytes": 100, "answer": [{"label": "cat"}]} | fields


@given(values=st.lists(st.floats(0, 100), min_size=1), share=st.sampled_from([0.01, 0.5, 0.95, 1.0]))
def test_percentile_is_the_smallest_value_covering_its_share(values, share):
    got = percentile(values, share)
    assert got in values
    assert sum(value <= got for value in values) >= Fraction(share) * len(values) * Fraction(999_999, 1_000_000)
    smaller = [value for value in values if value < got]
    assert len(smaller) < share * len(values)


def test_nearest_rank_by_hand():
    assert percentile([0.4, 0.1, 0.3, 0.2], 0.5) == 0.2
    assert percentile([float(i) for i in range(1, 21)], 0.95) == 19.0
    for share in (0.0, 1.1):
        with pytest.raises(ValueError, match="share"):
            percentile([1.0], share)


def test_summary_by_hand():
    summary = summarise(
        [
            frame(truth="cat", unprotected_top1="cat"),
            frame(truth="dog", unprotected_top1="cat", outcome="local", payload_bytes=0, latency_s=0.4),
            frame(truth="cat", unprotected_top1=None, outcome="fallback", latency_s=0.6),
            frame(truth="cat", unprotected_top1="cat", outcome="failed", answer=[], latency_s=9.0),
        ]
    )
    assert summary["frames"] == 4
    assert math.isclose(summary["latency_mean_s"], 0.4)  # the failed frame has no latency of an answer
    assert summary["latency_p50_s"] == 0.4
    assert summary["latency_p95_s"] == 0.6
    assert summary["bytes_per_frame"] == 75.0
    assert summary["accuracy"] == 0.5  # but it counts as wrong
    assert math.isclose(summary["agreement"], 2 / 3)
    assert summary["counts"] == {"offloaded": 1, "local": 1, "fallback": 1, "failed": 1}


def test_what_cannot_be_counted_is_none_not_zero():
    summary = summarise([frame(outcome="failed", answer=[])])
    assert (
        summary["latency_mean_s"] is summary["latency_p95_s"] is summary["accuracy"] is summary["agreement"] is None
    )
    with pytest.raises(ValueError, match="no frames"):
        summarise([])
