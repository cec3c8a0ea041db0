"""The kernels against onnxruntime, what is never folded, bombs, and the folding passes on whole models."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelopt import consteval, graph
from modelopt.calibration.context import Context
from modelopt.calibration.histogram import Observed
from modelopt.consteval.folding import GREW_KEY, MIN_GROWTH_BYTES
from modelopt.core import targets
from modelopt.core.errors import Refused
from modelopt.graph import invariants
from modelopt.io import serialize
from modelopt.passes.base import Pass
from modelopt.passes.dedup_initializers import DedupInitializers
from modelopt.passes.eliminate_dead import EliminateDead
from modelopt.passes.eliminate_identity import EliminateIdentity
from modelopt.passes.fold_constants import FoldConstants
from tests.paths import LIGHT_MODELS, SAMPLE_MODELS

I64 = np.int64
F32 = np.float32
Array = np.ndarray


def a(values: Any, dtype: Any = F32) -> Array:
    return np.array(values, dtype)


def make_node(op: str, inputs: Sequence[Array | None], attributes: Mapping[str, Any], outputs: int = 1) -> ir.Node:
    values = [None if array is None else ir.Value(name=f"in{i}") for i, array in enumerate(inputs)]
    named = [ir.Value(name=f"out{i}") for i in range(outputs)]
    return ir.node(op, values, attributes, outputs=named)


def run_ort(
    op: str, inputs: Sequence[Array | None], attributes: Mapping[str, Any], opset: int, outputs: int
) -> list[Array]:
    names = [f"in{i}" if array is not None else "" for i, array in enumerate(inputs)]
    given = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
    results = [f"out{i}" for i in range(outputs)]
    node = onnx.helper.make_node(op, names, results, **{k: _proto(v) for k, v in attributes.items()})
    scope = onnx.helper.make_graph(
        [node],
        "g",
        [
            onnx.helper.make_tensor_value_info(k, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for k, v in given.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in results],
    )
    model = onnx.helper.make_model(scope, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return [np.asarray(x) for x in ort.InferenceSession(model.SerializeToString(), options).run(results, given)]


def _proto(value: Any) -> Any:
    return onnx.numpy_helper.from_array(value.numpy()) if isinstance(value, ir.TensorProtocol) else value


def evaluate(
    op: str,
    inputs: Sequence[Array | None],
    attributes: Mapping[str, Any] | None = None,
    opset: int = 20,
    outputs: int = 1,
) -> list[Array]:
    found = consteval.evaluate(make_node(op, inputs, attributes or {}, outputs), inputs, opset)
    assert found is not None
    return found


X = a([[-2.5, -0.5, 0.0, 0.5], [1.0, 1.5, 2.5, 3.0]])
POSITIVE = a([[0.25, 0.5, 1.0, 2.0], [3.0, 4.0, 5.0, 6.0]])
ROW = a([2.0, -1.0, 0.5, 4.0])
INTS = a([[-7, -3, 0, 3], [7, 8, 9, -9]], I64)
BY = a([2, 2, 3, -4], I64)
BITS = a([[True, False, True, False], [False, True, True, False]], np.bool_)
BITROW = a([True, True, False, False], np.bool_)
ODD = a([[1.0, np.nan, np.inf, -np.inf]])
CUBE = np.arange(24, dtype=F32).reshape(2, 3, 4)

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


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        ("Cast", [a([np.nan])], {"to": 7}),
        ("Cast", [a([300.0])], {"to": 2}),
        ("Cast", [a([2.0**63])], {"to": 7}),
        ("Div", [a([1], I64), a([0], I64)], {}),
        ("Mod", [a([1], I64), a([0], I64)], {}),
        ("Gather", [X, a([4], I64)], {"axis": 1}),
        ("Reshape", [X, a([3, 3], I64)], {}),
        ("Reshape", [X, a([-1, -1], I64)], {}),
        ("Add", [X, a([1.0, 2.0, 3.0])], {}),
        ("Transpose", [X], {"perm": [0, 0]}),
        ("Slice", [X, a([0], I64), a([1], I64), a([0], I64), a([0], I64)], {}),
        ("Range", [a(0.0), a(np.inf), a(1.0)], {}),
        ("Range", [a(0, I64), a(5, I64), a(0, I64)], {}),
        ("Unsqueeze", [X, a(range(100), I64)], {}),
        ("ReduceMean", [np.zeros((0, 2), F32)], {}),
        ("ArgMax", [np.zeros((0, 2), F32)], {}),
        ("Equal", [np.array(["a"], object), np.array(["a"], object)], {}),
        ("Add", [X, None], {}),
        ("Add", [X], {}),
    ],
)
def test_invalid_or_undefined_is_refused(op: str, inputs: list[Array | None], attributes: dict[str, Any]) -> None:
    with pytest.raises(consteval.NotEvaluable):
        consteval.evaluate(make_node(op, inputs, attributes), inputs, 20)


@pytest.mark.parametrize(
    ("op", "inputs", "attributes"),
    [
        ("ConstantOfShape", [a([2**62], I64)], {}),
        ("ConstantOfShape", [a([2**40, 2**40, 2**40], I64)], {}),
        ("Expand", [a([1.0]), a([2**40], I64)], {}),
        ("Tile", [a([1.0]), a([2**62], I64)], {}),
        ("Range", [a(0, I64), a(2**62, I64), a(1, I64)], {}),
        ("OneHot", [a([1], I64), a(2**50, I64), a([0.0, 1.0])], {}),
        ("Pad", [X, a([0, 2**40, 0, 0], I64)], {}),
        ("Add", [np.broadcast_to(a(1.0), (2**20, 1)), np.broadcast_to(a(1.0), (1, 2**20))], {}),
        ("Gather", [np.broadcast_to(a(1.0), (1, 2**20)), np.zeros(2**14, I64)], {}),
        ("ReduceSum", [np.empty((0, 2**40), F32), a([0], I64)], {}),
        ("Concat", [np.broadcast_to(a(1.0), (2**30,))] * 2, {"axis": 0}),
    ],
)
def test_bombs_are_measured_without_allocation(op: str, inputs: list[Array], attributes: dict[str, Any]) -> None:
    node = make_node(op, inputs, attributes)
    tracemalloc.start()
    size = consteval.output_bytes(node, inputs, 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size is not None
    assert size > 2**30
    assert peak < 2**20


@pytest.mark.parametrize(
    "op",
    [
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "RandomNormalLike",
        "Bernoulli",
        "Dropout",
        "Constant",
    ],
)
def test_some_operators_are_never_folded(op: str) -> None:
    node = make_node(op, [X], {})
    assert not consteval.is_foldable(node)
    assert consteval.evaluate(node, [X], 20) is None
    assert consteval.output_bytes(node, [X], 20) is None


def test_other_domains_old_opsets_and_reference_attributes_are_not_evaluated() -> None:
    assert not consteval.is_foldable(ir.node("Add", [], domain="local"))
    assert consteval.evaluate(make_node("Add", [X, X], {}), [X, X], 6) is None
    borrowed = make_node("Concat", [X], {})
    borrowed.attributes.add(ir.RefAttr("axis", "which", ir.AttributeType.INT))
    assert not consteval.is_foldable(borrowed)


class Silent:
    """A runner that refuses to run anything."""

    def run(self, *_: Any, **__: Any) -> Iterator[list[Array]]:
        raise Refused("not here", note="no runtime")

    def infer_shapes(self, model: ir.Model) -> None:
        raise AssertionError

    def observe(self, *_: Any, **__: Any) -> Observed:
        raise AssertionError

    def convert_opset(self, model: ir.Model, version: int) -> ir.Model:
        raise AssertionError

    def simplify(self, model: ir.Model) -> ir.Model:
        raise AssertionError


CONTEXT = Context(runner=Silent(), target=targets.resolve("x86-vnni"))


def fold(text: str, **options: Any) -> tuple[ir.Model, Any]:
    model = ir.from_onnx_text(text)
    return model, FoldConstants(**options).apply(model, CONTEXT)


def test_a_doubling_chain_stops_at_the_limit() -> None:
    steps = "\n".join(f"c{i + 1} = Concat <axis = 0> (c{i}, c{i})" for i in range(40))
    text = f"""<ir_version: 10, opset_import: ["" : 20]>
    g (float[1] x) => (float y) <float[4] c0 = {{1, 2, 3, 4}}> {{
      {steps} s = ReduceSum <keepdims = 0> (c40) y = Add (x, s) }}"""
    tracemalloc.start()
    _, changes = fold(text, max_tensor_bytes=2**20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert any("more than max-tensor-bytes" in skip.reason for skip in changes.skipped)
    assert peak < 8 * 2**20


def test_a_huge_fill_is_refused_and_its_shape_still_folds() -> None:
    model, changes = fold(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (int64[1] x) => (int64[1] y) <int64[1] n = {4611686018427387904}, int64[1] one = {1}> {
          many = Add (n, one) huge = ConstantOfShape (many) few = NonZero (huge) s = Shape (few) y = Add (x, s) }"""
    )
    assert any("more than max-tensor-bytes" in skip.reason for skip in changes.skipped)
    assert model.graph[0].op_type == "ConstantOfShape"


