"""Kernels that work element by element, with ONNX's broadcasting (opset 7 and later).

https://onnx.ai/onnx/operators/
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.consteval import sizes
from modelopt.consteval.call import Call, Kernel, LeftToRuntime, NotEvaluable
from modelopt.graph.types import FLOAT8, FLOATS


def is_float(dtype: np.dtype) -> bool:
    """Whether `dtype` is a floating-point type, bfloat16 and float8 included."""
    return dtype.kind == "f" or (dtype.kind == "V" and ir.DataType.from_numpy(dtype).is_floating_point())


def _unary(function: Callable[[np.ndarray], np.ndarray]) -> Kernel:
    def run(call: Call) -> list[np.ndarray]:
        x = call.array(0)
        return [np.asarray(function(x)).astype(x.dtype, copy=False)]

    return Kernel(sizes.as_input, run)


def _binary(function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Kernel:
    def run(call: Call) -> list[np.ndarray]:
        a, b = call.array(0), call.array(1)
        return [np.asarray(function(a, b)).astype(a.dtype, copy=False)]

    return Kernel(sizes.broadcast_bytes(), run)


def _test(function: Callable[..., np.ndarray]) -> Kernel:
    def run(call: Call) -> list[np.ndarray]:
        return [np.asarray(function(*call.arrays()), dtype=np.bool_)]

    return Kernel(sizes.broadcast_bytes(1), run)


def _variadic(function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Kernel:
    def run(call: Call) -> list[np.ndarray]:
        arrays = call.arrays()
        return [np.asarray(functools.reduce(function, arrays)).astype(arrays[0].dtype, copy=False)]

    return Kernel(sizes.broadcast_bytes(), run)


def divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Div: integers truncate toward zero, as in C, where numpy floors."""
    if is_float(a.dtype):
        return np.asarray(np.divide(a, b))
    if not b.all():
        raise NotEvaluable("it divides an integer by zero")
    quotient = np.floor_divide(a, b)
    inexact_and_negative = (quotient * b != a) & ((a < 0) != (b < 0))
    return np.asarray(quotient + inexact_and_negative.astype(a.dtype))


def _mod(call: Call) -> list[np.ndarray]:
    a, b = call.array(0), call.array(1)
    fmod = call.attribute_int("fmod", 0)
    if is_float(a.dtype) and not fmod:
        raise NotEvaluable("Mod of floats needs fmod = 1")
    if not is_float(a.dtype) and not b.all():
        raise NotEvaluable("it divides an integer by zero")
    return [np.asarray((np.fmod if fmod else np.mod)(a, b)).astype(a.dtype, copy=False)]


def _pow(call: Call) -> list[np.ndarray]:
    base, exponent = call.array(0), call.array(1)
    if not is_float(base.dtype) and is_float(exponent.dtype):
        return [convert(np.asarray(np.power(base.astype(np.float64), exponent.astype(np.float64))), base.dtype)]
    if not is_float(base.dtype):
        return [np.asarray(np.power(base, exponent.astype(base.dtype)))]
    return [np.asarray(np.power(base, exponent.astype(base.dtype, copy=False))).astype(base.dtype, copy=False)]


def _clip(call: Call) -> list[np.ndarray]:
    """A bound that is missing is the largest finite number of the type: infinity does not pass."""
    x = call.array(0)
    low, high = call.optional(1), call.optional(2)
    if call.opset < 11:
        low = np.array(graph.attribute_float(call.node, "min", -3.4028234663852886e38), x.dtype)
        high = np.array(graph.attribute_float(call.node, "max", 3.4028234663852886e38), x.dtype)
    if is_float(x.dtype):
        largest = np.array(ml_dtypes.finfo(x.dtype).max, x.dtype)  # type: ignore[no-untyped-call]
        low, high = -largest if low is None else low, largest if high is None else high
        if np.isnan(low).any() or np.isnan(high).any():
            raise LeftToRuntime  # the specification does not say whether a bound of NaN wins
    if low is not None:
        x = np.asarray(np.maximum(x, low.reshape(())))
    if high is not None:
        x = np.asarray(np.minimum(x, high.reshape(())))
    return [x]


def _is_inf(call: Call) -> list[np.ndarray]:
    x = call.array(0)
    infinite = np.isinf(x)
    if not call.attribute_int("detect_positive", 1):
        infinite &= x < 0
    if not call.attribute_int("detect_negative", 1):
        infinite &= ~(x < 0)
    return [np.asarray(infinite)]


