"""docs/first-board.md, typed word by word on two fresh machines."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tests.system.rig import Machine, Wire
from tests.system.rig.workstation import BLOCK, ROOT, Workstation, typed


def _with_a_frame(status: str) -> str:
    return status if re.search(r"^frames +1: 1 local", status, re.MULTILINE) else ""


def test_the_document_ends_with_a_live_status(
    make_machine: Callable[..., Machine], wire: Wire, tmp_path: Path
) -> None:
    porch = make_machine("porch", wire)
    hall = make_machine("hall", wire, cloud=True)
    desk = Workstation(tmp_path / "desk", [porch, hall])
    blocks = BLOCK.findall((ROOT / "docs/first-board.md").read_text())
    assert len(blocks) == 5
    printed = [typed(block, desk) for block in blocks]
    assert re.search(r"^hall .* deployed$", printed[1], re.MULTILINE)
    assert re.search(r"^porch .* deployed$", printed[2], re.MULTILINE)
    assert printed[3].split()[0] in ("local", "offloaded", "fallback")
    # The program writes its status once a second.
    status = porch.until(lambda: _with_a_frame(typed(blocks[-1], desk)), "the frame is not counted")
    assert status.startswith("running ")
    assert "fashion_f32" in status
    assert re.search(r"^link +up: tcp://10\.77\.0\.2:5555", status, re.MULTILINE)
