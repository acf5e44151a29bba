"""The cache that devices share: bounded, and nobody loses to one that uses more than its part."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cloud_server.shared_cache import HELD_S, SAME_USE_S, SharedCache

LIMIT = 12
#: Each of three devices may use as much without losing it, whatever the others use.
SHARE = LIMIT // 3


def use(cache: SharedCache, key: object, size: int, device: str, now_s: float) -> None:
    cache.use(key, str(key), device=device, now_s=now_s, size=size)
    cache.make_room(lambda: cache.size > LIMIT, now_s, may_go=lambda other: other != key)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), min_size=20, max_size=200))
def test_a_device_that_cycles_pushes_out_nothing_of_those_that_keep_to_their_share(uses):
    cache: SharedCache[object, str] = SharedCache()
    kept = set()
    for number, (is_decent, which) in enumerate(uses):
        if is_decent:
            key = ("decent", which % SHARE)
            use(cache, key, 1, "decent", number * SAME_USE_S)
            kept.add(key)
        else:
            use(cache, ("cycled", which), 1, f"cycler {which % 2}", number * SAME_USE_S)
        assert cache.size <= LIMIT
        assert all(key in cache for key in kept)


def test_of_one_device_the_entry_used_longest_ago_goes():
    cache: SharedCache[object, str] = SharedCache()
    for number, key in enumerate(("old", "renewed", "young", "renewed")):
        use(cache, key, 4, "only", float(number))
    use(cache, "new", 4, "only", 9.0)
    assert [key in cache for key in ("old", "renewed", "young", "new")] == [False, True, True, True]


def test_what_nobody_used_for_long_goes_before_what_a_device_with_more_uses_now():
    cache: SharedCache[object, str] = SharedCache()
    use(cache, "abandoned", 4, "gone", 0.0)
    for key in ("one", "two"):
        use(cache, key, 4, "busy", HELD_S)
    use(cache, "three", 4, "busy", HELD_S + 1.0)
    assert [key in cache for key in ("abandoned", "one", "two", "three")] == [False, True, True, True]


def test_an_entry_that_may_not_go_stays_and_the_next_goes():
    cache: SharedCache[object, str] = SharedCache()
    for number, key in enumerate(("borrowed", "idle")):
        cache.use(key, key, device="only", now_s=float(number), size=8)
    assert cache.make_room(lambda: cache.size > 8, 2.0, may_go=lambda key: key != "borrowed") == 1
    assert "borrowed" in cache
    assert "idle" not in cache
    assert cache.make_room(lambda: True, 2.0, may_go=lambda key: key != "borrowed") == 0  # nothing else is left


class Uses(RuleBasedStateMachine):
    """Devices, entries and time against a plain model: sums, and an entry lives as long as somebody holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: SharedCache[int, str] = SharedCache()
        self.sizes: dict[int, int] = {}
        self.now_s = 0.0

    @rule(key=st.integers(0, 9), device=st.sampled_from("abc"), size=st.integers(1, 5))
    def use(self, key, device, size):
        self.cache.use(key, f"value {key}", device=device, now_s=self.now_s, size=size)
        self.sizes.setdefault(key, size)
        assert self.cache.get(key) == f"value {key}"

    @rule(seconds=st.sampled_from([0.0, 0.05, 1.0, HELD_S]))
    def time_passes(self, seconds):
        self.now_s += seconds

    @rule(limit=st.integers(0, 20), pinned=st.integers(0, 9))
    def make_room(self, limit, pinned):
        before = len(self.cache)
        went = self.cache.make_room(lambda: self.cache.size > limit, self.now_s, may_go=lambda key: key != pinned)
        assert before - went == len(self.cache)
        assert self.cache.size <= max(limit, self.sizes.get(pinned, 0))
        assert pinned not in self.sizes or pinned in self.cache
        self.sizes = {key: size for key, size in self.sizes.items() if key in self.cache}

    @invariant()
    def the_size_is_the_sum(self):
        assert self.cache.size == sum(self.sizes.values())
        assert len(self.cache) == len(self.sizes) == len(self.cache.values())


TestUses = Uses.TestCase
TestUses.settings = settings(max_examples=100, stateful_step_count=50)
