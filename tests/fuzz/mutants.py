"""Run numbered mutants of real and made models through the reader, the reports and the slicer.

usage: python -m tests.fuzz.mutants --count 1000000 [--first 0] [--jobs 1] [--limit-s 5] [--whole-every 0]

Mutant N is the same file on every machine with the same seeds. Each runs in a worker process under a
limit of processor time, which other programs on the machine do not use up; a worker that dies or blocks is
found by its number. With --whole-every K, each Kth mutant also goes
through ``split-model prepare`` as a program of its own, with the backend. Prints one JSON line; exit code 1
where a mutant did anything but pass or be refused in one line.
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import json
import multiprocessing
import random
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from tests.fuzz import exercise as fuzz

WHEELS = Path(__file__).parents[2] / "build" / "wheels"
_WORDS = (0, 1, 2, 4, 64, 0x7F, 0x80, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFC)
#: One in fifty mutants comes from a real model, which takes some thirty times longer than a made one.
_REAL_SHARE = 0.02


class Mutator:
    """Makes mutant N from the seeds."""

    def __init__(self, seeds: list[bytes], made: int) -> None:
        self.seeds = seeds
        self.made = made
        self.places = [fuzz.structure(seed).tolist() for seed in seeds]

    def mutant(self, number: int) -> bytes:
        rng = random.Random(number)
        real = len(self.seeds) > self.made and rng.random() < _REAL_SHARE
        which = rng.randrange(self.made, len(self.seeds)) if real else rng.randrange(self.made)
        places = self.places[which]
        data = bytearray(self.seeds[which])
        for _ in range(rng.choice((1, 1, 1, 2, 3, 4, 8))):
            at = min(rng.choice(places), len(data) - 5)
            word = at & ~3
            how = rng.randrange(7)
            if how == 0:
                data[at] ^= 1 << rng.randrange(8)
            elif how == 1:
                data[at] = rng.choice((0, 1, 2, 127, 128, 255))
            elif how == 2:
                struct.pack_into("<I", data, word, rng.choice(_WORDS))
            elif how == 3:  # an offset to somewhere else in the file
                struct.pack_into("<I", data, word, rng.randrange(len(data)))
            elif how == 4:  # a word from another place
                source = min(rng.choice(places), len(data) - 5) & ~3
                data[word : word + 4] = data[source : source + 4]
            elif how == 5:  # a little more or less than it was
                value = struct.unpack_from("<I", data, word)[0] + rng.choice((-8, -4, -1, 1, 4, 8))
                struct.pack_into("<I", data, word, value & 0xFFFFFFFF)
            else:  # a piece doubled or gone
                length = rng.choice((4, 8, 16, 64))
                if rng.random() < 0.5:
                    data[word:word] = data[word : word + length]
                elif len(data) > length + 64:
                    del data[word : word + length]
        if rng.random() < 0.03:
            del data[rng.randrange(8, len(data)) :]
        return bytes(data)


class TooSlow(Exception):  # the fuzzer's own signal, no error of the product
    """A mutant ran over its limit."""


def alarm(_number: int, _frame: Any) -> None:
    raise TooSlow


def run_one(mutator: Mutator, number: int, limit_s: float, tally: collections.Counter[str]) -> str | None:
    """None where the mutant behaved, else what it did."""
    data = mutator.mutant(number)
    signal.setitimer(signal.ITIMER_PROF, limit_s)
    try:
        message = fuzz.exercise(data)
        signal.setitimer(signal.ITIMER_PROF, 0)
    except TooSlow:
        return f"mutant {number}: over {limit_s:g} s of processor time"
    except BaseException:  # noqa: BLE001  # whatever comes is what we are looking for
        signal.setitimer(signal.ITIMER_PROF, 0)
        return f"mutant {number}: " + traceback.format_exc()
    tally[re.sub(r"'[^']*'|[\d.]+", "#", message)[:60] or "taken"] += 1
    return None


def whole(data: bytes, limit_s: float) -> str | None:
    """The real command on one mutant: an exit code of os.EX_*, one line on stderr, no traceback."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutant.tflite"
        path.write_bytes(data)
        command = [sys.executable, "-m", "split_model", "prepare", str(path), "-o", f"{folder}/b", "--cuts", "3"]
        try:
            done = subprocess.run(command, capture_output=True, timeout=limit_s, check=False)
        except subprocess.TimeoutExpired:
            return f"prepare took over {limit_s:g} s"
        errors = done.stderr.decode(errors="replace")
        if done.returncode not in (0, 64, 65, 66, 69, 73) or "Traceback" in errors:
            return f"prepare: exit {done.returncode}: {errors[-2000:]}"
    return None