def test_a_runtime_that_refuses_is_a_reason() -> None:
    _, changes = fold(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (float[2, 2] x) => (float[2, 2] y) <float[2, 2] w = {1, 2, 3, 4}, float[2, 2] v> {
          v = MatMul (w, w) y = Add (x, v) }"""
    )
    assert changes.rewrites == 0
    assert changes.skipped[0].reason == "onnxruntime did not evaluate it: no runtime"


def test_growth_is_bounded_for_good_and_only_what_is_read_counts() -> None:
    text = f"""<ir_version: 10, opset_import: ["" : 20]>
    g (float[2000] x) => (float[2000] y) <float zero = {{0}}, float end = {{2000}}, float one = {{1}}> {{
      {" ".join(f"r{i} = Range (zero, end, one) t{i} = Sqrt (r{i})" for i in range(4))}
      a = Add (x, t0) b = Add (a, t1) c = Add (b, t2) y = Add (c, t3) }}"""
    model, changes = fold(text)
    assert changes.rewrites == 2
    assert changes.facts["grown_bytes"] <= MIN_GROWTH_BYTES
    assert model.metadata_props[GREW_KEY] == "8000"
    reread = ir.from_proto(ir.to_proto(model))
    assert FoldConstants().apply(reread, CONTEXT).rewrites == 0


def test_transposing_a_large_weight_is_no_growth_unless_it_is_shared() -> None:
    weight = np.arange(200 * 300, dtype=F32).reshape(200, 300)
    for shared in (False, True):
        model = ir.from_onnx_text(
            f"""<ir_version: 10, opset_import: ["" : 20]>
            g (float[N, 300] x) => (float[N, 200] y{", float[N, 300] z" if shared else ""}) <float[200, 300] w = {{{
                ", ".join(str(v) for v in weight.reshape(-1))
            }}}> {{ t = Transpose (w) y = MatMul (x, t) {"z = MatMul (y, w)" if shared else ""} }}"""
        )
        changes = FoldConstants().apply(model, CONTEXT)
        assert changes.rewrites == (0 if shared else 1)
        assert graph.weight_bytes(model) == weight.nbytes


def test_a_weight_that_is_cut_and_joined_in_another_order_is_no_growth() -> None:
    """What exporters do to the gates of an LSTM: three readers of one tensor, all of which go."""
    weight = ", ".join(str(number) for number in range(300 * 200))
    model, changes = fold(
        f"""<ir_version: 10, opset_import: ["" : 20]>
        g (float[N, 200] x) => (float[N, 300] y) <float[300, 200] w = {{{weight}}}, int64[1] a = {{0}},
            int64[1] b = {{100}}, int64[1] c = {{200}}, int64[1] d = {{300}}> {{
          one = Slice (w, a, b) two = Slice (w, b, c) three = Slice (w, c, d)
          r = Concat <axis = 0> (two, one, three) t = Transpose (r) y = MatMul (x, t) }}"""
    )
    assert changes.rewrites == 5
    assert changes.facts["grown_bytes"] <= 0
    assert [node.op_type for node in model.graph] == ["MatMul"]


def test_before_ir_version_4_results_are_constant_nodes() -> None:
    model, changes = fold(
        """<ir_version: 3, opset_import: ["" : 9]>
        g (float[2] x) => (float[2] y) { c = Constant <value = float[2] {1.0, 2.0}> () n = Neg (c) y = Add (x, n) }"""
    )
    assert changes.rewrites == 1
    assert not model.graph.initializers
    assert [node.op_type for node in model.graph] == ["Constant", "Add"]


def test_names_with_odd_characters_survive() -> None:
    model, _ = fold(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { n = Neg (w) y = Add (x, n) }"""
    )
    twin = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { n = Neg (w) y = Add (x, n) }"""
    )
    odd = "a:0/[red] \x1b[31m"
    twin.graph[0].outputs[0].name = odd
    FoldConstants().apply(twin, CONTEXT)
    assert list(twin.graph.initializers) == [odd]
    assert list(model.graph.initializers) == ["n"]


def test_a_dead_if_lets_go_of_what_it_captured() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (float[2] x, bool c) => (float[2] y) <float[2] w = {1, 2}> {
          n = Mul (x, w)
          d = If (c) <
            then_branch = t () => (float[2] a) { a = Neg (n) }, else_branch = e () => (float[2] b) { b = Abs (n) } >
          y = Relu (x) }"""
    )
    assert EliminateDead().apply(model, CONTEXT).rewrites > 0
    assert [node.op_type for node in model.graph] == ["Relu"]
    assert not model.graph.initializers


