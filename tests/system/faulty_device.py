"""The device program as it ships, with a fault handed in: runs in a machine in the place of ``edge-runtime``.

    python faulty_device.py run -c FILE

While the file ``hang`` lies beside the config, the inference thread does not come back from its next piece of work.
A number in the file ``clock_offset_s`` there is added to the wall clock: a year, when a board finds the network.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path

from edge_runtime import cli
from edge_runtime.board.board import RealBoard
from edge_runtime.daemon import daemon

run = daemon.run
FOLDER = Path(sys.argv[sys.argv.index("-c") + 1]).parent
true_time = time.time


class HangingBoard(RealBoard):
    """Does no work any more, once told to."""

    def run(self, work):
        while (FOLDER / "hang").exists():
            time.sleep(0.05)
        return super().run(work)


def shifted_time() -> float:
    offset = FOLDER / "clock_offset_s"
    return true_time() + (float(offset.read_text()) if offset.exists() else 0.0)


def run_with_a_fault(config, service):
    return run(config, dataclasses.replace(service, make_board=lambda _: HangingBoard()))


time.time = shifted_time
daemon.run = run_with_a_fault
sys.exit(cli.main())
