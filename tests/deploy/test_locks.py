"""The lock files say what constraints.txt says, for every target; 'python -m deploy.locks' makes them again."""

from __future__ import annotations

import pytest
from packaging.utils import canonicalize_name

from deploy.errors import UnfitError
from deploy.locks import BACKENDS, EXTRAS, ROOT, _environment, _pins, _wanted, lock_path, read_lock, targets
from deploy.target import Python, Target

EVERY = [pytest.param(backend, target, id=f"{backend}-{target.name}") for backend, target in targets()]

_WHAT = {"camera": "opencv-python-headless", "heif": "pillow-heif", "web": "starlette"}


@pytest.mark.parametrize(("backend", "target"), EVERY)
def test_a_lock_holds_the_constrained_versions_of_all_that_is_required(backend: str, target: Target) -> None:
    from packaging.requirements import Requirement

    extras, constraints, _ = BACKENDS[backend]
    environment = _environment(target)
    pins = _pins(ROOT / constraints, environment)
    locked = read_lock(lock_path(target, backend))
    assert {name: version for name, (version, _) in locked.items()} == {name: pins[name] for name in locked}
    for text in _wanted(extras):
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            version, _ = locked[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), text


@pytest.mark.parametrize(("backend", "target"), EVERY)
def test_an_extra_has_a_lock_of_what_it_needs_besides(backend: str, target: Target) -> None:
    _, constraints, _ = BACKENDS[backend]
    pins = _pins(ROOT / constraints, _environment(target))
    for extra in EXTRAS:
        locked = read_lock(lock_path(target, backend, extra))
        assert _WHAT[extra] in locked
        assert {name: version for name, (version, _) in locked.items()} == {name: pins[name] for name in locked}
        assert not locked.keys() & read_lock(lock_path(target, backend)).keys()


def test_the_marker_of_the_target_decides_and_not_of_this_interpreter() -> None:
    old, new = (Target("aarch64", Python("", (3, minor), 64, venv=True), (2, 36)) for minor in (10, 12))
    assert "tomli" in read_lock(lock_path(old, "litert"))
    assert "tomli" not in read_lock(lock_path(new, "litert"))


def test_a_target_without_a_lock_is_named() -> None:
    target = Target("aarch64", Python("", (3, 13), 64, venv=True), (2, 36))
    with pytest.raises(
        UnfitError, match=r"no lock for cp313-aarch64 with the backend legacy; choose one of .*cp311"
    ):
        lock_path(target, "legacy")
