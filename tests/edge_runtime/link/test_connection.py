"""The link's policy turn by turn: it keeps a quiet connection alive, and a server cannot make it spin."""

from __future__ import annotations

from typing import Any

import pytest

from edge_runtime.link.states import Phase, TransportEvent
from edge_runtime.link.trouble import Trouble
from split_model.protocol import messages as wire
from split_model.service.throttle import Throttle
from tests.edge_runtime.link.driver import STEP_S, WELCOME, Driven, request

REFUSED = wire.Refusal(request_id=None, code="protocol", text="unknown release")


@pytest.fixture
def bench() -> Driven:
    return Driven().up()


def test_probes_go_on_after_a_refused_request(bench: Driven) -> None:
    bench.submit()
    bench.turns(STEP_S)
    before = bench.count(wire.Probe)
    bench.answers.append(wire.Refusal(request_id=1, code="busy", text="later"))
    bench.turns(3.0)
    assert bench.count(wire.Probe) > before


def test_what_was_sent_when_the_server_objects_is_refused_and_not_sent_again(bench: Driven) -> None:
    """Each frame was paid for: that its cut is refused must be told, not tried out with the next frame."""
    reservation = bench.submit()
    bench.turns(STEP_S)
    bench.answers.append(REFUSED)
    bench.turns(STEP_S)
    assert not bench.view.up
    refusal = bench.outcomes[reservation].refusal
    assert refusal is not None
    assert (refusal.request_id, refusal.code) == (1, "protocol")
    bench.turns(2.0)
    assert bench.view.up
    assert bench.count(wire.Request) == 1


def test_of_several_only_the_one_that_the_server_means_is_refused(bench: Driven) -> None:
    """It takes messages in order and acknowledges what it takes; the others are paid for, and at other cuts."""
    reservations = [bench.submit(number) for number in (1, 2, 3)]
    bench.turns(STEP_S)
    bench.answers += [wire.Ack(request_id=1, received_bytes=64), REFUSED]
    bench.turns(2.0)
    assert list(bench.outcomes) == [reservations[1]]
    requests = [message.request_id for message in bench.sent if isinstance(message, wire.Request)]
    assert requests == [1, 2, 3, 1, 3]


def test_a_refusal_that_names_its_request_leaves_the_connection_and_the_others_alone(bench: Driven) -> None:
    reservations = [bench.submit(number) for number in (1, 2, 3)]
    bench.turns(STEP_S)
    bench.answers.append(wire.Refusal(request_id=3, code="protocol", text="unknown release"))
    bench.turns(2.0)
    assert list(bench.outcomes) == [reservations[2]]
    assert bench.closed == 0
    assert bench.count(wire.Request) == 3


def test_what_was_not_sent_when_the_connection_is_refused_goes_out_on_the_next(bench: Driven) -> None:
    bench.answers.append(REFUSED)
    bench.turns(STEP_S)
    bench.submit()
    bench.turns(2.0)
    assert bench.outcomes == {}
    assert bench.count(wire.Request) == 1


def test_probes_go_on_after_a_request_that_never_left(bench: Driven) -> None:
    bench.connection.reservations.release(bench.submit(), bench.now_s)
    before = bench.count(wire.Probe)
    bench.turns(3.0)
    assert bench.count(wire.Probe) > before


@pytest.mark.parametrize("submitted", [True, False])
def test_a_quiet_connection_is_asked_before_it_is_closed(bench: Driven, submitted: bool) -> None:
    """The server takes its time with a request, or the frame's head does before there is one."""
    bench.submit() if submitted else bench.connection.reservations.reserve(offloaded=True)
    bench.turns(30.0)
    assert bench.closed == 0
    bench.pings = False
    bench.turns(9.0)
    assert bench.closed == 1
    assert any("nothing heard" in record.getMessage() for record in bench.lines)


def test_no_probe_while_any_frame_holds_the_link(bench: Driven) -> None:
    """Frames overlap: the link is free when the last of them has given it back, not the first."""
    reservations = bench.connection.reservations
    first, second = (reservations.reserve(offloaded=True) for _ in range(2))
    stays = reservations.reserve(offloaded=False)
    bench.sent.clear()
    for done in (first, first, stays):
        reservations.release(done, bench.now_s)
        bench.turns(1.5)
        assert bench.probed_bytes == 0
    reservations.release(second, bench.now_s)
    bench.turns(3.0)
    assert bench.probed_bytes > 0


