"""Models in which a bug shows only where feeds reach."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from modelopt import graph

HEADER = '<ir_version: 9, opset_import: ["" : 17]>'


def _model(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(f"{HEADER} {text}")
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    return proto


def _numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([11, seed]).standard_normal(shape).astype(np.float32)


def value_of(model: ir.Model, name: str) -> ir.Value:
    for scope in graph.all_graphs(model):
        for value in (*scope.inputs, *(out for node in scope for out in node.outputs)):
            if value.name == name:
                return value
    raise ValueError(f"there is no value {name}")


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
