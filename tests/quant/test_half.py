"""Half precision on onnxruntime: what is converted, what stays, and how close the results are."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelopt import graph
from modelopt.core.errors import InputError
from modelopt.graph import invariants
from modelopt.passes.convert_half import Compute, ConvertHalf
from modelopt.quant.float16.operator_types import HalfType
from modelopt.quant.float16.ranges import converted
from modelopt.runtime.worker_runner import WorkerRunner
from tests.quant.half_models import FEEDS, WEIGHT, half_of, reasons
from tests.quant_tools import context, model, op_types, relative_error, run
from tests.runtime_tools import session

RNG = np.random.default_rng(0)
HEAD = '<ir_version: 8, opset_import: ["" : 17]>'


def test_weights_take_half_the_bytes_and_one_cast_serves_all_readers(runner: WorkerRunner) -> None:
    text = f"""{HEAD} net (float[n,8] x) => (float[n,8] y)
    {{ a = MatMul (x, w) b = Gemm <transB = 1> (x, w) y = Add (a, b) }}"""
    result, changes = half_of(text, runner)
    assert graph.weight_bytes(result) * 2 == graph.weight_bytes(model(text, w=WEIGHT))
    assert op_types(result)["Cast"] == changes.facts["casts"] == 2
    assert changes.facts["constants_half"] == 1


def test_neighbouring_islands_are_one(runner: WorkerRunner) -> None:
    text = f"""{HEAD} net (float[n,8] x) => (float[n,8] y)
    {{ a = MatMul (x, w) e = Exp (a) t = Transpose (e) n = Neg (t) u = Transpose (n) f = Exp (u) y = MatMul (f, w) }}"""
    result, changes = half_of(text, runner)
    assert op_types(result)["Cast"] == 4
    assert reasons(changes)["n (Neg)"] == "it stands between nodes that stay in float32"


def test_loops_carry_half_states(runner: WorkerRunner) -> None:
    text = f"""{HEAD} net (float[n,8] x) => (float[n,8] y, float[3,n,8] all) <int64 trips = {{3}}, bool go = {{1}}>
    {{ y, all = Loop (trips, go, x) <body = b (int64 i, bool c, float[n,8] s) => (bool d, float[n,8] t, float[n,8] u)
       {{ d = Identity (c) m = MatMul (s, w) t = Tanh (m) u = Exp (t) }} > }}"""
    result, changes = half_of(text, runner)
    assert changes.facts["nodes_half"] == 3
    body = next(body for node in result.graph for body in graph.bodies(node))
    assert body.inputs[2].dtype == ir.DataType.FLOAT16
    assert graph.weight_bytes(result) < graph.weight_bytes(model(text, w=WEIGHT))


def test_an_excluded_loop_keeps_its_states_while_its_body_is_half(runner: WorkerRunner) -> None:
    text = f"""{HEAD} net (float[n,8] x) => (float[n,8] y) <int64 trips = {{3}}, bool go = {{1}}>
    {{ y = Loop (trips, go, x) <body = b (int64 i, bool c, float[n,8] s) => (bool d, float[n,8] t)
       {{ d = Identity (c) m = MatMul (s, w) t = Add (s, m) }} > }}"""
    result, _ = half_of(text, runner, exclude=("op:Loop", "op:Add"))
    body = next(body for node in result.graph for body in graph.bodies(node))
    assert body.inputs[2].dtype == ir.DataType.FLOAT
    assert [node.op_type for node in body] == ["Cast", "Identity", "MatMul", "Cast", "Add"]


def test_scan_and_nested_branches(runner: WorkerRunner) -> None:
    text = f"""{HEAD} net (float[3,8] x, bool c) => (float[8] last, float[3,8] y) <float[8] s0 = {{0,0,0,0,0,0,0,0}}>
    {{ last, y = Scan <num_scan_inputs = 1, body = b (float[8] s, float[8] e) => (float[8] t, float[8] o) {{
         m = MatMul (e, w)
         r = If (c) <then_branch = p () => (float[8] a) {{ a = Add (m, s) }},
                     else_branch = q () => (float[8] d) {{ d = Sub (m, s) }}>
         t = Tanh (r) o = Identity (t) }}> (s0, x) }}"""
    result, changes = half_of(text, runner, FEEDS | {"c": np.ones((), bool)})
    assert changes.facts["nodes_kept_float32"] == 0
    assert op_types(result)["Cast"] == 3


def test_double_and_integer_parts_are_left_alone(runner: WorkerRunner) -> None:
    text = f"""{HEAD} net (float[n,8] x, int64[n] i, double[n,8] d) => (float[n,8] y, double[n,8] e, int64[n] j)
    {{ y = MatMul (x, w) e = Add (d, d) j = Add (i, i) }}"""
    feeds = FEEDS | {"i": np.arange(3), "d": np.full((3, 8), 1e300)}
    result, _ = half_of(text, runner, feeds)
    assert next(node for node in result.graph if node.op_type == "Add").outputs[0].name == "e"


def test_an_initializer_that_a_caller_may_override_keeps_its_type(runner: WorkerRunner) -> None:
    text = f"""{HEAD} net (float[n,8] x, float[8] b) => (float[n,8] y) <float[8] b = {{1,2,3,4,5,6,7,8}}>
    {{ a = MatMul (x, w) y = Add (a, b) }}"""
    result, _ = half_of(text, runner, FEEDS | {"b": np.ones(8, np.float32)})
    assert result.graph.initializers["b"].dtype == ir.DataType.FLOAT


def test_a_constant_read_in_both_types_is_kept_exact_for_the_float_reader(runner: WorkerRunner) -> None:
    text = f"{HEAD} net (float[n,8] x) => (float[n,8] y, float[8,8] v) {{ a = MatMul (x, w) v = Exp (w) y = Relu (a) }}"
    result, _ = half_of(text, runner)
    assert result.graph.initializers["w"].dtype == ir.DataType.FLOAT
    assert result.graph.initializers["w_float16"].dtype == ir.DataType.FLOAT16


@pytest.mark.parametrize("kind", list(HalfType))
def test_only_weights_in_half(runner: WorkerRunner, kind: HalfType) -> None:
    wide = {"w": RNG.standard_normal((8, 64)).astype(np.float32)}
    text = f"{HEAD} net (float[n,8] x) => (float[n,64] y) {{ a = MatMul (x, w) y = Relu (a) }}"
    result, changes = half_of(text, runner, weights=wide, type=kind, compute=Compute.FLOAT)
    assert changes.rewrites == 1
    assert op_types(result) == {"Cast": 1, "MatMul": 1, "Relu": 1}
    assert graph.weight_bytes(result) == wide["w"].nbytes // 2


@pytest.mark.parametrize("options", [{"compute": Compute.FLOAT}, {"compute": Compute.HALF}])
@pytest.mark.parametrize("form", ["w", "Constant"])
def test_a_weight_that_is_an_output_keeps_its_name(runner: WorkerRunner, form: str, options: dict[str, Any]) -> None:
    """`half_of` holds the signature against the original's."""
    weights = {"w": RNG.standard_normal((16, 16)).astype(np.float32)}
    name = "w" if form == "w" else "k"
    made = "" if form == "w" else f"k = Constant <value = float[16,16] {{{','.join(['0.5'] * 256)}}}> ()"
    text = f"""{HEAD} net (float[n,16] x) => (float[n,16] y, float[16,16] {name}, float[16,16] {name})
    {{ {made} y = MatMul (x, {name}) }}"""
    feeds = {"x": RNG.standard_normal((3, 16)).astype(np.float32)}
    result, changes = half_of(text, runner, feeds, weights=weights if form == "w" else {}, **options)
    assert changes.rewrites == 1
    assert [out.name for out in result.graph.outputs] == ["y", name, name]


