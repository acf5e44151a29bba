"""The audit in through the local socket and out over the network, at a size that takes seconds."""

from __future__ import annotations

from pathlib import Path

from benchmarks.privacy import audit_socket

TRIALS = 300


def test_what_leaves_the_real_program_is_as_private_as_it_is_said_to_be(tmp_path: Path) -> None:
    claim, found = audit_socket.audit(tmp_path, trials=TRIALS)
    assert claim == 2 * audit_socket.EPSILON
    assert found.epsilon <= claim
