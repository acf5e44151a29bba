"""A deployed board and its server, running, and the workstation that deploys to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.system.rig.deployed import ask, board_status, hosted
from tests.system.rig.machine import Machine
from tests.system.rig.network import Wire
from tests.system.rig.workstation import Workstation

BOARD = ("--server", "hall", "--whole-input-budget", "unlimited")


class House:
    """A deployed board and its server, running, and a workstation."""

    def __init__(self, board: Machine, hall: Machine, desk: Workstation, wire: Wire, bundle: Path) -> None:
        self.board, self.hall, self.desk, self.wire, self.bundle = board, hall, desk, wire, bundle

    def deploy(self, bundle: Path, *more: str, code: int | None = 0) -> Any:
        return self.desk.deploy("board", "--bundle", bundle, *BOARD, *more, code=code)

    def offload(self) -> None:
        """Have it send features of cut 2 of its random weights, as a user would change the config."""
        lines = '[planner]\\nsplit = 2\\nanswer_within_s = 5.0\\naccuracy_floor = "off"\\n'
        self.board.run(f"printf '{lines}' >> /etc/edge-runtime/config.toml")
        self.board.run("systemctl reload edge-runtime")
        self.board.until(lambda: hosted(self.board), "it is not connected")
        self.board.until(lambda: ask(self.board) == "offloaded", "nothing goes to the server")

    def release(self) -> str:
        return self.board.run("readlink /opt/edge-runtime/current").stdout.strip()

    def process(self) -> str:
        return self.board.state("edge-runtime", "MainPID")

    def answers(self) -> None:
        """The board answers frames now, not only some time ago."""
        assert ask(self.board) in ("local", "offloaded", "fallback")

    def running(self) -> None:
        """Wait until the board's program runs."""
        self.board.until(
            lambda: board_status(self.board).get("condition") == "running", "the service is not running"
        )
