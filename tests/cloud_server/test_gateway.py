"""The gateway's handling of replies that nobody takes, and the mailbox between workers and loop."""

from __future__ import annotations

import select
import threading

import pytest
import zmq

from cloud_server.counters import Counters
from cloud_server.engine import Failed
from cloud_server.mailbox import Mailbox
from cloud_server.outbox import send_replies
from cloud_server.sessions import Reply
from split_model.protocol import messages as wire


class Router:
    """A socket that refuses every message for one reason."""

    def __init__(self, error: zmq.ZMQError) -> None:
        self.error = error

    def send(self, part, flags, **options):
        raise self.error


class Recorder:
    """Stands for the sessions: remembers who was dropped."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.dropped: list[bytes] = []

    def drop(self, routing_id: bytes) -> None:
        self.dropped.append(routing_id)


@pytest.mark.parametrize(
    ("error", "counter"), [(zmq.Again(), "congested"), (zmq.ZMQError(zmq.EHOSTUNREACH), "unroutable")]
)
def test_a_peer_that_takes_no_replies_is_counted_and_dropped(error, counter):
    sessions = Recorder()
    send_replies(Router(error), sessions, [Reply(b"peer", wire.Ack(request_id=1, received_bytes=1))] * 2)
    assert sessions.dropped == [b"peer"] * 2
    assert getattr(sessions.counters, counter) == 2


def test_any_other_fault_of_the_socket_is_not_swallowed():
    router = Router(zmq.ZMQError(zmq.ENOTSOCK))
    with pytest.raises(zmq.ZMQError):
        send_replies(router, Recorder(), [Reply(b"peer", wire.Ack(request_id=1, received_bytes=1))])


def test_outcomes_of_many_threads_all_arrive_and_wake_the_reader():
    mailbox = Mailbox()

    def work(first: int) -> None:
        for number in range(first, first + 500):
            mailbox.put(Failed(job_id=number, code="failed", text=""))

    threads = [threading.Thread(target=work, args=(1000 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    found = []
    while len(found) < 2000 and select.select([mailbox.fd], [], [], 20.0)[0]:
        found += [outcome.job_id for outcome in mailbox.take()]
    for thread in threads:
        thread.join()
    assert len(set(found)) == 2000
    mailbox.close()
    mailbox.put(Failed(job_id=1, code="failed", text=""))  # a worker that comes late does no harm


def test_a_pipe_full_of_wake_ups_blocks_nobody():
    mailbox = Mailbox()
    for _ in range(100_000):
        mailbox.wake()
    assert mailbox.take() == []
    mailbox.close()
