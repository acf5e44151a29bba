"""The emulated link as a command, one process a link (see ``shaper`` for its limits).

    python -m benchmarks.wire.link --trace benchmarks/traces/verizon-lte.csv --upstream 127.0.0.1:5555

prints one JSON line with the real port when it is ready and one with its counters when it is
told to end (SIGTERM, SIGINT). SIGUSR1 sets the trace's clock to zero, so that several links
play in step; ``--epoch`` does the same with a time. SIGUSR2 cuts the link, or restores it.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.wire.shaper import Address, Link
from benchmarks.wire.traces import Trace, constant, load_trace
from split_model.errors import SplitModelError, UsageError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        link = Link(
            _address(options.upstream, "--upstream"),
            _uplink(options),
            listen=_address(options.listen, "--listen"),
            downlink_mbit_s=_positive(options.down_mbit, "--down-mbit"),
            delay_s=_positive(options.delay_ms, "--delay-ms", zero=True) / 1000,
            queue_bytes=int(_positive(options.queue_bytes, "--queue-bytes")),
            epoch_s=options.epoch,
        )
    except SplitModelError as error:
        print(f"link: {error}", file=sys.stderr)
        return error.exit_code
    signal.signal(signal.SIGTERM, lambda *_: link.stop())
    signal.signal(signal.SIGINT, lambda *_: link.stop())
    signal.signal(signal.SIGUSR1, lambda *_: link.set_epoch(time.monotonic()))
    signal.signal(signal.SIGUSR2, lambda *_: link.toggle())
    _say({"kind": "link_ready", "host": link.address[0], "port": link.address[1], "trace": link.up.capacity.name})
    gc.freeze()  # nothing here makes cycles at rate; full collections would only be pauses
    link.run()
    _say({"kind": "link_end", **link.counters(), "cpu_s": round(time.process_time(), 3)})
    return os.EX_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks.wire.link", description="Emulate a link between two programs on this machine."
    )
    capacity = parser.add_mutually_exclusive_group(required=True)
    capacity.add_argument("--trace", type=Path, help="CSV of time_s,uplink_mbit_s; it loops")
    capacity.add_argument("--rate-mbit", type=float, help="constant uplink in Mbit/s instead of a trace")
    parser.add_argument("--upstream", required=True, metavar="HOST:PORT", help="the server")
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT", help="where devices connect")
    parser.add_argument("--start-s", type=float, default=0.0, help="second of the trace to begin at")
    parser.add_argument("--delay-ms", type=float, default=20.0, help="delay each way in ms")
    parser.add_argument("--down-mbit", type=float, default=20.0, help="constant downlink in Mbit/s")
    parser.add_argument("--queue-bytes", type=int, default=32_768, help="bound of each direction's queue")
    parser.add_argument("--epoch", type=float, help="CLOCK_MONOTONIC seconds of the trace's zero")
    return parser


def _uplink(options: argparse.Namespace) -> Trace:
    if options.trace is not None:
        return load_trace(options.trace, start_s=options.start_s)
    return constant(_positive(options.rate_mbit, "--rate-mbit"))


def _positive(value: float, name: str, *, zero: bool = False) -> float:
    if not (0 < value < float("inf") or (zero and value == 0)):
        raise UsageError(f"{name} {value:g}", remedy=f"give a number {'of zero or more' if zero else 'above zero'}")
    return value


def _address(text: str, name: str) -> Address:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise UsageError(f"{name} {text!r}", remedy="give HOST:PORT, for example 127.0.0.1:5555")
    return host, int(port)


def _say(line: dict[str, object]) -> None:
    with contextlib.suppress(BrokenPipeError):  # whoever started us no longer listens
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
