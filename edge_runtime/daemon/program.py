"""What a running program has from its start to its end, whatever config is in force."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge_runtime.board.board import Board, make_board
from edge_runtime.loop.counters import Counters
from split_model.service.heartbeats import Heartbeats


@dataclass(frozen=True)
class Program:
    """What outlives a config: the counters, the watchdog's view, and the board's hardware.

    ``patience_s``: the least delay, in seconds, after which anything counts as stuck. ``stopped``: whether the
    program was told to stop. ``doing`` hears what a start is at. ``make_board`` gives the board for a slowdown.
    ``persistent``: it is a service, which goes on although no source or no sink works, and tries them again.
    """

    counters: Counters
    beats: Heartbeats
    patience_s: float
    stopped: Callable[[], bool]
    doing: Callable[[str], None]
    make_board: Callable[[float], Board] = make_board
    persistent: bool = False
