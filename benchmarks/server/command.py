"""What the server costs an answer beside the bare tail and gRPC, how it shares itself among devices, and its page.

    python -m benchmarks.server [--json] [--only NAME ...] [--no-peer]

Starts the real server and loads it over CURVE from another process, whose CPU time is kept apart. Ends with one
line of claims; one that does not hold stays in it as false. Compare within one run only: the machine's mood
changes every figure by a third. The peer, gRPC with mutual TLS, needs the extra ``bench``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence

from benchmarks.server.claims import Claim, Details, Part
from benchmarks.server.cores import cores
from benchmarks.server.cost import cost, efficiency
from benchmarks.server.fairness import fairness
from benchmarks.server.overload import overload
from benchmarks.server.page import page
from benchmarks.server.undo import undo
from split_model.errors import SplitModelError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen parts; return the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.server", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print details as JSON")
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=tuple(PARTS), help="some of it")
    parser.add_argument("--no-peer", action="store_true", help="leave gRPC out")
    options = parser.parse_args(arguments)
    claims: list[Claim] = []
    began_s = time.monotonic()
    try:
        for name in options.only:
            found, details = PARTS[name](options)
            claims += found
            print(json.dumps({name: details}) if options.json else f"{name}: {_told(details)}", flush=True)
    except SplitModelError as error:
        print(f"server: {error}", file=sys.stderr)
        return error.exit_code
    print(
        json.dumps({"machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"})
    )
    print(json.dumps({"claims": claims}))
    print(f"server: {time.monotonic() - began_s:.0f} s", file=sys.stderr)
    return 0


def _told(details: Details) -> str:
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in details.items()
    )


#: The parts by name; each takes the command's options.
PARTS: dict[str, Callable[[argparse.Namespace], Part]] = {
    "undo": lambda _: undo(),
    "cost": lambda options: cost(peer=not options.no_peer),
    "efficiency": lambda _: efficiency(),
    "cores": lambda _: cores(),
    "fairness": lambda _: fairness(),
    "overload": lambda _: overload(),
    "page": lambda _: page(),
}
