"""Each kernel of consteval computes what onnxruntime and the ONNX specification compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelopt import consteval
from tests.kernel_tools import CUBE, F32, I64, Array, X, a, evaluate, make_node, run_ort

POSITIVE = a([[0.25, 0.5, 1.0, 2.0], [3.0, 4.0, 5.0, 6.0]])
ROW = a([2.0, -1.0, 0.5, 4.0])
INTS = a([[-7, -3, 0, 3], [7, 8, 9, -9]], I64)
BY = a([2, 2, 3, -4], I64)
BITS = a([[True, False, True, False], [False, True, True, False]], np.bool_)
BITROW = a([True, True, False, False], np.bool_)
ODD = a([[1.0, np.nan, np.inf, -np.inf]])
Case = tuple[str, Sequence[Array | None], Any, int]

CASES: list[Case] = [
    *((op, [X], {}, 17) for op in ("Abs", "Ceil", "Exp", "Floor", "Identity", "Neg", "Round", "Sign", "Tanh")),
    *((op, [X], {}, 17) for op in ("Cos", "Sin", "Relu", "Sigmoid")),
    *((op, [POSITIVE], {}, 17) for op in ("Log", "Reciprocal", "Sqrt")),
    *((op, [INTS], {}, 17) for op in ("Abs", "Neg", "Sign")),
    *((op, [X, ROW], {}, opset) for op in ("Add", "Sub", "Mul", "Div") for opset in (7, 17)),
    *((op, [INTS, BY], {}, 17) for op in ("Add", "Sub", "Mul", "Div")),
    ("Add", [a(2.0), a(3.0)], {}, 17),
    ("Div", [a([-7, 7, -8, 0], np.int32), a(2, np.int32)], {}, 17),
    ("Div", [a([7, 255], np.uint8), a([2, 4], np.uint8)], {}, 17),
    ("Mod", [INTS, BY], {}, 17),
    ("Mod", [INTS, BY], {"fmod": 1}, 17),
    ("Mod", [X, ROW], {"fmod": 1}, 17),
    ("Pow", [POSITIVE, ROW], {}, 17),
    ("Pow", [POSITIVE, a(2, I64)], {}, 17),
    ("Pow", [INTS, a(2, I64)], {}, 17),
    ("Pow", [INTS, a(2.0)], {}, 17),
    *((op, [X, ROW, a([[0.0], [1.0]])], {}, 17) for op in ("Max", "Min", "Sum", "Mean")),
    ("Max", [INTS, BY], {}, 17),
    ("Max", [X], {}, 17),
    *((op, [BITS, BITROW], {}, 17) for op in ("And", "Or", "Xor")),
    ("Not", [BITS], {}, 17),
    *((op, [X, ROW], {}, 17) for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")),
    ("Equal", [INTS, BY], {}, 17),
    ("Equal", [BITS, BITROW], {}, 17),
    ("IsNaN", [ODD], {}, 17),
    *(("IsInf", [ODD], {"detect_positive": p, "detect_negative": n}, 17) for p in (0, 1) for n in (0, 1)),
    ("Clip", [X, a(-1.0), a(1.0)], {}, 17),
    ("Clip", [X, None, a(1.0)], {}, 17),
    ("Clip", [X, a(2.0), a(1.0)], {}, 17),
    ("Clip", [X], {"min": -1.0}, 10),
    *(("Clip", [ODD.astype(dtype)], {}, 17) for dtype in (np.float16, F32, np.float64)),
    ("Clip", [ODD, a(-1.0)], {}, 17),
    ("Clip", [ODD, None, a(1.0)], {}, 17),
    ("Where", [BITROW, X, ROW], {}, 17),
    ("Cast", [X], {"to": 7}, 17),
    ("Cast", [X], {"to": 9}, 17),
    ("Cast", [X], {"to": 10}, 17),
    ("Cast", [X], {"to": 11}, 17),
    ("Cast", [INTS], {"to": 1}, 17),
    ("Cast", [INTS], {"to": 2}, 17),
    ("Cast", [BITS], {"to": 1}, 17),
    ("CastLike", [X, a(0, np.int32)], {}, 19),
    ("Reshape", [CUBE, a([0, -1], I64)], {}, 17),
    ("Reshape", [CUBE, a([4, 0, -1], I64)], {}, 17),
    ("Reshape", [np.zeros((0, 3), F32), a([3, 0], I64)], {"allowzero": 1}, 17),
    ("Reshape", [a([2.0]), a([], I64)], {}, 17),
    ("Squeeze", [CUBE[None, :, :1]], {}, 17),
    ("Squeeze", [CUBE[None, :, :1], a([0, -2], I64)], {}, 17),
    ("Squeeze", [CUBE[None, :, :1]], {"axes": [0]}, 11),
    ("Unsqueeze", [CUBE, a([0, -1], I64)], {}, 17),
    ("Unsqueeze", [CUBE], {"axes": [0, 4]}, 11),
    ("Flatten", [CUBE], {"axis": 2}, 17),
    ("Flatten", [CUBE], {"axis": 0}, 17),
    ("Flatten", [CUBE], {"axis": -1}, 17),
    ("Transpose", [CUBE], {}, 17),
    ("Transpose", [CUBE], {"perm": [1, 2, 0]}, 17),
    ("Slice", [CUBE, a([0, 1], I64), a([2, -1], I64), a([0, -1], I64)], {}, 17),
    ("Slice", [CUBE, a([-1], I64), a([-100], I64), a([2], I64), a([-2], I64)], {}, 17),
    ("Slice", [CUBE, a([1], np.int32), a([2**31 - 1], np.int32)], {}, 17),
    ("Slice", [CUBE], {"starts": [1], "ends": [100], "axes": [1]}, 9),
    ("Concat", [CUBE, CUBE], {"axis": -1}, 17),
    ("Split", [CUBE], {"axis": 2}, 17),
    ("Split", [CUBE, a([1, 3], I64)], {"axis": 2}, 17),
    ("Split", [CUBE], {"axis": 2, "split": [3, 1]}, 11),
    ("Split", [CUBE], {"axis": 1, "num_outputs": 2}, 18),
    ("Gather", [CUBE, a([[0, -1], [1, 2]], I64)], {"axis": 1}, 17),
    ("Gather", [CUBE, a(-1, I64)], {"axis": -1}, 17),
    ("GatherElements", [X, a([[0, -1], [1, 2]], I64)], {"axis": 1}, 17),
    ("GatherElements", [X, a([[1, 0]], I64)], {"axis": 0}, 17),
    ("GatherND", [CUBE, a([[0, 1], [1, -1]], I64)], {}, 17),
    ("ScatterND", [X, a([[1], [0]], I64), X[::-1].copy()], {}, 17),
    ("Pad", [X, a([0, 1, 2, 0], I64), a(9.0)], {}, 17),
    ("Pad", [X, a([0, -1, 0, 2], I64)], {}, 17),
    ("Pad", [X, a([1, 2], I64), None, a([-1], I64)], {}, 18),
    ("Pad", [X], {"pads": [0, 1, 0, 0], "value": 7.0}, 10),
    *(("Trilu", [CUBE[:, :, :3]], {"upper": upper}, 17) for upper in (0, 1)),
    ("Trilu", [CUBE, a(1, I64)], {"upper": 0}, 17),
    ("Shape", [CUBE], {}, 13),
    ("Shape", [CUBE], {"start": -2, "end": 100}, 17),
    ("Size", [CUBE], {}, 17),
    ("ConstantOfShape", [a([2, 3], I64)], {"value": ir.tensor([7], ir.DataType.INT32)}, 17),
    ("ConstantOfShape", [a([], I64)], {}, 17),
    ("Range", [a(0.0), a(0.3), a(0.1)], {}, 17),
    ("Range", [a(1.0), a(-1.0), a(-0.3)], {}, 17),
    ("Range", [a(10, I64), a(3, I64), a(-2, I64)], {}, 17),
    ("Range", [a(3, np.int32), a(1, np.int32), a(2, np.int32)], {}, 17),
    ("Expand", [ROW, a([3, 1, 4], I64)], {}, 17),
    ("Expand", [CUBE, a([1], I64)], {}, 17),
    ("Tile", [X, a([2, 3], I64)], {}, 17),
    ("EyeLike", [X], {"k": 1}, 17),
    ("EyeLike", [INTS], {"dtype": 1}, 17),
    ("OneHot", [a([0, -1, 2, 5], I64), a(3, I64), a([0.5, 2.0])], {}, 17),
    ("OneHot", [a([[0, 1]], I64), a([3], I64), a([0.0, 1.0])], {"axis": 0}, 17),
    ("NonZero", [BITS], {}, 17),
    *(
        (op, [CUBE], {"axes": [1, -1], "keepdims": 0}, 12)
        for op in ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum")
    ),
    *(
        (op, [CUBE + 1, a([1], I64)], {}, 18)
        for op in ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum")
    ),
    ("ReduceSum", [CUBE], {"noop_with_empty_axes": 1}, 17),
    ("ReduceSum", [CUBE], {"keepdims": 0}, 17),
    ("ReduceMean", [a([-7, 2, 2], np.int32)], {"axes": [0]}, 17),
    ("ReduceSum", [np.zeros((0, 3), F32), a([0], I64)], {}, 17),
    *((op, [X], {"axis": -1, "keepdims": 0}, 17) for op in ("ArgMax", "ArgMin")),
    ("ArgMax", [a([[1, 3, 3]])], {"axis": 1, "select_last_index": 1}, 17),
    *(
        ("CumSum", [X, a(1, I64)], {"exclusive": exclusive, "reverse": reverse}, 17)
        for exclusive in (0, 1)
        for reverse in (0, 1)
    ),
]


def _outputs(case: Case) -> int:
    return 2 if case[0] == "Split" else 1


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[3]}")
def test_kernel_equals_onnxruntime(case: Case) -> None:
    op, inputs, attributes, opset = case
    count = _outputs(case)
    expected = run_ort(op, inputs, attributes, opset, count)
    node = make_node(op, inputs, attributes, count)
    found = consteval.evaluate(node, inputs, opset)
    bound = consteval.output_bytes(node, inputs, opset)
    assert found is not None
    assert bound is not None
    assert sum(array.nbytes for array in found) <= bound
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        assert ours.flags.c_contiguous
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=0)


def test_every_kernel_has_a_case() -> None:
    assert {case[0] for case in CASES} == consteval.OPERATORS


@given(
    dims=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    data=st.data(),
    opset=st.sampled_from([9, 10, 13]),
)
@settings(max_examples=60, deadline=None)
def test_slice_is_the_specification(dims: list[int], data: st.DataObject, opset: int) -> None:
    array = np.arange(np.prod(dims), dtype=F32).reshape(dims)
    bounds = st.integers(-6, 6) | st.sampled_from([2**31 - 1, -(2**31) + 1])
    axes = data.draw(st.permutations(range(len(dims))))
    starts, ends = ([data.draw(bounds) for _ in axes] for _ in range(2))
    if opset < 10:
        attributes = {"starts": starts, "ends": ends, "axes": axes}
        inputs: list[Array | None] = [array]
    else:
        steps = [data.draw(st.sampled_from([-3, -2, -1, 1, 2, 3])) for _ in axes]
        attributes, inputs = {}, [array, *(a(part, I64) for part in (starts, ends, axes, steps))]
    if opset >= 10 and any(step < 0 and end == 2**31 - 1 for step, end in zip(steps, ends, strict=True)):
        assert consteval.evaluate(make_node("Slice", inputs, attributes), inputs, opset) is None
        return
    (found,) = evaluate("Slice", inputs, attributes, opset)
    (expected,) = run_ort("Slice", inputs, attributes, opset, 1)
    np.testing.assert_array_equal(found, expected)
    assert found.shape == expected.shape


@given(dims=st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=4), data=st.data())
@settings(max_examples=60, deadline=None)
def test_reshape_is_the_specification(dims: list[int], data: st.DataObject) -> None:
    array = np.arange(np.prod(dims), dtype=F32).reshape(dims)
    target = data.draw(st.permutations(dims))
    at = data.draw(st.integers(0, len(dims) - 1))
    target = [0 if d == dims[i] and data.draw(st.booleans()) else d for i, d in enumerate(target)]
    target[at] = -1
    inputs: list[Array | None] = [array, a(target, I64)]
    (found,) = evaluate("Reshape", inputs)
    (expected,) = run_ort("Reshape", inputs, {}, 20, 1)
    assert found.shape == expected.shape


@given(data=st.data(), axis=st.integers(-3, 2))
@settings(max_examples=40, deadline=None)
def test_gather_is_the_specification(data: st.DataObject, axis: int) -> None:
    dim = CUBE.shape[axis]
    shape = data.draw(st.sampled_from([(), (1,), (2, 3), (0,)]))
    count = int(np.prod(shape))
    indices = a([data.draw(st.integers(-dim, dim - 1)) for _ in range(count)], I64).reshape(shape)
    (found,) = evaluate("Gather", [CUBE, indices], {"axis": axis})
    (expected,) = run_ort("Gather", [CUBE, indices], {"axis": axis}, 20, 1)
    np.testing.assert_array_equal(found, expected)
    assert found.shape == expected.shape


@given(
    left=st.integers(-(2**31), 2**31 - 1),
    right=st.integers(-(2**31), 2**31 - 1).filter(bool),
)
def test_integer_division_truncates(left: int, right: int) -> None:
    (found,) = evaluate("Div", [a(left, I64), a(right, I64)])
    assert int(found) == int(abs(left) // abs(right)) * (1 if (left < 0) == (right < 0) else -1)


@pytest.mark.parametrize("name", ["FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ"])
@pytest.mark.parametrize("saturate", [True, False])
def test_float8_casts_follow_the_table(name: str, saturate: bool) -> None:
    kind = ir.DataType[name]
    (found,) = evaluate("Cast", [a([1.0, 1e6, -1e6, np.inf, np.nan])], {"to": kind.value, "saturate": int(saturate)})
    assert ir.DataType.from_numpy(found.dtype) == kind
    values = found.astype(F32)
    largest = float(ml_dtypes.finfo(found.dtype).max)  # type: ignore[no-untyped-call]
    assert values[0] == 1.0
    assert np.isnan(values[4])
    if saturate:
        assert values[1:4].tolist() == [largest, -largest, largest]
    else:
        assert not np.isfinite(values[1:4]).any()


def test_bfloat16_is_computed_in_bfloat16() -> None:
    x = a([1.0, 2.0], ml_dtypes.bfloat16)
    for op in ("Add", "Mul", "Div"):
        (found,) = evaluate(op, [x, x])
        assert found.dtype == x.dtype
    (mean,) = evaluate("ReduceMean", [x])
    assert mean.dtype == x.dtype
    assert mean.astype(F32).tolist() == [1.5]
