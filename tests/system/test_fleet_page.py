"""docs/fleet.md, typed word by word: from two bare machines to the page with the first answered frame."""

from __future__ import annotations

import http.client
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

from tests.system.rig import Machine, Wire
from tests.system.rig.workstation import BLOCK, ROOT, Workstation, typed

BUNDLE = BLOCK.findall((ROOT / "docs/first-board.md").read_text())[0]
PORT = 8480
PATIENCE_S = 60.0


def asked(path: str, *, cookie: str = "", form: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Status, cookie and body."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=20)
    try:
        connection.request(
            "POST" if form else "GET",
            path,
            body=urlencode(form) if form else None,
            headers={"Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded"},
        )
        answer = connection.getresponse()
        set_cookie = (answer.getheader("set-cookie") or "").partition(";")[0]
        return answer.status, set_cookie, answer.read().decode()
    finally:
        connection.close()


def answered(page: str, name: str) -> int | None:
    """How many frames of a device were answered, there and here, by the fleet's page."""
    row = next((row for row in page.split("<tr ") if f">{name}</a>" in row), "")
    counts = re.findall(r'data-label="(?:There|Here)">(?:≥ )?(\d+)<', row)
    return sum(map(int, counts)) if counts else None


def test_four_commands_from_bare_machines_to_the_page(
    make_machine: Callable[..., Machine], wire: Wire, tmp_path: Path
) -> None:
    porch = make_machine("porch", wire)
    hall = make_machine("hall", wire, cloud=True)
    desk = Workstation(tmp_path / "desk", [porch, hall])
    typed(BUNDLE, desk)
    *blocks, watching = BLOCK.findall((ROOT / "docs/fleet.md").read_text())
    assert len(blocks) == 3
    printed = [typed(block, desk) for block in blocks]
    assert re.search(r"^hall .* deployed$", printed[0], re.MULTILINE)
    assert re.search(r"^porch .* deployed$", printed[1], re.MULTILINE)
    assert printed[2].split()[0] in ("local", "offloaded", "fallback")
    with subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", watching],
        cwd=ROOT, env=desk.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    ) as tunnel:  # fmt: skip
        try:
            assert tunnel.stdout is not None
            password = tunnel.stdout.readline().strip()
            assert asked("/")[0] == 303  # nothing without the password
            status, cookie, _ = asked("/login", form={"password": password})
            assert status == 303
            assert asked("/static/style.css")[0] == 200
            deadline_s = time.monotonic() + PATIENCE_S
            while not answered(page := asked("/", cookie=cookie)[2], "porch"):
                assert time.monotonic() < deadline_s, page
                time.sleep(0.5)
            assert answered(page, "porch") == 1
            table = hall.run("cloud-server devices").stdout
            assert re.search(r"^porch +up ", table, re.MULTILINE), table
        finally:
            tunnel.terminate()
