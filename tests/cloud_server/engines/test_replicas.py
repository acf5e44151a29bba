"""Replicas come and go: late news of an earlier life ends none that works."""

from __future__ import annotations

from types import SimpleNamespace

from cloud_server.engines import replica_messages as messages
from cloud_server.engines.events import Events
from cloud_server.engines.ray_cluster import Lost
from cloud_server.engines.replicas import Heard, Replicas
from split_model import __version__

TAIL = SimpleNamespace(id="tail", bundle=SimpleNamespace(identity="bundle"))


class Scripted:
    """A cluster and a supply whose answers the test gives."""

    def __init__(self):
        self.asked, self.brings, self.ended = [], [], []

    def create(self, _name):
        pass

    def call(self, _name, method, *_, then, wait=False):
        self.asked.append((method, then))

    def bring(self, _name, _hashes, _bundles, *, then):
        self.brings.append(then)

    def end(self, name):
        self.ended.append(name)

    def answer(self, method, reply):
        asked, then = self.asked.pop(0)
        assert asked == method
        then(reply)


def test_a_late_word_that_files_are_missing_does_not_end_the_replica_that_came_back():
    clock, cluster, up = [0.0], Scripted(), set()
    events = Events(lambda: clock[0])
    heard = Heard(joined=lambda name, _: up.add(name) or len(up), lost=up.discard, left=lambda _: True)
    replicas = Replicas(cluster, cluster, events, heard=heard, clock=lambda: clock[0])
    replicas.preload = [TAIL]
    hello = messages.encode(messages.Hello(node="n" * 40, pid=1, software=__version__, backend="ai-edge-litert"))

    def turn(method, reply):
        cluster.answer(method, reply)
        events.handle(0.0)

    replicas.scale(1)
    turn("hello", hello)
    turn("preload", messages.encode(messages.Preloaded(missing=["file"])))
    replicas.lose("tails-0", 0, Lost("its node is gone"))
    clock[0] += 1.0
    events.handle(0.0)
    turn("hello", hello)
    turn("preload", messages.encode(messages.Preloaded()))
    assert up == {"tails-0"}
    cluster.brings.pop()("no space left on the node")  # for the life before
    events.handle(0.0)
    assert cluster.ended == []
    assert replicas.is_up("tails-0", 1)