def test_tensors_like_no_other_are_not_read() -> None:
    class Unread(ir.LazyTensor):
        def numpy(self) -> Array:
            raise AssertionError("read")

    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (float[2] x) => (float[2] y) <float[2] w = {1, 2}, float v = {1}> { a = Mul (x, w) y = Add (a, v) }"""
    )
    model.graph.initializers["w"].const_value = Unread(
        lambda: ir.tensor([0.0, 0.0]), dtype=ir.DataType.FLOAT, shape=ir.Shape([2])
    )
    assert DedupInitializers().apply(model, CONTEXT).rewrites == 0


PASSES: tuple[Pass, ...] = (FoldConstants(), EliminateIdentity(), EliminateDead(), DedupInitializers())
SAMPLES = sorted(SAMPLE_MODELS.glob("*/model.onnx"))


def _feeds(session: ort.InferenceSession) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    kinds = {"float": np.float32, "double": np.float64, "int64": np.int64, "int32": np.int32, "bool": np.bool_}
    feeds: dict[str, Array] = {}
    for value in session.get_inputs():
        free = 4096 if len(value.shape) < 3 else 64
        shape = [dim if isinstance(dim, int) and dim > 0 else free if i else 1 for i, dim in enumerate(value.shape)]
        feeds[value.name] = rng.integers(0, 2, shape).astype(kinds[value.type.removeprefix("tensor(").rstrip(")")])
    return feeds


def _outputs_of(model: ir.Model, feeds: dict[str, Array] | None = None) -> tuple[list[Any], dict[str, Array]]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(serialize.to_bytes(model), options)
    given = _feeds(session) if feeds is None else feeds
    return list(session.run(None, given)), given


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.parent.name)
def test_real_models_keep_their_outputs_and_do_not_grow(path: Path) -> None:
    model = ir.from_proto(onnx.load(path))
    weights = graph.weight_bytes(model)
    signature = graph.signature(model)
    before, feeds = _outputs_of(model)
    for step in PASSES:
        step.apply(model, CONTEXT)
        assert invariants.check(model) == []
        assert step.apply(model, CONTEXT).rewrites == 0
    assert graph.signature(model) == signature
    assert graph.weight_bytes(model) <= weights + max(MIN_GROWTH_BYTES, weights // 10) + 4096
    after, _ = _outputs_of(model, feeds)
    for ours, theirs in zip(after, before, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("path", LIGHT_MODELS, ids=lambda path: path.stem)
@pytest.mark.parametrize("modern", [False, True])
def test_light_models_do_not_grow(path: Path, modern: bool) -> None:
    model = ir.from_proto(onnx.load(path))
    if modern:  # the same model as later exporters write it: initializers are no inputs, so that they are constant
        model.ir_version = 8
        for value in list(model.graph.inputs):
            if value.name in model.graph.initializers:
                model.graph.inputs.remove(value)
    size = len(serialize.to_bytes(model))
    FoldConstants().apply(model, CONTEXT)
    assert invariants.check(model) == []
    assert len(serialize.to_bytes(model)) <= size


def test_a_long_chain_is_one_walk() -> None:
    steps = "\n".join(f"c{i + 1} = Neg (c{i})" for i in range(2000))
    text = f"""<ir_version: 10, opset_import: ["" : 20]>
    g (float[1] x) => (float[1] y) <float[1] c0 = {{1}}> {{ {steps} y = Add (x, c2000) }}"""
    model, changes = fold(text)
    assert changes.rewrites == 2000
    assert list(model.graph.initializers) == ["c2000"]