def test_a_frame_that_was_to_stay_holds_the_link_once_it_is_sent(bench: Driven) -> None:
    reservations = bench.connection.reservations
    number = reservations.reserve(offloaded=False)
    reservations.submit(number, request(1), memoryview(bytes(64)), due_at_s=bench.now_s + 9.0)
    assert bench.connection.wait_s(bench.now_s) == STEP_S
    with pytest.raises(ValueError, match="once"):
        reservations.submit(number, request(2), memoryview(bytes(64)), due_at_s=bench.now_s + 9.0)
    assert reservations.release(number, bench.now_s)
    assert not reservations.release(number, bench.now_s)
    with pytest.raises(ValueError, match="once"):
        reservations.submit(number, request(3), memoryview(bytes(64)), due_at_s=bench.now_s + 9.0)


def test_acknowledged_bytes_are_those_of_requests_that_are_under_way(bench: Driven) -> None:
    number, other = bench.submit(1, 10_000), bench.submit(2)
    bench.turns(STEP_S)
    bench.answers.append(wire.Ack(request_id=1, received_bytes=1250))
    bench.turns(STEP_S)
    acked_bytes = bench.connection.reservations.acked_bytes
    assert (acked_bytes(number), acked_bytes(other), acked_bytes(99)) == (1250, 0, 0)
    bench.connection.reservations.release(number, bench.now_s)
    assert acked_bytes(number) == 0


def test_a_late_answer_counts_and_a_late_refusal_does_not(bench: Driven) -> None:
    for number in (1, 2):
        reservation = bench.submit(number)
        bench.turns(STEP_S)
        bench.connection.reservations.release(reservation, bench.now_s)
    answer = wire.Answer(request_id=1, tensors=(), timed_bytes=0, receive_s=0.0, queue_s=0.0, tail_s=0.0)
    bench.do(bench.connection.receive([memoryview(wire.encode(answer)), memoryview(b"x")], bench.now_s))
    bench.answers.append(wire.Refusal(request_id=2, code="busy", text="later"))
    bench.turns(STEP_S)
    assert bench.view.late == 1
    assert bench.outcomes == {}


def test_a_chunk_that_the_socket_did_not_take_is_not_sent_once_it_is_cancelled(bench: Driven) -> None:
    bench.turns(3.0)
    reservation = bench.submit()
    frames = bench.connection.next_frames(bench.now_s)
    assert frames is not None
    assert isinstance(wire.decode_from_device(memoryview(frames[0])), wire.Request)
    bench.connection.put_back(frames)
    bench.connection.reservations.release(reservation, bench.now_s)
    bench.turns(1.0)
    assert (bench.count(wire.Request), bench.count(wire.Cancel)) == (0, 0)


# --- what a server can repeat ----------------------------------------------------------------------------------


def logged_bytes(bench: Driven, *, seconds: float) -> int:
    """What of it a program's log would hold, with the throttle that every program has."""
    now = [0.0]
    throttle = Throttle(now=lambda: now[0])
    total = 0
    for at, record in enumerate(bench.lines):
        now[0] = seconds * at / len(bench.lines)
        total += (len(record.getMessage()) + 40) * throttle.filter(record)
    return total


class Malicious(Driven):
    """Lets us in, and then does what ``repeats`` says to each message."""

    def __init__(self, repeats: str) -> None:
        super().__init__()
        self.repeats = repeats

    def carry(self, message: Any) -> None:
        super().carry(message)
        welcome = wire.Welcome(version=1, **WELCOME)
        if isinstance(message, wire.Hello):
            return
        if self.repeats == "hello_first":
            self.answers += [wire.Refusal(request_id=None, code="hello_first", text="who are you?")]
        elif self.repeats == "greeted at once":
            self.answers += [wire.Refusal(request_id=None, code="hello_first", text="who are you?"), welcome]
        elif self.repeats == "lost":
            self.answers.clear()
            self.happens(TransportEvent.LOST)
            if self.open:
                self.happens(TransportEvent.READY)
        elif self.repeats == "broken":
            self.answers += [welcome, welcome]
        else:
            self.answers += [wire.Refusal(request_id=None, code=self.repeats, text="\n" + "go away " * 99)]


