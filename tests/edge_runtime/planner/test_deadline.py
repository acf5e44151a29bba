"""When a frame is finished here: late enough to be of use, early enough to be in time."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from edge_runtime.planner.deadline import InFlight, is_stalled, local_start_s

seconds = st.floats(0.001, 3.0)
requests = st.builds(
    InFlight,
    submitted_s=st.floats(0.0, 10.0),
    expected_s=seconds,
    total_bytes=st.integers(2000, 200_000),
    acked_bytes=st.just(0) | st.integers(0, 1000),
    transfer_s=seconds,
    round_trip_s=st.floats(0.0, 0.3),
)


@given(requests, st.floats(0.0, 20.0), seconds)
def test_a_frame_that_can_be_in_time_is(request: InFlight, answer_by_s: float, local_p95_s: float) -> None:
    start_s = local_start_s(request, answer_by_s=answer_by_s, local_p95_s=local_p95_s)
    if answer_by_s - local_p95_s > request.submitted_s:
        assert start_s + local_p95_s <= answer_by_s + 1e-9
    else:  # too late already: what was released is waited for as long as it should take
        assert start_s > request.submitted_s + request.expected_s


@given(requests, st.floats(0.0, 20.0), seconds, seconds)
def test_more_time_never_means_an_earlier_local_run(
    request: InFlight, answer_by_s: float, more_s: float, local_p95_s: float
) -> None:
    assume(answer_by_s - local_p95_s > request.submitted_s)
    start_s, later_s = (
        local_start_s(request, answer_by_s=by_s, local_p95_s=local_p95_s)
        for by_s in (answer_by_s, answer_by_s + more_s)
    )
    assert later_s >= start_s


@given(requests, st.floats(0.0, 5.0), st.floats(0.0, 5.0), seconds)
def test_what_is_stalled_stays_so_until_something_comes(
    request: InFlight, after_s: float, later_s: float, local_s: float
) -> None:
    now_s = request.submitted_s + after_s
    if is_stalled(request, now_s=now_s, local_s=local_s):
        assert is_stalled(request, now_s=now_s + later_s, local_s=local_s)


@given(requests, st.floats(0.0, 5.0), seconds, st.integers(1, 100_000))
def test_progress_is_never_bad_news(request: InFlight, after_s: float, local_s: float, more: int) -> None:
    now_s = request.submitted_s + after_s
    acked_bytes = min(request.total_bytes - 1, request.acked_bytes + more)
    further = replace(request, acked_bytes=acked_bytes, progress_s=now_s)
    if not is_stalled(request, now_s=now_s, local_s=local_s):
        assert not is_stalled(further, now_s=now_s, local_s=local_s)


@given(requests, seconds)
def test_nothing_is_stalled_at_once_but_on_a_silent_link(request: InFlight, local_s: float) -> None:
    assert not is_stalled(request, now_s=request.submitted_s, local_s=local_s)
    assert is_stalled(replace(request, silent=True), now_s=request.submitted_s, local_s=local_s)


@given(requests, seconds)
def test_a_transfer_that_arrived_leaves_only_the_server_to_wait_for(request: InFlight, local_s: float) -> None:
    arrived = replace(request, acked_bytes=request.total_bytes, silent=True)
    assert not is_stalled(arrived, now_s=request.submitted_s + request.expected_s, local_s=local_s)
    late_s = request.submitted_s + 2.0 * request.expected_s + local_s + 1.0
    assert is_stalled(arrived, now_s=late_s, local_s=local_s)
