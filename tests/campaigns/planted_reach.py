"""Bugs that show only where feeds reach: a third sample, a row of a table, a rare branch, NaN, a small column.

Each has a small model of its own, which verification gets without any data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from modelopt import graph
from tests.campaigns.edits import Edit, bypass, weight

_HEADER = '<ir_version: 9, opset_import: ["" : 17]>'


def _model(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(f"{_HEADER} {text}")
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    return proto


def _numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([11, seed]).standard_normal(shape).astype(np.float32)


def graft(name: str, text: str, *captured: str) -> Edit:
    """Put nodes behind the value `name`: `text` makes ``w`` of ``v``, and may read the values in `captured`."""

    def edit(model: ir.Model) -> None:
        old = _value(model, name)
        inputs = ", ".join(f"float {each}" for each in ("v", *captured))
        made = ir.from_onnx_text(f"{_HEADER} g ({inputs}) => (float w) {{ {text} }}")
        nodes = list(made.graph)
        out = made.graph.outputs[0]
        made.graph.outputs.clear()
        for value in (value for node in nodes for value in node.outputs):
            value.name = f"planted_{value.name}"
        given = [old, *(_value(model, each) for each in captured)]
        made.graph.remove(nodes)
        where = old.graph or old.producer().graph  # type: ignore[union-attr]
        assert where is not None
        graph.replace_value(old, out)
        for inner, value in zip(list(made.graph.inputs), given, strict=True):
            inner.replace_all_uses_with(value)
        producer = old.producer()
        if producer is None:
            where.insert_before(where[0], nodes)
        else:
            where.insert_after(producer, nodes)

    return edit


def _value(model: ir.Model, name: str) -> ir.Value:
    for scope in graph.all_graphs(model):
        for value in (*scope.inputs, *(out for node in scope for out in node.outputs)):
            if value.name == name:
                return value
    raise ValueError(f"there is no value {name}")


def doubled_where(condition: str) -> str:
    """Text that doubles ``v`` where ``c`` holds."""
    return f"{condition} d = Add (v, v) w = Where (c, d, v)"


def doubled_from(first: int, axis: int, rank: int, *, below: bool = False) -> str:
    """Text that doubles ``v`` from an index of an axis on, or the whole of it where the axis is shorter than that."""
    if below:
        return doubled_where(
            f"n = Shape <start = {axis}, end = {axis + 1}> (v) f = Constant <value_int = {first}> () c = Less (n, f)"
        )
    shape = ", ".join("-1" if i == axis else "1" for i in range(rank))
    return doubled_where(
        f"n = Shape <start = {axis}, end = {axis + 1}> (v) z = Constant <value_int = 0> () n0 = Squeeze (n) "
        f"o = Constant <value_int = 1> () r = Range (z, n0, o) f = Constant <value_int = {first - 1}> () "
        f"k = Greater (r, f) s = Constant <value_ints = [{shape}]> () c = Reshape (k, s)"
    )


# The models


def linear() -> onnx.ModelProto:
    """A product on samples of eight numbers."""
    return _model("g (float[b,8] x) => (float[b,8] z) { i = Identity (x) z = MatMul (i, w) }", w=_numbers(8, 8))


def fixed() -> onnx.ModelProto:
    """The same for one sample only."""
    return _model("g (float[1,8] x) => (float[1,8] z) { i = Identity (x) z = MatMul (i, w) }", w=_numbers(8, 8))


def copied() -> onnx.ModelProto:
    """What goes in comes out, times a constant."""
    return _model("g (float[b,16] x) => (float[b,16] z) { i = Identity (x) z = Mul (i, k) }", k=_numbers(16))


def sequence() -> onnx.ModelProto:
    """A product at each position, summed over positions."""
    return _model(
        """g (float[b,seq,8] x) => (float[b,8] z) {
            i = Identity (x) y = MatMul (i, w) z = ReduceSum <keepdims = 0> (y, a) }""",
        w=_numbers(8, 8),
        a=np.array([1]),
    )


def two_sequences() -> onnx.ModelProto:
    """Two sequences of lengths of their own."""
    return _model(
        """g (float[b,left,8] x, float[b,right,8] y) => (float[b,left,right] z) {
            t = Transpose <perm = [0, 2, 1]> (y) z = MatMul (x, t) }"""
    )


def table() -> onnx.ModelProto:
    """Rows of a table."""
    return _model("g (int64[b,seq] ids) => (float[b,seq,8] z) { z = Gather (rows, ids) }", rows=_numbers(100, 8))


def loop() -> onnx.ModelProto:
    """A loop whose number of trips is an input."""
    return _model(
        """g (float[b,8] x, int64 n) => (float[b,8] z) {
            i = Identity (x)
            z = Loop (n, yes, i) <body = once (int64 trip, bool go, float[b,8] a) => (bool on, float[b,8] o) {
                on = Identity (go) o = Add (a, step) }>
        }""",
        yes=np.ones((), bool),
        step=_numbers(8),
    )


def scan() -> onnx.ModelProto:
    """A scan over the positions of a sequence."""
    return _model(
        """g (float[8] start, float[seq,8] x) => (float[8] last, float[seq,8] all) {
            last, all = Scan <num_scan_inputs = 1, body = once (float[8] s, float[8] e) => (float[8] o, float[8] p) {
                o = Add (s, e) p = Mul (o, k) }> (start, x)
        }""",
        k=_numbers(8),
    )


def rare_branch() -> onnx.ModelProto:
    """A branch for inputs that reach ten."""
    return _model(
        """g (float[b,8] x) => (float[b,8] z) {
            i = Identity (x) m = ReduceMax <keepdims = 0> (i) c = Greater (m, ten)
            z = If (c) <then_branch = t () => (float[b,8] tb) { tb = Mul (i, rare) },
                        else_branch = e () => (float[b,8] eb) { eb = Mul (i, usual) }>
        }""",
        ten=np.array(10, np.float32),
        rare=_numbers(8),
        usual=_numbers(8, seed=1),
    )


def branch_below(bound: float = -4.0) -> onnx.ModelProto:
    """A branch within a branch, for inputs whose mean is far below zero."""
    return _model(
        """g (float[b,8] x, bool flag) => (float[b,8] z) {
            z = If (flag) <then_branch = t () => (float[b,8] tb) {
                    m = ReduceMean <keepdims = 0> (x) c = Less (m, bound)
                    tb = If (c) <then_branch = tt () => (float[b,8] ttb) { ttb = Mul (x, rare) },
                                 else_branch = te () => (float[b,8] teb) { teb = Mul (x, usual) }>
                }, else_branch = e () => (float[b,8] eb) { eb = Neg (x) }>
        }""",
        bound=np.array(bound, np.float32),
        rare=_numbers(8),
        usual=_numbers(8, seed=1),
    )


def by_rate() -> onnx.ModelProto:
    """A model that does something else for one sampling rate."""
    return _model(
        """g (float[b,8] x, int64 rate) => (float[b,8] z) {
            c = Equal (rate, wanted)
            z = If (c) <then_branch = t () => (float[b,8] tb) { tb = Mul (x, one) },
                        else_branch = e () => (float[b,8] eb) { eb = Mul (x, other) }>
        }""",
        wanted=np.array(16000),
        one=_numbers(8),
        other=_numbers(8, seed=1),
    )


def clipped() -> onnx.ModelProto:
    """Bounds at -1 and 6."""
    return _model(
        "g (float[b,16] x) => (float[b,16] z) { y = Clip (x, low, high) z = Mul (y, k) }",
        low=np.array(-1, np.float32),
        high=np.array(6, np.float32),
        k=_numbers(16),
    )


def scaled_before_clip() -> onnx.ModelProto:
    """A bound that is 300 in the input's own units."""
    return _model(
        "g (float[b,16] x) => (float[b,16] z) { y = Mul (x, hundredth) z = Clip (y, low, high) }",
        hundredth=np.array(0.01, np.float32),
        low=np.array(-8, np.float32),
        high=np.array(3, np.float32),
    )


