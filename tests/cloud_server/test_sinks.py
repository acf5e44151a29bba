"""Answers for programs at the server: every answer reaches every sink, and a sink that fails holds nobody up."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import zmq

from cloud_server.sinks.answers import Answered, AnswerSinks
from cloud_server.sinks.sink import Sink
from split_model.protocol import device as protocol
from split_model.protocol import messages as wire

PATIENCE_S = 20.0
QUIETLY = {"capture_output": True, "text": True}
MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")


def ask(device, model, number):
    """One request under noise, as a device sends it."""
    release, payload = model.noise(model.features(model.frame(number)), epsilon=16.0)
    answer = device.ask(model.request(number, release=release, total_bytes=payload.nbytes), payload)
    assert isinstance(answer, protocol.Answered)


def wait(holds):
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_every_answer_is_a_line_with_its_device_cut_release_and_values(start, model, connect):
    server = start(sinks=[{"kind": "jsonl", "path": "answers.jsonl"}])
    device = connect(server, server.new_keys("porch")).greet()
    for number in range(5):
        ask(device, model, number)
    path = server.folder / "answers.jsonl"
    wait(lambda: path.read_bytes().count(b"\n") == 5)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["index"] for record in records] == list(range(5))
    for number, record in enumerate(records):
        assert (record["device"], record["bundle"], record["cut"]) == ("porch", "two-layers-1", 1)
        assert (record["release"], record["per_value_epsilon"]) == ("noise", 16.0)
        assert abs(record["unix_s"] - time.time()) < PATIENCE_S
        answered = np.frombuffer(device.ending(number).payload, np.float32)
        assert np.allclose(record["outputs"][0]["values"], answered)

    path.rename(path.with_suffix(".1"))  # as logrotate does
    ask(device, model, 5)
    wait(lambda: path.exists() and path.read_bytes().count(b"\n") == 1)
    assert server.wait(lambda status: status.sinks["jsonl"].written == 6).sinks["jsonl"].failed == 0


def test_a_sink_that_cannot_write_neither_stops_the_others_nor_the_answers(start, model, connect):
    server = start(
        sinks=[
            {"kind": "jsonl", "name": "full", "path": "/dev/full"},
            {"kind": "jsonl", "name": "good", "path": "good.jsonl"},
        ]
    )
    device = connect(server, server.new_keys("porch")).greet()
    for number in range(3):
        ask(device, model, number)
    status = server.wait(lambda status: status.sinks["good"].written == 3)
    assert (status.sinks["full"].written, status.sinks["full"].failed) == (0, 3)
    assert "No space left" in server.log()


class Kept(Sink):
    """Keeps the records it is given."""

    def __init__(self):
        self.records = []

    def write(self, topic, record):
        self.records.append(json.loads(record))


def test_an_answer_that_cannot_be_told_ends_nothing(model, caplog):
    kept = Kept()
    sinks = AnswerSinks({"kept": kept}, wall_clock=lambda: 1.0)
    answered = Answered(
        device="porch", bundle=model.bundle, request=model.request(1), codewords=b"", unix_s=1.0, tail_s=0.0,
        tensors=(wire.AnswerTensor(dtype="float32", shape=(1, 10)),), payload=bytes(40),
    )  # fmt: skip
    sinks.start()
    sinks.put(replace(answered, payload=bytes(39)))
    sinks.put(answered)
    wait(lambda: len(kept.records) == 1)
    sinks.close()
    assert (sinks.failed, sinks.written) == ({"kept": 1}, {"kept": 1})
    assert "cannot be decoded" in caplog.text


def test_a_subscriber_on_this_machine_hears_the_answers_of_its_topic(start, model, connect, tmp_path):
    address = f"ipc://{tmp_path}/answers.sock"
    server = start(sinks=[{"kind": "pub", "bind": address}])
    device = connect(server, server.new_keys("porch")).greet()
    with zmq.Context() as context, closing(context.socket(zmq.SUB)) as subscriber:
        subscriber.linger = 0
        subscriber.subscribe(b"answer/two-layers-1/porch")
        subscriber.connect(address)
        for number in range(200):  # until the subscription has arrived
            ask(device, model, number)
            if subscriber.poll(50):
                break
        topic, record = subscriber.recv_multipart()
    assert topic == b"answer/two-layers-1/porch"
    assert json.loads(record)["device"] == "porch"


@pytest.mark.parametrize(
    ("table", "code", "text"),
    [
        ({"kind": "pub", "bind": "tcp://0.0.0.0:5556"}, os.EX_CONFIG, "kind 'mqtt'"),
        ({"kind": "jsonl", "path": "/proc/answers"}, os.EX_CANTCREAT, "/proc/answers"),
        ({"kind": "mqtt", "host": "broker.example", "tls": False, "username": "me"}, os.EX_CONFIG, "in the clear"),
        ({"kind": "mqtt", "host": "localhost", "topic": "a/#"}, os.EX_CONFIG, "topic"),
        ({"kind": "mqtt", "host": "broker.example", "ca": "none.pem"}, os.EX_NOINPUT, "none.pem"),
        ({"kind": "fax"}, os.EX_CONFIG, "jsonl"),
    ],
)
def test_a_sink_that_cannot_be_is_refused_at_the_start_in_one_line(tmp_path, model, config_file, table, code, text):
    config = config_file(tmp_path, model, sinks=[table])
    command = [sys.executable, "-m", "cloud_server"]
    made = subprocess.run(
        [*command, "keys", "make", "-c", str(config)], capture_output=True, text=True, check=False
    )
    words = [*command, "run", "-c", str(config)]
    run = made if made.returncode else subprocess.run(words, timeout=60, check=False, **QUIETLY)
    assert (run.returncode, text in run.stderr) == (code, True), run.stderr
    assert "Traceback" not in run.stderr


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Broker:
    """A real mosquitto, which can be stopped and started again."""

    def __init__(self, folder):
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        self._config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\n")
        self._process = None

    def start(self):
        self._process = subprocess.Popen([MOSQUITTO, "-c", str(self._config)], stderr=subprocess.DEVNULL)
        wait(self._answers)

    def stop(self):
        self._process.terminate()
        self._process.wait(PATIENCE_S)

    def _answers(self):
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", self.port)) == 0


class Listener:
    """A client of the broker that keeps what it hears."""

    def __init__(self, port):
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self.heard = []
        subscribed = threading.Event()
        self.client = Client(CallbackAPIVersion.VERSION2)
        self.client.on_message = lambda _client, _data, message: self.heard.append((message.topic, message.payload))
        self.client.on_connect = lambda client, *_: client.subscribe("split/answers/#", qos=1)
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert subscribed.wait(PATIENCE_S)

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


@pytest.mark.system  # for Debian's mosquitto, which tests/system/install-packages.sh installs
def test_a_broker_gets_every_answer_those_of_an_outage_too(start, model, connect, tmp_path):
    broker = Broker(tmp_path)
    broker.start()
    server = start(sinks=[{"kind": "mqtt", "host": "127.0.0.1", "port": broker.port}])
    device = connect(server, server.new_keys("hall")).greet()
    with closing(Listener(broker.port)) as listener:
        for number in range(3):
            ask(device, model, number)
        wait(lambda: len(listener.heard) == 3)
        assert {topic for topic, _ in listener.heard} == {"split/answers/two-layers-1/hall"}
    broker.stop()
    for number in range(3, 6):
        ask(device, model, number)  # nobody waits for the broker
    broker.start()
    with closing(Listener(broker.port)) as listener:
        wait(lambda: len(listener.heard) == 3)
        assert sorted(json.loads(payload)["index"] for _, payload in listener.heard) == [3, 4, 5]
    broker.stop()
