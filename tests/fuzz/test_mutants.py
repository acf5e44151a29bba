"""The fuzzer itself: it runs, it tells the same numbers each time, and it finds what it is there to find."""

from __future__ import annotations

import collections
import json
import signal
import subprocess
import sys
import time

import pytest

from tests.fuzz import mutants

MADE = 4


@pytest.fixture(scope="module")
def mutator():
    return mutants.Mutator(mutants.fuzz.seeds(), MADE)


def test_a_few_hundred_mutants_behave():
    command = [sys.executable, "-m", "tests.fuzz.mutants", "--count", "300", "--jobs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    found = json.loads(done.stdout)
    assert (found["mutants"], found["bad"]) == (300, 0)
    assert found["taken"] > 10
    assert found["claims"][0]["holds"]


def test_mutants_are_numbered(mutator):
    assert mutator.mutant(7) == mutants.Mutator(mutants.fuzz.seeds(), MADE).mutant(7)
    assert len({mutator.mutant(number) for number in range(50)}) > 40


def test_an_exception_and_a_loop_without_end_are_found(mutator, monkeypatch):
    def broken(_data):
        raise ZeroDivisionError

    def endless(_data):
        while True:
            time.sleep(0)

    before = signal.signal(signal.SIGPROF, mutants.alarm)
    try:
        monkeypatch.setattr(mutants.fuzz, "exercise", broken)
        assert "ZeroDivisionError" in mutants.run_one(mutator, 3, 1.0, collections.Counter())
        monkeypatch.setattr(mutants.fuzz, "exercise", endless)
        assert "mutant 3: over 0.2 s" in mutants.run_one(mutator, 3, 0.2, collections.Counter())
    finally:
        signal.signal(signal.SIGPROF, before)


def test_the_whole_command_is_watched_for_tracebacks(mutator, monkeypatch):
    assert mutants.whole(mutator.seeds[0][:200], 60.0) is None
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert mutants.whole(mutator.seeds[0], 60.0).startswith("prepare: exit 1")
