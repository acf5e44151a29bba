"""Which of two servers is used: the sooner one, without going to and fro."""

from __future__ import annotations

import math

from edge_runtime.planner.planner import Hysteresis
from edge_runtime.planner.server_choice import ServerChoice

BOTH = (True, True)


def choice() -> ServerChoice:
    return ServerChoice(Hysteresis(min_gain=0.1, min_gain_s=0.01, dwell_s=1.0))


def test_a_clear_gain_moves_it_and_a_small_one_does_not() -> None:
    chosen = choice()
    assert chosen.choose([0.100, 0.095], up=BOTH, now_s=10.0) == 0  # neither 10 ms nor a tenth
    assert chosen.choose([0.100, 0.080], up=BOTH, now_s=10.1) == 1
    assert chosen.choose([0.010, 0.080], up=BOTH, now_s=10.5) == 1  # moved a moment ago
    assert chosen.choose([0.010, 0.080], up=BOTH, now_s=11.2) == 0


def test_a_server_that_cannot_be_used_is_left_at_once() -> None:
    chosen = choice()
    assert chosen.choose([math.inf, 0.500], up=BOTH, now_s=10.0) == 1
    assert chosen.choose([0.100, math.inf], up=BOTH, now_s=10.01) == 0


def test_where_neither_can_be_used_the_connected_one_is_in_use() -> None:
    chosen = choice()
    assert chosen.choose([math.inf, math.inf], up=BOTH, now_s=10.0) == 0
    assert chosen.choose([math.inf, math.inf], up=(False, True), now_s=10.1) == 1
    assert chosen.choose([math.inf, math.inf], up=BOTH, now_s=10.2) == 1
    assert chosen.choose([math.inf, math.inf], up=(False, False), now_s=10.3) == 1
