"""Whose key is whose at the server: names that are taken, keys that were rotated, boards that leave."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from typing import Any, cast

import pytest

from deploy.enrol import Server, enrol, free_name, look, refuse_revoked
from deploy.errors import DeployError, NotAllowedError
from deploy.install import Installation, Job
from deploy.remote import Remote

OTHER, OLD, NEW = "o" * 40, "a" * 40, "n" * 40
SHA6 = hashlib.sha256(NEW.encode()).hexdigest()[:6]


class Hall:
    """Stands for the SSH connection to a server, or to a board: what was asked of it, in order."""

    destination = "porch"

    def __init__(self, *, says: str = "", refuses: str = "") -> None:
        self.asked: list[tuple[str, ...]] = []
        self._says, self._refuses = says, refuses

    def step(self, script: str, *arguments: str, **_: Any) -> str:
        self.asked.append((script, *arguments))
        if self._refuses in arguments:
            raise DeployError("no")
        return self._says

    def hostname(self) -> str:
        return "fd00::7"


def server(devices: dict[str, str], hall: Hall | None) -> Server:
    return Server("hall", "tcp://hall:5555", "k" * 40, devices, "/srv/server.toml", cast("Remote", hall))


def allowed(hall: Hall) -> list[tuple[str, ...]]:
    return [asked[3:] for asked in hall.asked if asked[1] == "allow"]


def test_a_second_board_of_the_same_name_does_not_evict_the_first() -> None:
    hall = Hall()
    there = server({"raspberrypi": OTHER}, hall)
    said = enrol(there, "raspberrypi", NEW)
    assert allowed(hall) == [(f"raspberrypi-{SHA6}", NEW)]
    assert f"raspberrypi-{SHA6} may connect" in said
    assert there.devices == {"raspberrypi": OTHER, f"raspberrypi-{SHA6}": NEW}
    assert enrol(there, "raspberrypi", NEW) == ""
    assert len(hall.asked) == 1


@pytest.mark.parametrize("how", [{"earlier": OLD}, {"replace": True}])
def test_a_key_is_replaced_where_it_is_the_boards_own_or_the_user_says_so(how: dict[str, Any]) -> None:
    hall = Hall()
    enrol(server({"porch": OLD}, hall), "porch", NEW, **how)
    assert allowed(hall) == [("porch", NEW, "replace")]


def test_the_name_made_for_a_board_is_one_the_server_takes() -> None:
    assert len(free_name(server({"x" * 64: OTHER}, None), "x" * 64, NEW)) == 64


def test_an_ipv6_address_of_the_server_is_bracketed() -> None:
    told = {"keys": {"public_key": "k" * 40}, "config": {"server": {"listen": "tcp://*:5556"}}, "devices": []}
    hall = Hall(says=json.dumps(told))
    asked: list[str] = []

    def connect(destination: str) -> Remote:
        asked.append(destination)
        return cast("Remote", hall)

    found = look("admin@[fd00::7]", address="", public_key="", config="c", connect=connect)
    assert (asked, found.address) == (["admin@fd00::7"], "tcp://[fd00::7]:5556")


def uninstalled(facts: str, there: Server | None, board: Hall | None = None) -> list[str]:
    job = Job(
        "edge-runtime", "litert", (), "", {}, servers=(there,) if there else (), server_config="/srv/server.toml"
    )
    remote = board or Hall(says=facts)
    outcome = Installation(job, cast("Remote", remote)).uninstall(purge=False)
    assert outcome.exit_code == 0
    return outcome.pending


def test_uninstalling_revokes_every_key_of_the_board_and_only_those() -> None:
    hall = Hall()
    there = server({"porch-2": NEW, "porch": OLD, "yard": OTHER}, hall)
    assert uninstalled(f"public_key {NEW}\npublic_key.old {OLD}\n", there) == []
    assert there.devices == {"yard": OTHER}
    assert sorted(asked[-1] for asked in hall.asked) == ["porch", "porch-2"]


def test_uninstalling_says_what_could_not_be_revoked() -> None:
    listing = "sudo cloud-server devices list -c /srv/server.toml  # porch: "
    here = f"public_key {NEW}\n"
    assert uninstalled(here, server({"porch": OTHER}, Hall()))[0].startswith(listing + "no entry has its key")
    assert uninstalled("release 1\n", server({"porch": OTHER}, Hall()))[0].startswith(
        listing + "its key is unknown"
    )
    refused = uninstalled(here, server({"porch-2": NEW}, Hall(refuses="revoke")))
    assert refused == ["sudo cloud-server devices revoke -c /srv/server.toml porch-2"]
    assert uninstalled(f"hostname attic\n{here}", None) == [
        "sudo cloud-server devices revoke -c /srv/server.toml attic"
    ]
    assert uninstalled("hostname attic\n", server({}, Hall())) == []  # nothing of ours was there


def test_the_key_is_revoked_before_the_board_forgets_it() -> None:
    both = Hall(says=f"public_key {NEW}\n")
    uninstalled("", server({"porch": NEW}, both), both)
    assert [asked[1] if asked[0] == "on_server.sh" else asked[2] for asked in both.asked] == [
        "facts",
        "revoke",
        "uninstall",
    ]


def test_a_board_whose_key_was_revoked_is_not_admitted_again_by_itself() -> None:
    told = {
        "keys": {"public_key": "k" * 40},
        "config": {"server": {"listen": "tcp://*:5555"}},
        "devices": [{"name": "attic", "public_key": OTHER}],
        "revoked": [{"name": "porch", "public_key": OLD}],
    }
    hall = Hall(says=json.dumps(told))
    there = look("admin@hall", address="", public_key="", config="c", connect=lambda _: cast("Remote", hall))
    for keys in ((OLD, "", ""), (NEW, OLD, ""), (NEW, "", OLD)):  # a rotation of the key is no way around it
        with pytest.raises(NotAllowedError, match=r"hall has revoked this board's key \(porch\); .*--readmit"):
            refuse_revoked(there, keys)
    refuse_revoked(there, (OTHER, OLD, ""))  # allowed by its present key: the old one was rotated out
    refuse_revoked(there, ("", "", ""))
    refuse_revoked(there, (NEW, "", ""))


def test_the_deployment_of_a_revoked_board_ends_before_anything_is_sent() -> None:
    board = Hall(says=f"machine x86_64\nroot yes\npublic_key {OLD}\n")
    there = replace(server({}, Hall()), revoked={OLD: "porch"})
    job = Job("edge-runtime", "litert", (), "", {}, servers=(there,))
    outcome = Installation(job, cast("Remote", board)).run()
    assert outcome.exit_code == os.EX_NOPERM
    assert "--readmit" in outcome.result
    assert [asked[2] for asked in board.asked] == ["facts"]
    again = Installation(replace(job, readmit=True), cast("Remote", board)).run()
    assert "revoked" not in again.result


def test_a_board_of_two_servers_is_revoked_at_both_and_what_is_left_says_where() -> None:
    board, hall = Hall(says=f"machine x86_64\npublic_key {NEW}\n"), Hall()
    away = replace(server({}, None), destination="loft", config="/loft.toml")
    there = server({"porch": NEW}, hall)
    job = Job("edge-runtime", "litert", (), "", {}, servers=(there, away), name="porch")
    outcome = Installation(job, cast("Remote", board)).uninstall(purge=False)
    assert hall.asked == [("on_server.sh", "revoke", "/srv/server.toml", "porch")]
    assert outcome.pending == ["sudo cloud-server devices revoke -c /loft.toml porch  # loft"]


def test_a_board_that_one_of_two_servers_has_revoked_is_not_deployed() -> None:
    board = Hall(says=f"machine x86_64\nroot yes\npublic_key {OLD}\n")
    loft = replace(server({}, Hall()), destination="loft", revoked={OLD: "porch"})
    job = Job("edge-runtime", "litert", (), "", {}, servers=(server({"porch": OLD}, Hall()), loft))
    outcome = Installation(job, cast("Remote", board)).run()
    assert outcome.exit_code == os.EX_NOPERM
    assert "loft has revoked" in outcome.result