def threshold() -> onnx.ModelProto:
    """Numbers above a half count."""
    return _model(
        "g (float[b,16] x) => (float[b,16] z) { c = Greater (x, half) y = Cast <to = 1> (c) z = Mul (y, k) }",
        half=np.array(0.5, np.float32),
        k=_numbers(16),
    )


def two_scales() -> onnx.ModelProto:
    """Two heads in one output, the first a million times the second."""
    return _model(
        "g (float[b,8] x) => (float[b,16] z) { p = Mul (x, big) q = Mul (x, small) z = Concat <axis = 1> (p, q) }",
        big=np.full(8, 1e6, np.float32),
        small=_numbers(8),
    )


def small_channel() -> onnx.ModelProto:
    """A convolution whose last channel is tiny beside the others."""
    kernel = _numbers(4, 3, 3, 3)
    kernel[3] *= 1e-6
    return _model("g (float[b,3,12,12] x) => (float[b,4,10,10] z) { z = Conv (x, kernel) }", kernel=kernel)


def through(dtype: int) -> onnx.ModelProto:
    """Values that are rounded to another type and back."""
    return _model(
        f"g (float[b,16] x) => (float[b,16] z) {{ y = Cast <to = {dtype}> (x) r = Cast <to = 1> (y) z = Mul (r, k) }}",
        k=_numbers(16),
    )


