"""Models of odd kinds, made op by op, and data for them: indices, booleans, open sizes, types without a scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tests.split_model.prepare.made_models import ModelBuilder

Arrays = dict[str, np.ndarray]
Made = tuple[bytes, Arrays]
SAMPLES = 24


class Strange(ModelBuilder):
    """A builder that knows more ops, by options class, and outputs of any dtype."""

    def apply(
        self, name: str, inputs: Sequence[int], *outputs: int, options: str | None = None, **fields: Any
    ) -> int:
        """Append an op that writes ``outputs``; the first of them."""
        made = schema.OperatorT(
            opcodeIndex=self._code(name, None),
            inputs=np.asarray(inputs, np.int32),
            outputs=np.asarray(outputs, np.int32),
        )
        if options is not None:
            made.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            made.builtinOptions = getattr(schema, options + "T")()
            for field, value in fields.items():
                setattr(made.builtinOptions, field, value)
        self.graph.operators.append(made)
        return outputs[0]

    def ints(self, values: Any, dtype: str = "int32") -> int:
        array = np.asarray(values, dtype)
        return self.tensor(array.shape, array, dtype=dtype)

    def cast(self, source: int, shape: Sequence[int], dtype: str) -> int:
        return self.apply("CAST", [source], self.tensor(shape, dtype=dtype), options="CastOptions")

    def dense(self, source: int, taken: int, given: int) -> int:
        weights = self.weights([given, taken])
        return self.apply(
            "FULLY_CONNECTED", [source, weights], self.tensor([1, given]), options="FullyConnectedOptions"
        )

    def gather(self, table: int, ids: int, shape: Sequence[int], **more: Any) -> int:
        return self.apply("GATHER", [table, ids], self.tensor(shape, **more), options="GatherOptions")


def floats(*shape: int, name: str = "inputs") -> Arrays:
    return {name: np.random.default_rng(5).normal(size=(SAMPLES, *shape)).astype(np.float32)}


def ids(*shape: int, most: int = 50, dtype: str = "int32", name: str = "inputs") -> Arrays:
    return {name: np.random.default_rng(6).integers(0, most, (SAMPLES, *shape)).astype(dtype)}


# Types that cross a cut without being features: one such cut must not end everything.


def _quantised(dtype: str, **scale: Any) -> Made:
    build = Strange()
    x = build.tensor([1, 8])
    wide = build.tensor([1, 8], dtype=dtype, **scale)
    op = "QUANTIZE" if scale else "CAST"
    middle = build.apply(op, [x], wide, options="CastOptions" if op == "CAST" else "QuantizeOptions")
    back = build.apply(
        "DEQUANTIZE" if scale else "CAST", [middle], build.tensor([1, 8]), options=None if scale else "CastOptions"
    )
    return build.build([x], [build.dense(back, 8, 3)]), floats(1, 8)


def int64_crossing() -> Made:
    return _quantised("int64")


def int16_without_scale() -> Made:
    return _quantised("int16")


def uint8_without_scale() -> Made:
    return _quantised("uint8")


def float16_crossing() -> Made:
    return _quantised("float16")


def int8_with_scale() -> Made:
    return _quantised("int8", scale=[0.05], zero_point=[3])


def int8_input_without_scale() -> Made:
    build = Strange()
    x = build.tensor([1, 8], dtype="int8")
    real = build.cast(x, [1, 8], "float32")
    return build.build([x], [build.dense(real, 8, 3)]), ids(1, 8, dtype="int8")


# Integers, and floats, that are indices.


def gather_nd() -> Made:
    build = Strange()
    x = build.tensor([1, 4, 1], dtype="int32")
    rows = build.apply("GATHER_ND", [build.weights([50, 6]), x], build.tensor([1, 4, 6]), options="GatherNdOptions")
    pooled = build.apply("MEAN", [rows, build.ints([1])], build.tensor([1, 6]), options="ReducerOptions")
    return build.build([x], [build.dense(pooled, 6, 3)]), ids(1, 4, 1)


def embedding_lookup() -> Made:
    build = Strange()
    x = build.tensor([4], dtype="int32")
    rows = build.apply("EMBEDDING_LOOKUP", [x, build.weights([50, 6])], build.tensor([4, 6]))
    pooled = build.apply(
        "MEAN", [rows, build.ints([0])], build.tensor([1, 6]), options="ReducerOptions", keepDims=True
    )
    return build.build([x], [build.dense(pooled, 6, 3)]), ids(4)


def one_hot() -> Made:
    build = Strange()
    x = build.tensor([1], dtype="int32")
    parts = [x, build.ints(50), build.tensor([], np.float32(1)), build.tensor([], np.float32(0))]
    hot = build.apply("ONE_HOT", parts, build.tensor([1, 50]), options="OneHotOptions", axis=-1)
    return build.build([x], [build.dense(hot, 50, 3)]), ids(1)


def ids_and_floats() -> Made:
    build = Strange()
    x, words = build.tensor([1, 8]), build.tensor([1], dtype="int32")
    first = build.dense(x, 8, 6)
    rows = build.gather(build.weights([50, 6]), words, [1, 6])
    both = build.apply("ADD", [first, rows], build.tensor([1, 6]), options="AddOptions")
    data = floats(1, 8, name="inputs_0") | ids(1, name="inputs_1")
    return build.build([x, words], [build.dense(both, 6, 3)]), data


def ids_as_floats() -> Made:
    """As exporters write that know no integer inputs."""
    build = Strange()
    x = build.tensor([1, 4])
    shifted = build.apply(
        "ADD", [x, build.tensor([1], np.float32([1]))], build.tensor([1, 4]), options="AddOptions"
    )
    whole = build.cast(shifted, [1, 4], "int32")
    rows = build.gather(build.weights([51, 6]), whole, [1, 4, 6])
    pooled = build.apply("MEAN", [rows, build.ints([1])], build.tensor([1, 6]), options="ReducerOptions")
    return build.build([x], [build.dense(pooled, 6, 3)]), ids(1, 4, dtype="float32")


def int64_ids() -> Made:
    build = Strange()
    x = build.tensor([4], dtype="int64")
    small = build.cast(x, [4], "int32")
    rows = build.gather(build.weights([50, 6]), small, [4, 6])
    pooled = build.apply(
        "MEAN", [rows, build.ints([0])], build.tensor([1, 6]), options="ReducerOptions", keepDims=True
    )
    return build.build([x], [build.dense(pooled, 6, 3)]), ids(4, dtype="int64")


# Booleans.


def _compared(build: Strange, source: int, bound: float) -> int:
    threshold = build.tensor([1], np.float32([bound]))
    return build.apply("GREATER", [source, threshold], build.tensor([1, 8], dtype="bool"), options="GreaterOptions")


def logical() -> Made:
    build = Strange()
    x = build.tensor([1, 8])
    first, second = _compared(build, x, 0.0), _compared(build, x, 0.5)
    both = build.apply(
        "LOGICAL_OR", [first, second], build.tensor([1, 8], dtype="bool"), options="LogicalOrOptions"
    )
    turned = build.apply("LOGICAL_NOT", [both], build.tensor([1, 8], dtype="bool"), options="LogicalNotOptions")
    return build.build([x], [build.dense(build.cast(turned, [1, 8], "float32"), 8, 3)]), floats(1, 8)


def select() -> Made:
    build = Strange()
    x = build.tensor([1, 8])
    mask = _compared(build, x, 0.0)
    zeros = build.tensor([1, 8], np.zeros((1, 8), np.float32))
    kept = build.apply("SELECT_V2", [mask, x, zeros], build.tensor([1, 8]), options="SelectV2Options")
    return build.build([x], [build.dense(kept, 8, 3)]), floats(1, 8)


def bool_input() -> Made:
    build = Strange()
    mask = build.tensor([1, 8], dtype="bool")
    real = build.cast(mask, [1, 8], "float32")
    return build.build([mask], [build.dense(real, 8, 3)]), ids(1, 8, most=2, dtype="bool")


def bool_output() -> Made:
    build = Strange()
    x = build.tensor([1, 8])
    return build.build([x], [_compared(build, build.dense(x, 8, 8), 0.0)]), floats(1, 8)


def masked_with_infinity() -> Made:
    build = Strange()
    x = build.tensor([1, 8])
    scores = build.dense(x, 8, 8)
    mask = _compared(build, scores, 0.0)
    lowest = build.tensor([1, 8], np.full((1, 8), -np.inf, np.float32))
    kept = build.apply("SELECT_V2", [mask, scores, lowest], build.tensor([1, 8]), options="SelectV2Options")
    soft = build.apply("SOFTMAX", [kept], build.tensor([1, 8]), options="SoftmaxOptions", beta=1.0)
    return build.build([x], [soft]), {"inputs": np.abs(floats(1, 8)["inputs"]) + 0.1}


# Sizes that depend on the data.


def where() -> Made:
    build = Strange()
    x = build.tensor([1, 8])
    found = build.apply("WHERE", [_compared(build, build.dense(x, 8, 8), 0.0)], build.tensor([1, 2], dtype="int64"))
    return build.build([x], [found]), floats(1, 8)


def unique() -> Made:
    build = Strange()
    x = build.tensor([1, 8])
    flat = build.apply("RESHAPE", [build.dense(x, 8, 8), build.ints([8])], build.tensor([8]))
    whole = build.cast(flat, [8], "int32")
    one, index = build.tensor([1], dtype="int32"), build.tensor([8], dtype="int32")
    build.apply("UNIQUE", [whole], one, index, options="UniqueOptions", idxOutType=schema.TensorType.INT32)
    return build.build([x], [one, index]), floats(1, 8)


def _count(build: Strange, source: int) -> int:
    """How many values are above zero, int32 []."""
    ones = build.cast(_compared(build, source, 0.0), [1, 8], "int32")
    return build.apply("SUM", [ones, build.ints([0, 1])], build.tensor([], dtype="int32"), options="ReducerOptions")


def top_k_of_the_data() -> Made:
    build = Strange()
    x = build.tensor([1, 8])
    scores = build.dense(x, 8, 8)
    values, places = build.tensor([1, 1]), build.tensor([1, 1], dtype="int32")
    build.apply("TOPK_V2", [scores, _count(build, scores)], values, places, options="TopKV2Options")
    return build.build([x], [values, places]), floats(1, 8)


def mask_of_rows() -> Made:
    """GATHER_ND by WHERE, then one number: rows come and go inside, the answer has a fixed size."""
    build = Strange()
    x = build.tensor([1, 8])
    scores = build.dense(x, 8, 8)
    found = build.apply("WHERE", [_compared(build, scores, 0.0)], build.tensor([1, 2], dtype="int64"))
    kept = build.apply("GATHER_ND", [scores, found], build.tensor([1]), options="GatherNdOptions")
    total = build.apply("SUM", [kept, build.ints([0])], build.tensor([1]), options="ReducerOptions", keepDims=True)
    return build.build([x], [total]), floats(1, 8)


def range_of_the_data() -> Made:
    build = Strange()
    x = build.tensor([1, 8])
    many = _count(build, build.dense(x, 8, 8))
    run = build.apply(
        "RANGE", [build.ints(0), many, build.ints(1)], build.tensor([1], dtype="int32"), options="RangeOptions"
    )
    return build.build([x], [run]), floats(1, 8)


def resized_by_the_data() -> Made:
    build = Strange()
    x = build.tensor([1, 8])
    scores = build.dense(x, 8, 8)
    side = build.apply(
        "MAXIMUM",
        [_count(build, scores), build.ints(1)],
        build.tensor([], dtype="int32"),
        options="MaximumMinimumOptions",
    )
    size = build.apply("PACK", [side, side], build.tensor([2], dtype="int32"), options="PackOptions", valuesCount=2)
    picture = build.apply("RESHAPE", [scores, build.ints([1, 2, 2, 2])], build.tensor([1, 2, 2, 2]))
    grown = build.apply(
        "RESIZE_NEAREST_NEIGHBOR",
        [picture, size],
        build.tensor([1, 1, 1, 2]),
        options="ResizeNearestNeighborOptions",
    )
    return build.build([x], [grown]), floats(1, 8)


def rows_by_the_data() -> Made:
    """TILE by a count: as many rows of six as values are above zero, and nothing in the graph bounds them."""
    build = Strange()
    x = build.tensor([1, 8])
    scores = build.dense(x, 8, 8)
    many = build.apply(
        "MAXIMUM",
        [_count(build, scores), build.ints(1)],
        build.tensor([], dtype="int32"),
        options="MaximumMinimumOptions",
    )
    times = build.apply(
        "PACK", [many, build.ints(1)], build.tensor([2], dtype="int32"), options="PackOptions", valuesCount=2
    )
    rows = build.apply("TILE", [build.dense(scores, 8, 6), times], build.tensor([1, 6]), options="TileOptions")
    return build.build([x], [rows]), floats(1, 8)


def suppression_v5() -> Made:
    """Boxes padded to a fixed number by the op, and how many of them count."""
    build = Strange()
    x = build.tensor([1, 8])
    boxes = build.apply("RESHAPE", [build.dense(x, 8, 80), build.ints([20, 4])], build.tensor([20, 4]))
    scores = build.apply("RESHAPE", [build.dense(x, 8, 20), build.ints([20])], build.tensor([20]))
    limits = [build.ints(10), *(build.tensor([], np.float32(value)) for value in (0.5, 0.0, 0.0))]
    outputs = [build.tensor([10], dtype="int32"), build.tensor([10]), build.tensor([], dtype="int32")]
    build.apply("NON_MAX_SUPPRESSION_V5", [boxes, scores, *limits], *outputs, options="NonMaxSuppressionV5Options")
    return build.build([x], outputs), floats(1, 8)


# Shapes that the file does not say, or says wrongly.


def scalar_output() -> Made:
    build = Strange()
    x = build.tensor([1, 8])
    total = build.apply(
        "SUM", [build.dense(x, 8, 3), build.ints([0, 1])], build.tensor([]), options="ReducerOptions"
    )
    return build.build([x], [total]), floats(1, 8)


def shapes_left_out() -> Made:
    """Each activation without dimensions in the file."""
    build = Strange()
    x = build.tensor([1, 8])
    first = build.dense(x, 8, 6)
    second = build.dense(first, 6, 3)
    for index in (first, second):
        build.graph.tensors[index].shape = np.array([], np.int32)
    return build.build([x], [second]), floats(1, 8)


def wrong_shapes() -> Made:
    """Placeholders without a signature that says so."""
    build = Strange()
    x = build.tensor([1, 8])
    first = build.dense(x, 8, 6)
    grown = build.apply("RESHAPE", [first, build.ints([2, 3])], build.tensor([2, 3]))
    last = build.apply("SOFTMAX", [grown], build.tensor([2, 3]), options="SoftmaxOptions", beta=1.0)
    for index in (grown, last):
        build.graph.tensors[index].shape = np.array([1, 1], np.int32)
    return build.build([x], [last]), floats(1, 8)


def constant_output() -> Made:
    build = Strange()
    x = build.tensor([1, 8])
    return build.build([x], [build.dense(x, 8, 3), build.weights([1, 2])]), floats(1, 8)


def input_as_output() -> Made:
    build = Strange()
    x = build.tensor([1, 8])
    first = build.dense(x, 8, 6)
    return build.build([x], [build.dense(first, 6, 3), x]), floats(1, 8)


def open_batch() -> Made:
    build = Strange()
    x = build.tensor([1, 8], signature=[-1, 8])
    first = build.dense(x, 8, 6)
    second = build.dense(first, 6, 3)
    for index, width in ((first, 6), (second, 3)):
        build.graph.tensors[index].shapeSignature = np.array([-1, width], np.int32)
    return build.build([x], [second]), floats(1, 8)


def constant_features() -> Made:
    """A cut across which nothing tells one sample from another."""
    build = Strange()
    x = build.tensor([1, 8])
    nothing = build.apply(
        "MUL", [x, build.tensor([1], np.float32([0]))], build.tensor([1, 8]), options="MulOptions"
    )
    return build.build([x], [build.dense(nothing, 8, 3)]), floats(1, 8)


NOT_BOUNDED = "depends on the data, and nothing bounds it"

#: The models, with the cuts that are offered and those that are left out; or what the refusal says.
MODELS: dict[Callable[[], Made], tuple[list[int], list[int]] | str] = {
    int64_crossing: ([0, 2], [1]),
    int16_without_scale: ([0, 2], [1]),
    uint8_without_scale: ([0, 2], [1]),
    float16_crossing: ([0, 1, 2], []),
    int8_with_scale: ([0, 1, 2], []),
    int8_input_without_scale: ([1], [0]),
    gather_nd: ([1, 2], [0]),
    embedding_lookup: ([1, 2], [0]),
    one_hot: ([1], [0]),
    ids_and_floats: ([2, 3], [0, 1]),
    ids_as_floats: ([3, 4], [0, 1, 2]),
    int64_ids: ([2, 3], [0, 1]),
    logical: ([0, 5], [1, 2, 3, 4]),
    select: ([0, 2], [1]),
    bool_input: ([1], [0]),
    bool_output: ([0, 1], []),
    masked_with_infinity: ([0, 1], [2, 3]),
    where: ([0, 1], [2]),
    unique: ([0, 1, 2], [3]),
    top_k_of_the_data: ([0, 1], [2, 3]),
    mask_of_rows: ([0, 1], [2]),
    range_of_the_data: NOT_BOUNDED,
    resized_by_the_data: NOT_BOUNDED,
    suppression_v5: ([0, 1, 2, 3, 4], []),
    scalar_output: ([0, 1], []),
    shapes_left_out: ([0, 1], []),
    wrong_shapes: ([0, 1, 2], []),
    constant_output: ([0], []),
    input_as_output: ([0, 1], []),
    open_batch: ([0, 1], []),
    constant_features: ([0], [1]),
}
