"""The cache of plans: bounded, and fair to those who use few."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloud_server.plan_cache import PlanCache

LIMIT, DEVICES = 12, 4
#: So many each device may use without ever losing one, whatever the others do.
SHARE = LIMIT // DEVICES


USES = st.tuples(st.sampled_from(["decent", "other"]), st.integers(0, SHARE - 1)) | st.integers(0, 40)


@given(st.lists(USES, min_size=30))
def test_whoever_uses_no_more_than_a_share_loses_nothing(uses: list[tuple[str, int] | int]) -> None:
    """Two devices keep to a few plans, one of which both use; two more ask for everything there is."""
    cache = PlanCache(LIMIT)
    kept: dict[object, str] = {}
    for number, used in enumerate(uses):
        if isinstance(used, int):
            cache.use(("made up", used), str(number), device=f"mad {number % 2}")
            assert cache.get(("made up", used)) is not None
        else:
            device, which = used
            key = "shared" if which == 0 else used
            made = kept.setdefault(key, str(number))
            cache.use(key, made, device=device)
        assert len(cache) <= LIMIT
        assert all(cache.get(key) == made for key, made in kept.items())


def test_a_plan_goes_with_the_last_that_holds_it() -> None:
    cache = PlanCache(2)
    for device in ("a", "b"):
        cache.use("shared", "plan", device=device)
    cache.use("own", "plan", device="a")
    cache.use("new", "plan", device="a")  # a holds most, and lets go of "shared" first, which b still holds
    assert [cache.get(key) for key in ("shared", "own", "new")] == ["plan", None, "plan"]
