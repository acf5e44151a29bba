"""docs/sources.md, "Add a network camera to a board", typed word by word on a deployed board."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest

from tests.system.rig.deployed import board_status
from tests.system.rig.house import House
from tests.system.rig.workstation import ROOT
from tests.system.test_first_board import BLOCK, typed

SERVER = ROOT / "tests/edge_runtime/sources/rtsp_server.py"
PORT = 8554


@pytest.fixture
def camera(house: House) -> Iterator[str]:
    """A camera in the network of the board's server."""
    address = house.wire.cloud_address
    command = ["/usr/bin/python3", SERVER, address, PORT, "me:s3cret-pw"]
    inside = ["ip", "netns", "exec", house.wire.cloud, *map(str, command)]
    with subprocess.Popen(inside, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as popen:
        assert popen.stdout is not None
        assert popen.stderr is not None
        if not popen.stdout.readline():
            pytest.skip(f"no RTSP server: {popen.stderr.read()}; run tests/system/install-packages.sh")
        yield f"{address}:{PORT}"
        popen.kill()


def test_the_document_ends_with_answers_of_a_camera(house: House, camera: str) -> None:
    text = (ROOT / "docs/sources.md").read_text()
    section = text[text.index("### Add a network camera") : text.index("## A source that hangs")]
    assert section.count("192.168.1.30:554") == 1
    for word, here in (("192.168.1.30:554", camera), ("build/bundles/fashion", str(house.bundle))):
        section = section.replace(word, here)
    blocks = [re.sub(r"\bporch(?= )", "board", block) for block in BLOCK.findall(section)]
    assert len(blocks) == 5
    printed = [typed(block, house.desk) for block in blocks[:-1]]
    assert re.search(r"^board .* deployed$", printed[0], re.MULTILINE)
    assert ": good" in printed[2]
    board = house.board
    try:
        board.until(lambda: board_status(board)["sources"]["door"]["frames"] > 5, "no pictures")
    except AssertionError as error:
        log = board.run("journalctl -u edge-runtime -n 40 --no-pager").stdout
        raise AssertionError(f"{board_status(board)}\n{log}") from error
    assert typed(blocks[-1], house.desk).startswith("door ")
    # What else the user would meet: a camera that goes away, on the line that systemctl shows.
    log = board.run("journalctl -u edge-runtime --no-pager").stdout
    assert "s3cret-pw" not in log + board.run("edge-runtime status").stdout
