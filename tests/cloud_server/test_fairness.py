"""Greedy devices and polite ones at a real server: everybody gets a turn, whatever the others state or send."""

from __future__ import annotations

import time
from itertools import count

import pytest

from split_model.protocol.device import Answered, Refused

GREEDY_KEYS = 2
POLITE = 3
ANSWERS = 4
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def slow(make_bundle, tmp_path_factory):
    """A model whose tails keep a worker for tens of milliseconds."""
    return make_bundle(tmp_path_factory.mktemp("slow") / "slow-layers", 5, middle=30)


class Greedy:
    """One connection that always has as many requests open as it may, and asks again whatever becomes of them."""

    def __init__(self, device, model, bundle, *, due_in_s: float, boot_id: str) -> None:
        self.device, self.model, self.bundle = device, model, bundle
        self.due_in_s, self.boot_id = due_in_s, boot_id
        self.numbers = count()
        self.payload = memoryview(model.frame(0)).cast("B")

    def step(self) -> None:
        session = self.device.session
        while session.open_requests < 8:
            request = self.model.request(
                next(self.numbers),
                boot_id=self.boot_id,
                bundle=self.bundle.identity,
                cut=0,
                total_bytes=len(self.payload),
            )
            session.submit(request, self.payload, due_at_s=time.monotonic() + self.due_in_s)
        self.device.step(wait_ms=0)


class Scene:
    """Greedy connections that fill the server, and polite devices that ask one thing at a time."""

    def __init__(self, server, connect, model, slow, *, due_in_s: float) -> None:
        self.model = model
        self.greedy = []
        for key in range(GREEDY_KEYS):
            keys = server.new_keys(f"greedy{key}")
            for connection in range(4):
                boot_id = f"greedy{connection}"
                device = connect(server, keys, boot_id=boot_id).greet()
                self.greedy.append(Greedy(device, model, slow, due_in_s=due_in_s, boot_id=boot_id))
        self.polite = [connect(server, server.new_keys(f"polite{number}")).greet() for number in range(POLITE)]
        while server.status().counters.answered == 0:  # the queue is theirs before the others come
            self.greed()

    def greed(self) -> None:
        for one in self.greedy:
            one.step()

    def run(self) -> list[list[Answered | Refused]]:
        """What the polite devices hear, each until it has its answers."""
        frames = [self.model.frame(number) for number in range(POLITE)]
        deadline_s = time.monotonic() + PATIENCE_S
        heard: list[list[Answered | Refused]] = [[] for _ in self.polite]
        asked = [-1] * POLITE
        while any(sum(isinstance(e, Answered) for e in events) < ANSWERS for events in heard):
            assert time.monotonic() < deadline_s, [[type(e).__name__ for e in events] for events in heard]
            self.greed()
            for number, device in enumerate(self.polite):
                if device.session.open_requests == 0:
                    asked[number] += 1
                    request = self.model.request(asked[number])
                    sent = memoryview(self.model.features(frames[number])).cast("B")
                    device.session.submit(request, sent, due_at_s=time.monotonic() + PATIENCE_S)
                device.step(wait_ms=1)
                heard[number] = [e for e in device.events if isinstance(e, (Answered, Refused))]
        for frame, events in zip(frames, heard, strict=True):
            for event in events:
                if isinstance(event, Answered):
                    assert bytes(event.payload) == self.model.whole(frame).tobytes()
        return heard


def test_short_due_times_and_slow_tails_do_not_starve_the_others(start, connect, model, slow):
    server = start(threads=1, bundles=[str(model.bundle.root), str(slow.root)])
    heard = Scene(server, connect, model, slow, due_in_s=0.5).run()
    assert not [event for events in heard for event in events if isinstance(event, Refused)]


def test_eight_connections_of_two_keys_leave_the_others_their_places(start, connect, model, slow):
    server = start(threads=1, bundles=[str(model.bundle.root), str(slow.root)], limits_queue=16)
    heard = Scene(server, connect, model, slow, due_in_s=1000.0).run()
    assert not [event for events in heard for event in events if isinstance(event, Refused)]
    assert server.status().counters.refused["busy"] > 0  # the queue was full all the time
