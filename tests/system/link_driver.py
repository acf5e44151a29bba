"""Runs in a network namespace: the device's link thread with real requests, its estimates as JSON lines.

    python link_driver.py ADDRESS KEY_FOLDER SERVER_KEY BUNDLE INTERVAL_S SECONDS

An interval of 0 sends no requests: then only the link thread's own probes cross.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from edge_runtime.link.link_thread import Link
from edge_runtime.link.transport import Transport
from split_model.bundle import Bundle
from split_model.protocol import messages as wire
from split_model.protocol.device import DeviceSession
from split_model.protocol.keys import read_pair

BOOT_ID = "a" * 32


def main(address: str, key: str, server_key: str, root: str, interval: str, seconds: str) -> None:
    bundle = Bundle.open(Path(root))
    cut = bundle.manifest.cuts[0]
    payload = memoryview(bytes(cut.raw_bytes))
    transport = Transport(
        address, keys=read_pair(Path(key)), server_keys=(server_key.encode(),), max_answer_bytes=1 << 16
    )
    link = Link(transport, DeviceSession(boot_id=BOOT_ID, software="test"))
    link.start()
    try:
        until_s = time.monotonic() + 10
        while not link.view().up:
            assert time.monotonic() < until_s, link.view().trouble_line
            time.sleep(0.02)
        _drive(link, bundle, cut.index, payload, float(interval), float(seconds))
    finally:
        link.stop()
        transport.terminate()


def _drive(link: Link, bundle: Bundle, cut: int, payload: memoryview, interval_s: float, seconds: float) -> None:
    started_s = next_s = time.monotonic()
    request_id = 0
    while (now_s := time.monotonic()) < started_s + seconds:
        if interval_s and now_s >= next_s:
            request_id += 1
            next_s += interval_s
            request = wire.Request(
                request_id=request_id,
                boot_id=BOOT_ID,
                version=wire.VERSIONS[0],
                bundle=bundle.identity,
                cut=cut,
                release=wire.NoRelease(),
                total_bytes=len(payload),
                due_in_s=5.0,
            )
            reservation = link.reserve(offloaded=True)
            reservation.send(request, payload, due_at_s=now_s + 5.0)
            reservation.wait(until_s=now_s + 5.0)
            reservation.release()
        view = link.view()
        tcp = view.tcp
        print(
            json.dumps(
                {
                    "at_s": time.monotonic() - started_s,
                    "bytes_s": view.estimate.uplink_bytes_s,
                    "spread": view.estimate.rate_spread,
                    "rtt_s": view.estimate.rtt_s,
                    "min_rtt_s": None if tcp is None else tcp.min_rtt_s,
                    "requests": request_id,
                }
            ),
            flush=True,
        )
        time.sleep(0.02)


if __name__ == "__main__":
    main(*sys.argv[1:])
