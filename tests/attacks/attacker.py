"""The attacker as a process: mixes all attacks at random, by a seed, until it is ended.

usage: attacker.py JSON   (what `run.py` writes: see `Plan`)

It says ``ready`` and waits for a line, so that it can be put into its share of the processor first. What reached it
and should not have is written to ``report`` line by line, at once.
"""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import local_attacks
import msgspec
import server_attacks
from door import Door, Prey
from local_attacks import LocalDoor

from split_model.protocol.keys import read_pair


class Plan(msgspec.Struct, kw_only=True):
    """What the attacker is told. ``only``: names of attacks, all if it is empty."""

    seed: str
    endpoint: str
    server_key: str
    bundle: str
    cut: int
    total_bytes: int
    shape: tuple[int, ...]
    keys: list[str]
    reckless: list[str]
    doomed: str
    local_path: str | None
    local_protocol: int
    report: str
    only: list[str] = []
    longest_s: float = 2.0


class Report:
    """Lines of JSON, each written as soon as it is known."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def line(self, **fields: object) -> None:
        """Add one."""
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(fields) + b"\n")


def main(arguments: list[str]) -> int:
    """Attack until SIGTERM."""
    plan = msgspec.json.decode(Path(arguments[0]).read_bytes(), type=Plan)
    report, chance, stop = Report(Path(plan.report)), random.Random(plan.seed), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    prey = Prey(plan.endpoint, plan.server_key.encode(), plan.bundle, plan.cut, plan.total_bytes)
    foreign = lambda text: report.line(foreign=text)  # noqa: E731
    keys, reckless = ([read_pair(Path(path)) for path in paths] for paths in (plan.keys, plan.reckless))
    door = Door(prey, keys, reckless, read_pair(Path(plan.doomed)), chance, foreign)
    attacks = {name: (attack, door) for name, attack in server_attacks.ATTACKS.items()}
    if plan.local_path is not None:
        local = LocalDoor(plan.local_path, plan.local_protocol, plan.shape, chance, foreign)
        attacks |= {name: (attack, local) for name, attack in local_attacks.ATTACKS[plan.local_protocol].items()}
    names = plan.only or sorted(attacks)
    print("ready", flush=True)
    sys.stdin.readline()
    done: Counter[str] = Counter()
    while not stop.is_set():
        name = chance.choice(names)
        attack, at = attacks[name]
        report.line(begins=name, at_s=time.monotonic())
        attack(at, time.monotonic() + chance.uniform(0.2, plan.longest_s))
        done[name] += 1
    heard = door.heard + (local.heard if plan.local_path is not None else Counter())
    report.line(done=done, heard=heard)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
