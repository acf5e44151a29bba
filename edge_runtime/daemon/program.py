"""The parts of a running program that outlive its configs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge_runtime.board.board import Board, make_board
from edge_runtime.loop.counters import Counters
from split_model.service.heartbeats import Heartbeats


@dataclass(frozen=True)
class Program:
    """The parts that outlive a config: counters, the watchdog's tasks, and the board's hardware.

    ``patience_s``: the minimum delay, in seconds, after which a task counts as stuck. ``stopped``: whether the
    program received a stop signal. ``doing``: called with each step of the start. ``make_board``: returns the
    board, given a slowdown. ``persistent``: the program is a service; it goes on although no source or no sink
    works, and tries them again.
    """

    counters: Counters
    beats: Heartbeats
    patience_s: float
    stopped: Callable[[], bool]
    doing: Callable[[str], None]
    make_board: Callable[[float], Board] = make_board
    persistent: bool = False
