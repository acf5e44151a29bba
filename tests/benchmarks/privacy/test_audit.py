"""The audit through the real pipe, at a size that takes seconds; the benchmark has the trials for every bug."""

from __future__ import annotations

import pytest

from benchmarks.privacy import audit
from benchmarks.privacy.audit_pipe import connected
from split_model.privacy import NoisePlan, NoiseSpec

TRIALS = 700
#: What so few trials find: the others are close to the claim and need the benchmark's.
PLAIN = ("left out", "seeded", "length")


@pytest.fixture(scope="module")
def pipe():
    with connected() as pipe:
        yield pipe


@pytest.mark.parametrize("case", [case for case in audit.cases() if not case.bug], ids=lambda case: case.name)
def test_what_leaves_is_as_private_as_it_is_said_to_be(pipe, case):
    found = audit.audit(case, pipe, trials=TRIALS)
    assert found.epsilon <= case.claim


@pytest.mark.parametrize(
    "case", [case for case in audit.cases() if any(name in case.name for name in PLAIN)],
    ids=lambda case: case.name,
)  # fmt: skip
def test_planted_bugs_are_found(pipe, case):
    found = audit.audit(case, pipe, trials=TRIALS)
    assert found.epsilon > case.claim, found


def test_a_time_that_follows_the_content_is_found(pipe):
    """A long wait and a small claim, so that it is found on a busy machine too."""
    plan = NoisePlan.make(NoiseSpec(epsilon=0.25, allocation="uniform"), audit.PLAN.tensors,
                          audit.PLAN.calibration)  # fmt: skip
    release = audit.time_that_follows(0.03, plan)
    slow = audit.Case("slow", plan.whole_input_epsilon, release, audit.read_noise)
    found = audit.audit(slow, pipe, trials=200)
    assert found.epsilon > slow.claim == 0.5, found
    assert "time" in found.event


def test_the_pipe_tells_the_two_secrets_apart_by_their_order_alone(pipe):
    one, other = pipe.observe(lambda bit: memoryview(bytes([bit])), audit.read_codewords, trials=50)
    assert one.values.tolist() == [[0]] * 50
    assert other.values.tolist() == [[1]] * 50
    assert (one.lengths == 1).all()
    assert (one.seconds > 0).all()