@pytest.mark.parametrize(
    ("repeats", "most", "trouble"),
    [
        ("hello_first", 12, Trouble.GREETED_AGAIN),
        ("greeted at once", 12, Trouble.GREETED_AGAIN),
        ("lost", 320, Trouble.LOST),
        ("revoked", 12, Trouble.KEY_REFUSED),
        ("busy", 12, Trouble.REFUSED),
        ("broken", 12, Trouble.PROTOCOL_BROKEN),
    ],
)
def test_a_server_that_throws_us_out_again_and_again_is_left_alone(
    repeats: str, most: int, trouble: Trouble
) -> None:
    """It let us in each time, so nothing but its repeating can tell; ten minutes of it cost next to nothing."""
    bench = Malicious(repeats)
    bench.submit(total_bytes=1 << 14)
    seconds, troubles = 600.0, set()
    for _ in range(round(seconds / STEP_S)):
        bench.turns(STEP_S)
        troubles.add(bench.view.trouble)
    assert bench.count(wire.Hello) <= most + 8
    assert bench.count(wire.Request) <= most + 8
    assert logged_bytes(bench, seconds=seconds) / seconds < 60.0
    assert trouble in troubles
    assert all("\n" not in record.getMessage() and len(record.getMessage()) < 400 for record in bench.lines)


def test_a_server_that_forgets_us_once_is_greeted_at_once(bench: Driven) -> None:
    """As after a restart behind a proxy: the request under way goes out again, on the same connection."""
    reservation = bench.submit()
    bench.turns(STEP_S)
    bench.answers.append(wire.Refusal(request_id=None, code="hello_first", text="who are you?"))
    bench.turns(4 * STEP_S)
    assert (bench.closed, bench.count(wire.Hello), bench.count(wire.Request)) == (0, 2, 2)
    assert bench.view.up
    assert bench.view.reconnects == 1
    assert reservation not in bench.outcomes


def test_a_server_that_talks_but_never_welcomes_is_given_up() -> None:
    """Each message of it is proof of life, but not of a link."""
    bench = Driven()
    bench.welcomes = False
    for _ in range(400):
        bench.answers.append(wire.Ack(request_id=7, received_bytes=0))
        bench.turns(STEP_S)
    assert bench.closed >= 1
    assert bench.view.trouble is Trouble.SILENT


def test_a_connection_that_held_is_not_held_against_the_server(bench: Driven) -> None:
    """A link that breaks every quarter of a minute is used at once each time."""
    for _ in range(20):
        bench.turns(15.0)
        bench.happens(TransportEvent.LOST)
        assert not bench.view.up
        bench.happens(TransportEvent.READY)
        bench.turns(4 * STEP_S)
        assert bench.view.up
    assert bench.closed == 0
    assert bench.view.reconnects == 20


def test_a_refused_key_is_tried_again_within_five_seconds_and_a_little_more() -> None:
    bench = Driven()
    bench.welcomes = False
    bench.turns(STEP_S)
    for _ in range(12):
        bench.happens(TransportEvent.REFUSED)
        bench.turns(7.0)
    pauses = [after - before for before, after in zip(bench.opened_s, bench.opened_s[1:], strict=False)]
    assert max(pauses) <= 14.0
    assert bench.view.trouble is Trouble.KEY_REFUSED
    assert bench.view.trouble.exit_code == 77
    assert "cloud-server devices allow -c FILE NAME 'key'" in bench.view.remedy
    assert len(bench.lines) == 1


def test_what_happened_to_a_socket_that_is_closed_does_not_matter(bench: Driven) -> None:
    bench.happens(TransportEvent.BROKEN_HANDSHAKE)
    assert bench.connection.phase is Phase.PAUSED
    for event in TransportEvent:
        bench.happens(event)
    assert (bench.connection.phase, bench.closed) == (Phase.PAUSED, 1)


def test_while_there_is_no_server_the_driver_is_not_kept_busy() -> None:
    """On a board without a server each turn of the link thread would take time from the frames."""
    bench = Driven()
    bench.welcomes = False
    for _ in range(20):
        bench.turns(STEP_S)
        assert bench.connection.wait_s(bench.now_s) >= STEP_S


def test_frames_in_quick_succession_share_a_view_until_something_is_heard(bench: Driven) -> None:
    first = bench.connection.view(bench.now_s, frame=True)
    assert bench.connection.view(bench.now_s + 0.01, frame=True) is first
    later = bench.connection.view(bench.now_s + 0.06, frame=True)
    assert later is not first
    bench.happens(TransportEvent.LOST)
    assert not bench.connection.view(bench.now_s + 0.06, frame=True).up
    bench.turns(2.0)
    bench.connection.view(bench.now_s, frame=True)
    bench.answers.append(REFUSED)
    bench.turn()
    assert not bench.connection.view(bench.now_s, frame=True).up
