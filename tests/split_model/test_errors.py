"""Errors carry their parts, print as one line, and survive being sent between processes."""

from __future__ import annotations

import inspect
import pickle

import pytest

from split_model import errors
from split_model.errors import SplitModelError

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, SplitModelError)]


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_has_its_parts_and_prints_one_line(kind: type[SplitModelError]) -> None:
    error = kind("a.toml: no such file", remedy="name another with -c")
    assert (error.problem, error.remedy) == ("a.toml: no such file", "name another with -c")
    assert str(error) == "a.toml: no such file; name another with -c"
    assert str(kind("the disk is full")) == "the disk is full"


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_of_another_process_has_the_same_parts(kind: type[SplitModelError]) -> None:
    again = pickle.loads(pickle.dumps(kind("a", remedy="b")))
    assert (type(again), again.problem, again.remedy, str(again)) == (kind, "a", "b", "a; b")
