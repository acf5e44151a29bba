"""Runs several checks at once, each with a time limit: disks, drivers and libraries may hang."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TypeVar

from split_model.errors import BackendError, SplitModelError
from split_model.service.stoppable_thread import StoppableThread

T = TypeVar("T")

#: Seconds after which a check counts as hanging.
_WITHIN_S = 10.0
_LOOK_EVERY_S = 0.01
_HANGS = ("its disk, driver or library hangs", "repair it, or leave it out")


def each_within(
    work: Mapping[str, Callable[[], T]],
    within_s: float = _WITHIN_S,
    *,
    grace_s: float | None = None,
    hangs: tuple[str, str] = _HANGS,
) -> dict[str, T | Exception]:
    """Call several functions at once, each in a thread; returns their results or errors.

    Args:
        work: The functions by name; the thread of one that hangs is abandoned.
        within_s: Time limit of each, in seconds.
        grace_s: Time limit of the others in seconds, once one of them has a result.
        hangs: Problem and remedy for the error of one that takes longer.

    """
    results: dict[str, T | Exception] = {}

    def run(name: str, do: Callable[[], T]) -> None:
        try:
            results[name] = do()
        except Exception as error:  # noqa: BLE001  whoever asked looks at it
            results[name] = error

    threads = {name: StoppableThread(f"open-{name}", partial(run, name, do)) for name, do in work.items()}
    for thread in threads.values():
        thread.start()
    until_s = time.monotonic() + within_s
    while len(results) < len(work) and (left_s := until_s - time.monotonic()) > 0:
        if grace_s is not None and any(not isinstance(found, Exception) for found in list(results.values())):
            until_s, grace_s = min(until_s, time.monotonic() + grace_s), None
        time.sleep(min(left_s, _LOOK_EVERY_S))
    done = dict(results)
    for name in work:
        if name not in done:
            done[name] = BackendError(
                f"{name} does not answer within {within_s:.3g} s: {hangs[0]}", remedy=hangs[1]
            )
    return done


def faults_of(results: Mapping[str, object]) -> dict[str, Exception]:
    """The errors among the results of `each_within`."""
    return {name: found for name, found in results.items() if isinstance(found, Exception)}


def refuse_faults(faults: Iterable[Exception]) -> None:
    """Raise the first fault, with the others in its text."""
    errors = list(faults)
    if not errors:
        return
    first = errors[0]
    if len(errors) > 1 and isinstance(first, SplitModelError):
        more = ". And: ".join([first.remedy, *(str(error) for error in errors[1:])])
        raise type(first)(first.problem, remedy=more) from None
    raise first