@pytest.mark.parametrize("options", [{}, {"type": HalfType.BF16}])
def test_batch_statistics_stay_in_float32(runner: WorkerRunner, options: dict[str, Any]) -> None:
    """In half precision onnxruntime carries what it computes from run to run; one file gives one answer."""
    text = f"""{HEAD} net (float[n,3,4,4] x) => (float[n,512,4,4] y, float[512] m)
    {{ c = Conv (x, w) y, m, v = BatchNormalization <training_mode = 1> (c, s, b, e, d) }}"""
    weights = {"w": RNG.standard_normal((512, 3, 1, 1)), "d": RNG.random(512) + 0.5}
    weights |= {name: RNG.standard_normal(512) for name in "sbe"}
    stored = {name: array.astype(np.float32) for name, array in weights.items()}
    feeds = {"x": RNG.standard_normal((2, 3, 4, 4)).astype(np.float32)}
    result, changes = half_of(text, runner, feeds, weights=stored, **options)
    assert changes.rewrites
    assert "in training mode onnxruntime carries" in " ".join(reasons(changes).values())
    first, second, third = (outputs[1] for outputs in runner.run(result, [feeds] * 3))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, third)


def test_bfloat16_on_an_accelerator_is_arithmetic(runner: WorkerRunner) -> None:
    text = f"{HEAD} net (float[n,8] x) => (float[n,8] y) {{ a = MatMul (x, w) r = Relu (a) y = Celu (r) }}"
    result, changes = half_of(text, runner, target="cuda", type=HalfType.BF16)
    assert changes.facts["nodes_half"] == 2
    assert "takes no bfloat16" in reasons(changes)["y (Celu)"]
    assert result.graph.initializers["w"].dtype == ir.DataType.BFLOAT16


def test_bfloat16_needs_opset_13_and_gets_it(runner: WorkerRunner) -> None:
    text = '<ir_version: 7, opset_import: ["" : 11]> net (float[n,8] x) => (float[n,64] y) { y = MatMul (x, w) }'
    wide = {"w": RNG.standard_normal((8, 64)).astype(np.float32)}
    result, _ = half_of(text, runner, weights=wide, type=HalfType.BF16)
    assert graph.opset(result) >= 13


