"""Text for people: folded to a terminal, counted with nouns, large numbers in words and rounded the safe way."""

from __future__ import annotations

import io
import math
import os
import pty
import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from split_model.service.terminal_text import columns, counted, fold, in_words, labelled, size


@pytest.mark.parametrize(
    ("value", "up", "down"),
    [
        (0.0, "0", "0"),
        (16.0, "16", "16"),
        (30.9212, "30.93", "30.92"),
        (12544.0, "12,544", "12,544"),
        (100352.3, "100,353", "100,352"),
        (612_999_999.0, "613 million", "612 million"),
        (1.25e9, "1.25 billion", "1.25 billion"),
        (6.131e14, "6.14e+14", "6.13e+14"),
        (math.inf, "inf", "inf"),
    ],
)
def test_amounts_in_words(value: float, up: str, down: str) -> None:
    assert (in_words(value), in_words(value, up=False)) == (up, down)


_TELL = "import sys; from split_model.service.terminal_text import columns; print(columns(sys.stderr))"
_UNITS = {"million": 10**6, "billion": 10**9}


def _read(text: str) -> Fraction:
    number, _, word = text.partition(" ")
    return Fraction(number.replace(",", "")) * _UNITS.get(word, 1)


@given(st.floats(min_value=1e-6, max_value=1e18))
def test_an_amount_spent_is_never_told_too_small_and_one_left_never_too_large(value: float) -> None:
    """But for what floating-point sums are wrong by."""
    slack = Fraction(value) / 10**11
    assert _read(in_words(value)) >= Fraction(value) - slack
    assert _read(in_words(value, up=False)) <= Fraction(value) + slack
    assert _read(in_words(value)) <= Fraction(value) * Fraction(101, 100)


def test_one_is_no_plural() -> None:
    assert [counted(count, "bundle") for count in (0, 1, 1234)] == ["0 bundles", "1 bundle", "1,234 bundles"]
    assert [counted(count, "replica of 1 node", "replicas of 1 node") for count in (1, 2)] == [
        "1 replica of 1 node",
        "2 replicas of 1 node",
    ]
    assert [size(count) for count in (1, 999, 3136, 44e6, 69.1e9)] == [
        "1 byte",
        "999 bytes",
        "3.1 kB",
        "44 MB",
        "69.1 GB",
    ]


@given(st.lists(st.text("abcdef", min_size=1, max_size=30), min_size=1, max_size=40), st.integers(40, 120))
def test_folding_loses_no_word_and_keeps_to_the_width(words: list[str], width: int) -> None:
    folded = fold(" ".join(words), width, indent=10).split("\n")
    assert " ".join(folded).split() == words
    assert all(len(line) <= width for line in folded)
    assert all(line.startswith(" " * 10) for line in folded[1:])


def test_a_word_longer_than_the_line_stays_whole_so_that_it_can_be_copied() -> None:
    key = "k" * 100
    assert key in fold(f"public key {key} of the server", 80).split("\n")


def test_a_pipe_folds_nothing() -> None:
    assert columns(io.StringIO()) is None
    assert fold("word " * 50, None) == "word " * 50


def test_a_label_is_said_once() -> None:
    assert labelled([("link", "up"), ("link", "12 ms"), ("board", "idle")], 80) == (
        "link      up\n          12 ms\nboard     idle"
    )


@pytest.mark.parametrize(("told", "width"), [("", 80), ("132", 132), ("7", 40)])
def test_the_width_is_the_terminal_s(told: str, width: int) -> None:
    """A terminal that tells no size has 80 columns; nothing is narrower than 40."""
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", _TELL],
        stdout=subprocess.PIPE, stderr=theirs, text=True, check=True,
        env={**os.environ, "COLUMNS": told},
    )  # fmt: skip
    os.close(ours)
    os.close(theirs)
    assert int(done.stdout) == width
