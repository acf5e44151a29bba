"""Records to whoever listens, and to nobody's harm."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.cli import main
from edge_runtime.client import subscribe
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
        time.sleep(0.3)  # a subscription takes a moment to arrive

    def run(self) -> None:
        for told in self._listen:
            self.heard.append(told)
            time.sleep(self._slow_s)


def test_listeners_hear_what_they_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "answers.sock"
    sink = PublisherTable(path=path).open()
    listeners = {topic: Listener(path, topic=topic) for topic in ("", "frame", "frame.door", "decision")}
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
    assert sink.counters() == {"published": 3}
    assert not path.exists()


def test_outputs_can_stay_here(tmp_path: Path) -> None:
    sink = PublisherTable(path=tmp_path / "a.sock", outputs=False).open()
    listener = Listener(tmp_path / "a.sock")
    sink.write(record(0), [np.zeros(1000)])
    listener.join(PATIENCE_S)
    sink.close()
    assert listener.heard == [(record(0), ())]


def test_a_slow_listener_misses_records_and_holds_nobody_up(tmp_path: Path) -> None:
    sink = PublisherTable(path=tmp_path / "a.sock", queue_messages=5).open()
    slow = Listener(tmp_path / "a.sock", slow_s=0.05)
    big = [np.zeros(1 << 18, np.uint8)]
    started_s = time.monotonic()
    for index in range(300):
        sink.write(record(index), big)
    assert time.monotonic() - started_s < 10.0
    slow.join(PATIENCE_S)
    sink.close()
    heard = [told["index"] for told, _ in slow.heard]
    assert 0 < len(heard) < 300
    assert heard == sorted(set(heard))


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