def _mean(call: Call) -> list[np.ndarray]:
    arrays = call.arrays()
    return [np.asarray(functools.reduce(np.add, arrays) / arrays[0].dtype.type(len(arrays))).astype(arrays[0].dtype)]


def _where(call: Call) -> list[np.ndarray]:
    condition, x, y = call.arrays()
    return [np.where(condition, x, y)]


def _where_bytes(call: Call) -> int:
    condition, x, y = call.arrays()
    return sizes.of_shape(sizes.broadcast(condition.shape, x.shape, y.shape), x)


def _target(call: Call) -> np.dtype:
    if call.node.op_type == "CastLike":
        return call.array(1).dtype
    code = call.attribute_int("to", 0)
    if code not in set(ir.DataType) or ir.DataType(code) in {ir.DataType.UNDEFINED, ir.DataType.STRING}:
        raise NotEvaluable("its target is not a number type")
    return ir.DataType(code).numpy()


def _cast(call: Call) -> list[np.ndarray]:
    return [convert(call.array(0), _target(call), saturate=bool(call.attribute_int("saturate", 1)))]


def convert(x: np.ndarray, target: np.dtype, *, saturate: bool = True) -> np.ndarray:
    """Cast, as the table in the specification of Cast has it.

    Raises:
        NotEvaluable: A float does not fit the integer type: the specification leaves the result open.
        LeftToRuntime: Either type is not one of bool, 8- to 64-bit numbers, bfloat16 and float8.
    """
    for dtype in (x.dtype, target):
        if dtype.kind not in "biuf" and ir.DataType.from_numpy(dtype) not in FLOATS | FLOAT8:
            raise LeftToRuntime
    if target.kind in "iu" and is_float(x.dtype):
        limits = np.iinfo(target)
        whole = np.trunc(x.astype(np.float64))
        if not ((whole >= float(limits.min)) & (whole < float(limits.max) + 1.0)).all():
            raise NotEvaluable("it casts a number outside the range of its target")
        return whole.astype(target)
    if target.kind == "b":
        return np.asarray(x.astype(np.float64) != 0) if x.dtype.kind == "V" else x.astype(np.bool_)
    if ir.DataType.from_numpy(target) in FLOAT8 and saturate:
        largest = float(ml_dtypes.finfo(target).max)  # type: ignore[no-untyped-call]
        # numpy's clip keeps NaN, which stays NaN; infinity becomes the largest number.
        return np.clip(x.astype(np.float32), -largest, largest).astype(target)
    return x.astype(target)


def _cast_bytes(call: Call) -> int:
    return call.array(0).size * _target(call).itemsize


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


KERNELS: dict[str, Kernel] = {
    "Abs": _unary(np.abs),
    "Ceil": _unary(np.ceil),
    "Cos": _unary(np.cos),
    "Exp": _unary(np.exp),
    "Floor": _unary(np.floor),
    "Identity": _unary(lambda x: x),
    "Log": _unary(np.log),
    "Neg": _unary(np.negative),
    "Reciprocal": _unary(np.reciprocal),
    "Relu": _unary(lambda x: np.maximum(x, x.dtype.type(0))),
    "Round": _unary(np.rint),
    "Sigmoid": _unary(_sigmoid),
    "Sign": _unary(np.sign),
    "Sin": _unary(np.sin),
    "Sqrt": _unary(np.sqrt),
    "Tanh": _unary(np.tanh),
    "Add": _binary(np.add),
    "Div": _binary(divide),
    "Mul": _binary(np.multiply),
    "Sub": _binary(np.subtract),
    "Max": _variadic(np.maximum),
    "Mean": Kernel(sizes.broadcast_bytes(), _mean),
    "Min": _variadic(np.minimum),
    "Sum": _variadic(np.add),
    "And": _test(np.logical_and),
    "Equal": _test(np.equal),
    "Greater": _test(np.greater),
    "GreaterOrEqual": _test(np.greater_equal),
    "IsNaN": _test(np.isnan),
    "Less": _test(np.less),
    "LessOrEqual": _test(np.less_equal),
    "Not": _test(np.logical_not),
    "Or": _test(np.logical_or),
    "Xor": _test(np.logical_xor),
    "Cast": Kernel(_cast_bytes, _cast),
    "CastLike": Kernel(_cast_bytes, _cast),
    "Clip": Kernel(sizes.as_input, _clip),
    "IsInf": Kernel(sizes.per_element(1), _is_inf),
    "Mod": Kernel(sizes.broadcast_bytes(), _mod),
    "Pow": Kernel(sizes.broadcast_bytes(), _pow),
    "Where": Kernel(_where_bytes, _where),
}
