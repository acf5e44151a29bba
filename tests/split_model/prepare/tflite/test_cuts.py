"""Which cuts there are, what crosses them, and which are offered."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from split_model.prepare.tflite.cuts import FILL_BYTES, MAX_LIVE, CutPoint, find_cuts, front, offered
from split_model.prepare.tflite.reading import parse_model


def cuts_of(data):
    model = parse_model(data)
    return model.graph, find_cuts(model.graph)


def names(graph, cut):
    return [graph.tensors[index].name for index in cut.live]


def test_residual_block_has_one_and_two_live_tensors(residual):
    graph, cuts = cuts_of(residual())
    assert [(cut.index, len(cut.live)) for cut in cuts.legal] == [(0, 1), (1, 1), (2, 2), (3, 1)]
    assert names(graph, cuts.legal[0]) == ["image"]
    assert cuts.legal[2].raw_bytes == 2 * 4 * 4 * 3 * 4
    macs = [16 * 3 * 2, 16 * 3 * 9 * 3, 0, 16 * 2 * 3]
    assert [cut.head_macs for cut in cuts.legal] == [0, macs[0], macs[0] + macs[1], macs[0] + macs[1]]
    assert all(cut.head_macs + cut.tail_macs == sum(macs) for cut in cuts.legal)


def test_constant_chains_are_no_cut_points_and_do_not_cross(residual):
    graph, cuts = cuts_of(residual(half=True))
    assert [op.name for op in graph.ops].count("DEQUANTIZE") == 3
    assert [len(cut.live) for cut in cuts.legal] == [1, 1, 2, 1]
    assert [cut.index for cut in cuts.legal] == [0, 2, 4, 5]


def test_input_used_late_and_early_output_are_live_throughout(builder):
    build = builder()
    image, mask = build.tensor([1, 2, 2, 1], name="image"), build.tensor([1, 2, 2, 1], name="mask")
    early = build.op("RELU", [image], build.tensor([1, 2, 2, 1], name="early"))
    middle = build.op("MUL", [early, early], build.tensor([1, 2, 2, 1], name="middle"))
    late = build.op("ADD", [middle, mask], build.tensor([1, 2, 2, 1], name="late"))
    graph, cuts = cuts_of(build.build([mask, image], [late, early]))
    assert [names(graph, cut) for cut in cuts.legal] == [
        ["mask", "image"],
        ["mask", "early"],
        ["mask", "early", "middle"],
    ]


def test_ops_without_effect_make_no_cut_of_their_own(builder):
    build = builder()
    image = build.tensor([1, 2, 2, 1])
    build.op("RELU", [image], [1, 2, 2, 1])  # nobody reads it
    first = build.op("RELU", [image], [1, 2, 2, 1])
    build.op("RELU", [first], [1, 2, 2, 1])
    graph, cuts = cuts_of(build.build([image], [build.op("RELU", [first], [1, 2, 2, 1])]))
    assert [op.needed for op in graph.ops] == [False, True, False, True]
    assert [cut.index for cut in cuts.legal] == [0, 2]


def test_what_no_release_carries_is_excluded_with_a_reason(builder):
    build = builder()
    image = build.tensor([1, 2, 2, 1])
    wide = build.op("CAST", [image], build.tensor([1, 2, 2, 1], dtype="float64", name="wide"))
    back = build.op("CAST", [wide], [1, 2, 2, 1])
    scalar = build.op("SUM", [back, build.tensor([4], np.arange(4, dtype=np.int32), dtype="int32")], [])
    _, cuts = cuts_of(build.build([image], [build.op("RELU", [scalar], [])]))
    assert [cut.index for cut in cuts.legal] == [0, 2]
    assert [index for index, _ in cuts.excluded] == [1, 3]
    assert "float64" in cuts.excluded[0][1]
    assert "shape []" in cuts.excluded[1][1]


def test_hundreds_of_live_tensors_are_no_cut(builder):
    build = builder()
    image = build.tensor([1, 2, 2, 1])
    parts = [build.op("RELU", [image], [1, 2, 2, 1]) for _ in range(MAX_LIVE + 1)]
    whole = build.op("CONCATENATION", parts, [1, 2, 2, MAX_LIVE + 1])
    _, cuts = cuts_of(build.build([image], [build.op("RELU", [whole], [1, 2, 2, MAX_LIVE + 1])]))
    assert [index for index, _ in cuts.excluded] == [MAX_LIVE, MAX_LIVE + 1]


def point(index, macs, size, shapes=((1, 4),)):
    return CutPoint(
        index=index, live=(index,), shapes=shapes, raw_bytes=size, head_macs=macs, tail_macs=1000 - macs
    )


def test_front_drops_only_what_another_beats_in_both():
    cuts = [point(0, 0, 100), point(1, 10, 200), point(2, 20, 50), point(3, 30, 50), point(4, 40, 10)]
    assert [cut.index for cut in front(cuts)] == [0, 2, 4]


def test_of_equals_the_one_after_the_activation_is_kept_but_not_after_a_reshape():
    cuts = [point(0, 0, 100), point(1, 10, 50), point(2, 10, 50), point(3, 10, 50, ((4, 1),))]
    assert [cut.index for cut in front(cuts)] == [0, 2]


def test_cut_0_is_a_candidate_even_if_dominated():
    cuts = [point(0, 0, 100), point(1, 0, 25), point(2, 10, 10)]
    assert [cut.index for cut in offered(cuts)] == [0, 1, 2]


def test_thinning_keeps_the_ends_and_the_largest_drop():
    cuts = [point(index, 10 * index, 10_000 - index) for index in range(30)]
    cuts += [point(index, 10 * index, 500 - index) for index in range(30, 60)]
    chosen = [cut.index for cut in offered(cuts, 5)]
    assert len(chosen) == 5
    assert {0, 30, 59} <= set(chosen)


def test_free_places_go_to_the_leanest_far_from_the_others():
    """As in EfficientNet: later cuts of a stage are as lean as its first, those inside a block six times as fat."""
    cuts = [point(0, 0, 600), point(1, 100, 100), point(2, 300, 600), point(3, 500, 100), point(4, 505, 100)]
    assert [cut.index for cut in front(cuts)] == [0, 1]
    assert [cut.index for cut in offered(cuts, 8)] == [0, 1, 4]
    assert [cut.index for cut in offered([*cuts, point(5, 800, 199), point(6, 900, 201)], 8)] == [0, 1, 4, 5]


def test_an_input_leaner_than_the_features_takes_no_places_from_them():
    """As in a small classifier: 784 bytes of input, thousands of features, 64 at the end."""
    sizes = [(0, 784), (10, 12_544), (90, 6272), (340, 3136), (500, 3136), (660, 3136), (1000, 64)]
    cuts = [point(index, macs, size) for index, (macs, size) in enumerate(sizes)]
    assert [cut.index for cut in front(cuts)] == [0, 6]
    assert [cut.index for cut in offered(cuts, 8)] == [0, 2, 3, 4, 5, 6]


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=1, max_size=40),
    st.integers(1, 12),
)
def test_offered_cuts_are_in_order_bounded_and_lean(pairs, count):
    cuts = [point(index, macs, size) for index, (macs, size) in enumerate(sorted(pairs))]
    chosen = offered(cuts, count)
    assert 0 < len(chosen) <= count
    assert [cut.index for cut in chosen] == sorted({cut.index for cut in chosen})
    lean = {0, *(cut.index for cut in front(cuts))}
    for cut in chosen:
        if cut.index > 0:
            least = min(other.raw_bytes for other in cuts if other.index > 0 and other.head_macs <= cut.head_macs)
            assert cut.raw_bytes <= FILL_BYTES * least
    if len(lean) <= count:
        assert lean <= {cut.index for cut in chosen}