def work(first: int, last: int, options: argparse.Namespace, at: Any, results: Any) -> None:
    signal.signal(signal.SIGPROF, alarm)
    seeds = fuzz.seeds(WHEELS)
    mutator = Mutator(seeds, 4)
    tally: collections.Counter[str] = collections.Counter()
    for number in range(first, last):
        at.value = number
        bad = run_one(mutator, number, options.limit_s, tally)
        if bad is None and options.whole_every and number % options.whole_every == 0:
            bad = whole(mutator.mutant(number), 60.0)
        if bad is not None:
            results.put(("bad", bad))
        if number % 1000 == 999:
            results.put(("done", number))
    results.put(("tally", dict(tally)))


class Worker:
    """One process on a range of mutants; started again behind a mutant that killed it."""

    def __init__(self, first: int, last: int, options: argparse.Namespace, results: Any) -> None:
        self.first, self.last, self.options, self.results = first, last, options, results
        self.at = multiprocessing.Value(ctypes.c_int64, first)
        self.process = self._start(first)
        self.seen, self.since_s = first, time.monotonic()

    def _start(self, first: int) -> Any:
        process = multiprocessing.Process(
            target=work, args=(first, self.last, self.options, self.at, self.results), daemon=True
        )
        process.start()
        return process

    def check(self) -> str | None:
        """What the worker was killed by or hangs in, if so; then it goes on behind it."""
        now_s, number = time.monotonic(), int(self.at.value)
        if number != self.seen:
            self.seen, self.since_s = number, now_s
        hangs = now_s - self.since_s > 20 * self.options.limit_s  # the alarm should have ended it long ago
        if self.process.is_alive() and not hangs:
            return None
        if self.process.exitcode == 0:
            return None
        if hangs:
            self.process.kill()
            self.process.join()
        how = "hangs in native code" if hangs else f"killed the process ({self.process.exitcode})"
        self.process = self._start(number + 1)
        self.since_s = now_s
        return f"mutant {number} {how}"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tests.fuzz.mutants", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--limit-s", type=float, default=5.0)
    parser.add_argument("--whole-every", type=int, default=0, metavar="K")
    options = parser.parse_args()
    results: Any = multiprocessing.Queue()
    share = -(-options.count // options.jobs)
    end = options.first + options.count
    firsts = range(options.first, end, share)
    workers = [Worker(first, min(end, first + share), options, results) for first in firsts]
    bad: list[str] = []
    tally: collections.Counter[str] = collections.Counter()
    started_s = said_s = time.monotonic()
    while any(worker.process.is_alive() for worker in workers) or not results.empty():
        while not results.empty():
            kind, value = results.get()
            if kind == "bad":
                bad.append(value)
                print(value, file=sys.stderr, flush=True)
            elif kind == "tally":
                tally.update(value)
        bad += [found for worker in workers if (found := worker.check())]
        if time.monotonic() - said_s > 60:
            said_s = time.monotonic()
            ran = sum(int(worker.at.value) - worker.first for worker in workers)
            print(f"{ran} mutants in {said_s - started_s:.0f} s, {len(bad)} bad", file=sys.stderr, flush=True)
        time.sleep(0.2)
    claim = {"name": "mutants without crash, hang or traceback", "value": options.count - len(bad)}
    print(
        json.dumps(
            {
                "mutants": options.count,
                "first": options.first,
                "bad": len(bad),
                "taken": tally["taken"],
                "commonest": tally.most_common(12),
                "seconds": round(time.monotonic() - started_s),
                "claims": [{**claim, "goal": options.count, "holds": not bad}],
            }
        )
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
