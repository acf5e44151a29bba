"""A changed config of a server that goes on serving."""

from __future__ import annotations

import queue
import shutil
import time

import msgspec

from cloud_server.config import load
from cloud_server.counters import Counters
from cloud_server.engine import Done, Job, LocalEngine
from cloud_server.reload import Reloader, open_tails, server_limits
from cloud_server.sessions import Sessions
from split_model.protocol import messages as wire

KEY = "A" * 40


def test_bundles_that_were_moved_are_used_where_they_are_now_and_no_device_hears_of_it(
    model, config_file, tmp_path
):
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(model.bundle.root, old / "bundle")
    config = load(config_file(tmp_path, model, bundles=[str(old)]))
    tails = open_tails(config)
    delivered = queue.Queue()
    engine = LocalEngine(
        tails, deliver=delivered.put, clock=time.monotonic, threads=1, tail_threads=1, queue=4, cache_bytes=1 << 20
    )
    sessions = Sessions(
        tails=tails,
        engine=engine,
        name_of={KEY: "anna"}.get,
        boot_id="server",
        limits=server_limits(config),
        counters=Counters(),
    )
    hello = wire.Hello(versions=(1,), boot_id="boot", software="t")
    sessions.receive(b"\0\0\0\0\1", KEY, [memoryview(wire.encode(hello))], 0.0)
    moved = msgspec.structs.replace(config, server=msgspec.structs.replace(config.server, bundles=(new,)))
    reloader = Reloader(config, lambda: moved, sessions, engine)

    old.rename(new)
    reloader.request()
    replies = []
    until_s = time.monotonic() + 30.0
    while reloader.under_way:
        replies += reloader.take_up()
        assert time.monotonic() < until_s
        time.sleep(0.01)
    assert (reloader.error, reloader.reloads) == ("", 1)
    assert replies == []
    assert sessions.peers == 1

    engine.start(preload=False)
    request = model.request(1)
    features = model.features(model.frame(0))
    job = Job(
        job_id=1,
        device="some device",
        tail=sessions.tails.tail_for(request),
        release=request.release,
        payload=bytearray(features.tobytes()),
        queued_s=time.monotonic(),
        due_s=time.monotonic() + 30.0,
    )
    assert engine.submit(job)
    outcome = delivered.get(timeout=30.0)
    assert isinstance(outcome, Done), outcome
    assert outcome.payload == model.whole(model.frame(0)).tobytes()
    engine.close()
    engine.join(5.0)