def test_operators_of_onnxruntime_that_take_half(runner: WorkerRunner) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    net (float[1,3,8] x) => (float[1,3,8] y) <float[8] g = {1,1,1,1,1,1,1,1}>
    { a = com.microsoft.SkipLayerNormalization (x, x, g) b = com.microsoft.FastGelu (a)
      c = com.microsoft.Inverse (m) d = MatMul (b, c) y = com.microsoft.QuickGelu (d) }"""
    result = model(text, w=WEIGHT, m=np.eye(8, dtype=np.float32) * 2)
    expected = run_unchecked(result)
    changes = ConvertHalf().apply(result, context(runner))
    assert changes.facts["nodes_half"] == 3  # what Inverse gives is of no known type
    assert reasons(changes)["d (MatMul)"].startswith("the type of c is not known")
    assert relative_error(expected, run_unchecked(result)) < 0.01


def run_unchecked(subject: ir.Model) -> np.ndarray:
    """The output, without onnx's checker, which does not know other domains."""
    output: np.ndarray = session(subject).run(None, {"x": FEEDS["x"][None]})[0]
    return output


def test_a_pattern_that_names_nothing_is_refused(runner: WorkerRunner) -> None:
    with pytest.raises(InputError, match="names no node"):
        half_of(f"{HEAD} net (float[n,8] x) => (float[n,8] y) {{ y = MatMul (x, w) }}", runner, exclude=("op:Conv",))


def test_include_and_exclude(runner: WorkerRunner) -> None:
    text = f"{HEAD} net (float[n,8] x) => (float[n,8] y) {{ a = MatMul (x, w) b = Tanh (a) y = MatMul (b, w) }}"
    _, only = half_of(text, runner, include=("op:Tanh",))
    _, others = half_of(text, runner, exclude=("op:Tanh",))
    assert only.facts["nodes_half"] == 1
    assert reasons(only)["a (MatMul)"] == "not included"
    assert others.facts["nodes_half"] == 2
    assert reasons(others)["b (Tanh)"] == "excluded"


@given(
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=30),
    st.sampled_from(list(HalfType)),
    st.sampled_from([0.5, 1.0]),
)
def test_numbers_are_rounded_to_nearest_and_never_become_infinite(
    numbers: list[float], kind: HalfType, margin: float
) -> None:
    array = np.array(numbers, np.float32)
    clamp = margin * kind.largest
    narrow, clamped, vanished = converted(array, kind, clamp)
    wide = narrow.astype(np.float64)
    beyond = np.isfinite(array) & (np.abs(array) > kind.largest)
    assert clamped == beyond.sum()
    assert vanished == ((array != 0) & (wide == 0)).sum()
    np.testing.assert_array_equal(np.isinf(wide), np.isinf(array))
    np.testing.assert_array_equal(np.abs(wide[beyond]), np.float32(clamp).astype(kind.dtype).astype(np.float64))
    inside = np.isfinite(array) & ~beyond & (np.abs(array) >= kind.smallest)
    bits = 11 if kind is HalfType.FP16 else 8
    assert (np.abs(wide[inside] - array[inside]) <= np.abs(array[inside].astype(np.float64)) * 2.0**-bits).all()


_UNARY = st.sampled_from(["Relu", "Tanh", "Sigmoid", "Neg", "Exp", "Identity", "Softmax", "Abs"])
_BINARY = st.sampled_from(["Add", "Sub", "Mul", "Max", "MatMul"])


@given(
    nodes=st.lists(st.tuples(_UNARY | _BINARY, st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8),
    calibrated=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_any_graph_stays_valid_and_close(
    runner: WorkerRunner, nodes: list[tuple[str, int, int]], calibrated: bool
) -> None:
    names, lines = ["x"], []
    for number, (op, one, other) in enumerate(nodes):
        first, second = names[one % len(names)], names[other % len(names)]
        if op == "MatMul":
            lines.append(f"v{number}_wide = MatMul ({first}, w) v{number} = Tanh (v{number}_wide)")
        elif op in {"Add", "Sub", "Mul", "Max"}:
            lines.append(f"v{number}_wide = {op} ({first}, {second}) v{number} = Tanh (v{number}_wide)")
        else:
            lines.append(f"v{number} = {op} ({first})")
        names.append(f"v{number}")
    last, middle, written = names[-1], names[len(names) // 2], " ".join(lines)
    text = f"""{HEAD} net (float[n,8] x) => (float[n,8] y, float[n,8] z)
    {{ {written} y = Tanh ({last}) z = Softmax ({middle}) }}"""
    original, result = model(text, w=WEIGHT), model(text, w=WEIGHT)
    ConvertHalf().apply(result, context(runner, [FEEDS] if calibrated else None))
    assert invariants.check(result) == []
    assert graph.signature(result) == graph.signature(original)
    for expected, found in zip(run(original, FEEDS), run(result, FEEDS), strict=True):
        np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
        np.testing.assert_allclose(found, expected, atol=0.05)