def pixels() -> onnx.ModelProto:
    """Bytes as numbers."""
    return _model("g (uint8[b,16] x) => (float[b,16] z) { y = Cast <to = 1> (x) z = Mul (y, k) }", k=_numbers(16))


def ages() -> onnx.ModelProto:
    """Integers that take part in arithmetic."""
    return _model("g (int64[b,16] x) => (float[b,16] z) { y = Cast <to = 1> (x) z = Mul (y, k) }", k=_numbers(16))


def imputed() -> onnx.ModelProto:
    """NaN means that a number is missing: another stands in for it."""
    return _model(
        "g (float[b,16] x) => (float[b,16] z) { n = IsNaN (x) y = Where (n, mean, x) z = Mul (y, k) }",
        mean=_numbers(16),
        k=_numbers(16, seed=1),
    )


@dataclass(frozen=True)
class Reach:
    """A bug and the model that it is planted in.

    Attributes:
        model: Makes the model.
        edit: What goes wrong.
    """

    model: Callable[[], onnx.ModelProto]
    edit: Edit


def _row(index: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[index] *= 2
        return array

    return change


def _rows_from(first: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[first:] *= 2
        return array

    return change


def _operator(name: str, op_type: str) -> Edit:
    def edit(model: ir.Model) -> None:
        producer = _value(model, name).producer()
        assert producer is not None
        producer.op_type = op_type

    return edit


def _both(*edits: Edit) -> Edit:
    def edit(model: ir.Model) -> None:
        for each in edits:
            each(model)

    return edit


def _absolute(comparison: str, number: float) -> str:
    return doubled_where(f"a = Abs (v) t = Constant <value_float = {number}> () c = {comparison} (a, t)")


_ALL_SMALL = doubled_where(
    "a = Abs (v) m = ReduceMax <keepdims = 0> (a) t = Constant <value_float = 0.9> () c = Less (m, t)"
)
_ALL_ZERO = (
    "a = Abs (v) m = ReduceMax <keepdims = 0> (a) t = Constant <value_float = 0.0> () c = Equal (m, t) "
    "o = Constant <value_float = 1.0> () d = Add (v, o) w = Where (c, d, v)"
)
_LATE_TRIP = doubled_where("z = Constant <value_int = 0> () c = Greater (trip, z)")
_NO_TRIP = doubled_where("z = Constant <value_int = 0> () c = Equal (n, z)")
_UNLIKE = doubled_where(
    "l = Shape <start = 1, end = 2> (v) r = Shape <start = 2, end = 3> (v) e = Equal (l, r) c = Not (e)"
)
_SIGNED = "b = Cast <to = 3> (v) w = Cast <to = 1> (b)"
_ZERO_FOR = "c = {} (v) z = Constant <value_float = 0.0> () w = Where (c, z, v)"

REACH: dict[str, Reach] = {
    "batch-above-2": Reach(linear, graft("i", doubled_from(2, 0, 2))),
    "length-above-8": Reach(sequence, graft("i", doubled_from(8, 1, 3))),
    "length-below-6": Reach(sequence, graft("i", doubled_from(6, 1, 3, below=True))),
    "lengths-that-differ": Reach(two_sequences, graft("z", _UNLIKE)),
    "table-rows-from-2": Reach(table, weight("z", 0, _rows_from(2))),
    "table-last-row": Reach(table, weight("z", 0, _row(-1))),
    "loop-from-the-second-trip": Reach(loop, graft("o", _LATE_TRIP, "trip")),
    "loop-without-a-trip": Reach(loop, graft("z", _NO_TRIP, "n")),
    "scan-from-the-ninth-step": Reach(scan, graft("all", doubled_from(8, 0, 2))),
    "rare-branch": Reach(rare_branch, weight("tb", 1, _row(3))),
    "branch-in-a-branch": Reach(branch_below, weight("ttb", 1, _row(3))),
    "branch-of-a-flag": Reach(branch_below, _operator("eb", "Identity")),
    "branch-of-one-number": Reach(by_rate, weight("tb", 1, _row(3))),
    "branch-of-all-other-numbers": Reach(by_rate, weight("eb", 1, _row(3))),
    "beyond-3": Reach(linear, graft("i", _absolute("Greater", 3.0))),
    "beyond-3-in-one-sample": Reach(fixed, graft("i", _absolute("Greater", 3.0))),
    "beyond-100": Reach(copied, graft("i", _absolute("Greater", 100.0))),
    "all-below-1": Reach(linear, graft("i", _ALL_SMALL)),
    "all-zero": Reach(linear, graft("i", _ALL_ZERO)),
    "clip-upper-bound-lost": Reach(clipped, weight("y", 2, lambda array: array * np.float32(1e30))),
    "clip-lower-bound-moved": Reach(clipped, weight("y", 1, lambda array: array - np.float32(0.01))),
    "clip-bound-lost-behind-a-scale": Reach(scaled_before_clip, weight("z", 2, lambda array: array * np.float32(1e30))),
    "equality-lost": Reach(threshold, _operator("c", "GreaterOrEqual")),
    "nan": Reach(copied, graft("i", _ZERO_FOR.format("IsNaN"))),
    "nan-no-longer-replaced": Reach(imputed, bypass("y", 2)),
    "infinity": Reach(copied, graft("i", _ZERO_FOR.format("IsInf"))),
    "small-half-beside-large-half": Reach(two_scales, weight("q", 1, lambda array: array * 2)),
    "small-column-beside-large-ones": Reach(two_scales, weight("q", 1, _row(5))),
    "small-channel-beside-large-ones": Reach(small_channel, weight("z", 1, _row(3))),
    "float16-round-trip-lost": Reach(lambda: through(10), _both(bypass("r"), bypass("y"))),
    "bfloat16-round-trip-lost": Reach(lambda: through(16), _both(bypass("r"), bypass("y"))),
    "bytes-above-127": Reach(pixels, graft("y", _SIGNED)),
    "integers-above-5": Reach(ages, graft("y", _absolute("Greater", 5.0))),
}
