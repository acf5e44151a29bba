"""Records to whoever listens, and to nobody's harm."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.cli import main
from edge_runtime.client import Client, NoAnswerError, RefusedError, subscribe
from edge_runtime.local_api import framing
from edge_runtime.sinks.publisher import PublisherTable
from split_model.errors import NotAllowedError

PATIENCE_S = 20.0


def record(index: int, source: str = "door") -> dict[str, Any]:
    return {"kind": "frame", "index": index, "source": source, "outcome": "local"}


class Listener(threading.Thread):
    def __init__(self, path: Path, *, topic: str = "", slow_s: float = 0.0) -> None:
        super().__init__(daemon=True)
        self.heard: list[Any] = []
        self._listen = subscribe(path, topic=topic, timeout_s=3.0)
        self._slow_s = slow_s
        self.start()

    def run(self) -> None:
        for told in self._listen:
            self.heard.append(told)
            time.sleep(self._slow_s)


def until_subscribed(sink: Any, count: int = 1) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while sink.counters()["subscribers"] < count:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_listeners_hear_what_they_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "answers.sock"
    sink = PublisherTable(path=path).open()
    listeners = {topic: Listener(path, topic=topic) for topic in ("", "frame", "frame.door", "decision")}
    until_subscribed(sink, 4)
    output = np.arange(6, dtype=np.int16).reshape(1, 6)
    sink.write({"kind": "decision", "to": 3})
    sink.write(record(0), [output])
    sink.write(record(1, "yard"), [output])
    for listener in listeners.values():
        listener.join(PATIENCE_S)
    sink.close()
    heard = {topic: [told.get("index", "moved") for told, _ in one.heard] for topic, one in listeners.items()}
    assert heard == {"": ["moved", 0, 1], "frame": [0, 1], "frame.door": [0], "decision": ["moved"]}
    (_, (got,)) = listeners["frame.door"].heard[0]
    assert (got.dtype, got.shape, got.tolist()) == (output.dtype, output.shape, output.tolist())
    assert sink.counters() == {"published": 3, "lost": 0, "subscribers": 0, "disconnected": 0}
    assert not path.exists()


def test_outputs_can_stay_here(tmp_path: Path) -> None:
    sink = PublisherTable(path=tmp_path / "a.sock", outputs=False).open()
    listener = Listener(tmp_path / "a.sock")
    until_subscribed(sink)
    sink.write(record(0), [np.zeros(1000)])
    listener.join(PATIENCE_S)
    sink.close()
    assert listener.heard == [(record(0), ())]


def test_a_slow_listener_misses_records_and_holds_nobody_up(tmp_path: Path) -> None:
    sink = PublisherTable(path=tmp_path / "a.sock", queue_messages=5).open()
    slow, keen = Listener(tmp_path / "a.sock", slow_s=0.05), Listener(tmp_path / "a.sock")
    until_subscribed(sink, 2)
    big = [np.zeros(1 << 18, np.uint8)]
    started_s = time.monotonic()
    for index in range(300):
        sink.write(record(index), big)
        time.sleep(0.002)  # a pace that who reads keeps up with
    assert time.monotonic() - started_s < 10.0
    slow.join(PATIENCE_S)
    keen.join(PATIENCE_S)
    counted = sink.counters()
    sink.close()
    heard, of_keen = ([told["index"] for told, _ in one.heard] for one in (slow, keen))
    assert 0 < len(heard) < 300
    assert heard == sorted(set(heard))
    assert len(of_keen) > 2 * len(heard)
    assert counted["published"] == 300
    assert counted["lost"] == 600 - len(heard) - len(of_keen)


def test_what_nobody_reads_is_bounded(tmp_path: Path, caplog: Any) -> None:
    """By bytes as well: readers that stop in the middle of old records are disconnected, the slowest first."""
    sink = PublisherTable(path=tmp_path / "a.sock", queue_bytes=4 << 20).open()
    big = [np.zeros(1 << 20, np.uint8)]
    with contextlib.ExitStack() as closing:
        for index in range(20):
            peer = closing.enter_context(socket.socket(socket.AF_UNIX))
            peer.connect(str(tmp_path / "a.sock"))
            peer.sendall(framing.hello() + b"".join(framing.framed(b'["subscribe", ""]')))
            assert peer.recv(8) == framing.hello()
            while not select.select([peer], [], [], 0.02)[0]:
                sink.write(record(index))
            for _ in range(3):  # the first of them is begun, and never read to its end
                sink.write(record(index), big)
        listener = Listener(tmp_path / "a.sock")
        deadline_s = time.monotonic() + PATIENCE_S
        while caplog.text.count("it reads too slowly") < 11 or not listener.heard:
            assert time.monotonic() < deadline_s, sink.counters()
            sink.write(record(99), big)
            time.sleep(0.05)
        # At most 4 MB of the latest records, at most 4 MB of those that are begun, and who keeps up.
        assert sink.counters()["subscribers"] <= 4 + 4 + 1
        assert "within" not in caplog.text  # it was not the time that ended them
        assert listener.heard[0][0]["index"] == 99
        listener.join(PATIENCE_S)
    sink.close()


@pytest.mark.parametrize(
    "told", [b'["describe"]', b'["submit", 1, [["int8", [1]]], ""]', b"none", b'["subscribe", 1]']
)
def test_who_says_something_else_hears_why_and_is_closed(tmp_path: Path, told: bytes) -> None:
    sink = PublisherTable(path=tmp_path / "a.sock").open()
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(PATIENCE_S)
        peer.connect(str(tmp_path / "a.sock"))
        peer.sendall(framing.hello() + b"".join(framing.framed(told)))
        heard = b""
        while piece := peer.recv(1000):
            heard += piece
    assert b'["refusal",null,"protocol"' in heard
    if told == b'["describe"]':
        with (
            Client(tmp_path / "a.sock") as client,
            pytest.raises(RefusedError, match="takes subscriptions; submit at"),
        ):
            client.describe()
    sink.close()


def test_a_listener_says_where_nobody_is_and_waits_for_a_program_that_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with pytest.raises(NoAnswerError, match="nobody is there"):
        next(subscribe(path, timeout_s=0.1))
    sink = PublisherTable(path=path).open()
    listener = Listener(path)
    until_subscribed(sink)
    sink.write(record(1))
    sink.close()
    sink = PublisherTable(path=path).open()
    until_subscribed(sink)
    sink.write(record(2))
    listener.join(PATIENCE_S)
    sink.close()
    assert [told["index"] for told, _ in listener.heard] == [1, 2]


def test_config_check_looks_at_sinks_and_disturbs_no_running_one(rig: Any, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "a.sock"
    running = PublisherTable(path=path).open()
    config = rig.configure(tables={"sink": [{"kind": "pub", "path": str(path)}]})
    assert main(["config", "check", "-c", str(config)]) == 0
    with pytest.raises(NotAllowedError, match="another program serves"):
        PublisherTable(path=path).open()
    running.close()
    for sink in ({"kind": "pub", "group": "nobody-at-all"}, {"kind": "serial", "port": "x", "baud": 12345}):
        config = rig.configure(tables={"sink": sink})
        assert main(["config", "check", "-c", str(config)]) == os.EX_CONFIG
    error = capsys.readouterr().err
    assert "no group 'nobody-at-all'" in error
    assert "baud = 12345" in error
