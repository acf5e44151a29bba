"""A small fleet in virtual time: it settles where its server is full, and few devices move."""

from __future__ import annotations

import pytest

from benchmarks.server.fleet import settled
from benchmarks.server.virtual_fleet import FleetScene, play
from split_model.protocol import messages as wire

#: A tenth of the fleet, at a tenth of the server; waits are lumpier than with all, so the bounds are wider.
CROWDED = FleetScene(devices=20, tail_factor=15.0, seconds=70.0, warm_up_s=30.0)


@pytest.mark.parametrize("versions", [(1,), wire.VERSIONS])
def test_a_fleet_that_asks_for_too_much_settles(versions):
    played = play(FleetScene(**{**vars(CROWDED), "versions": versions}))
    found = settled(played)
    assert found.outcomes["local"] > 0.2 * found.frames
    assert found.outcomes["offloaded"] > 0.2 * found.frames
    assert found.late == 0.0
    assert found.wasted < 0.02
    assert found.moves_mean < 4.0
    assert found.latency < 1.0
    for member in played.members:  # every frame has one answer
        captured_s = [frame.at_s - frame.latency_s for frame in member.frames]
        assert len(captured_s) == len(set(captured_s))


def test_where_there_is_room_for_all_nobody_is_asked_to_leave():
    found = settled(play(FleetScene(devices=10, tail_factor=1.0, seconds=40.0, warm_up_s=20.0)))
    assert set(found.outcomes) == {"offloaded"}
    assert (found.moves_mean, found.lost, found.asks_s) == (0.0, 0.0, 0.0)
