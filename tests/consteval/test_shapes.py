"""Shapes: computed ones written as constants."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from modelopt.graph import invariants
from modelopt.passes.eliminate_common import EliminateCommon
from modelopt.passes.simplify_reshape import SimplifyReshape
from tests.helpers import WITHOUT_RUNNER
from tests.runtime_tools import session


def shape_of(model: ir.Model, size: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape of the output for an input of `size`, None where onnxruntime refuses."""
    try:
        (found,) = session(model, optimizer=False).run(None, {"x": np.zeros(size, np.float32)})
    except Exception:  # noqa: BLE001 - onnxruntime has many
        return None
    return tuple(found.shape)


def computed(op: str, dims: list[int | str], target: list[int | tuple[str, int]]) -> ir.Model:
    """``op(x, Concat(…))`` where each part is a number or dimension i of x, written as exporters do."""
    nodes, parts, initializers = [helper.make_node("Shape", ["x"], ["s"])], [], []
    for i, term in enumerate(target):
        number = term if isinstance(term, int) else term[1]
        initializers.append(helper.make_tensor(f"c{i}", TensorProto.INT64, [1], [number]))
        parts.append(f"c{i}" if isinstance(term, int) else f"d{i}")
        if not isinstance(term, int):
            nodes.append(helper.make_node("Gather", ["s", f"c{i}"], [f"d{i}"]))
    nodes += [helper.make_node("Concat", parts, ["t"], axis=0), helper.make_node(op, ["x", "t"], ["y"])]
    given_ = [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)]
    result = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    scope = helper.make_graph(nodes, "g", given_, result, initializers)
    imports = [helper.make_opsetid("", 18)]
    return ir.from_proto(helper.make_model(scope, opset_imports=imports, ir_version=9))


DIMS = st.lists(st.sampled_from(["N", "M", "?", "-1", 1, 2, 3]), min_size=1, max_size=4)
TERMS = st.lists(st.sampled_from([-1, 0, 1, 2, 3, 4, 6]) | st.integers(0, 3).map(lambda i: ("dim", i)), max_size=4)


@given(op=st.sampled_from(["Reshape", "Expand"]), dims=DIMS, target=TERMS.filter(bool), data=st.data())
@example(op="Reshape", dims=["N", 2, "M"], target=[("dim", 0), ("dim", 2), 2], data=None)
@settings(max_examples=120, deadline=None)
def test_a_constant_shape_does_what_the_computed_one_did(
    op: str, dims: list[int | str], target: list[int | tuple[str, int]], data: st.DataObject | None
) -> None:
    target = [term if isinstance(term, int) else ("dim", term[1] % len(dims)) for term in target]
    if op == "Expand":
        target = [max(term, 1) if isinstance(term, int) else term for term in target]
    before, after = computed(op, dims, target), computed(op, dims, target)
    SimplifyReshape().apply(after, WITHOUT_RUNNER)
    assert invariants.check(after) == []
    for turn in range(4):
        sizes = {"N": turn, "M": 0 if turn == 2 else 2}
        if data is not None:
            sizes = {name: data.draw(st.integers(0, 3)) for name in ("N", "M")}
        free = iter([2, 0, 3, 1][turn:] + [2] * 4)
        size = tuple(dim if isinstance(dim, int) else sizes[dim] if dim in sizes else next(free) for dim in dims)
        expected = shape_of(before, size)
        if expected is not None:
            assert shape_of(after, size) == expected


def test_reading_terms_takes_time_in_proportion_to_the_nodes() -> None:
    steps = " ".join(f"c{i + 1} = Add (c{i}, c{i})" for i in range(3000))
    model = ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["" : 20]>
        g (float[N, 4] x) => (float[A, B] y) {{ c0 = Shape (x) {steps} y = Reshape (x, c3000) }}"""
    )
    changes = SimplifyReshape().apply(model, WITHOUT_RUNNER)
    assert changes.rewrites == 0
    assert "not known" in changes.skipped[0].reason


def test_in_a_function_the_shape_is_a_constant_node() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 20, "l" : 1]>
        g (float[N, 4] x) => (float[A, B] y) { y = l.F (x) }
        <domain: "l", opset_import: ["" : 20]>
        F (a) => (b) {
          s = Shape (a) i = Constant <value_ints = [0, 1]> () t = Gather (s, i)
          k = Constant <value_ints = [4]> () m = Constant <value_ints = [-1]> ()
          u = Concat <axis = 0> (m, k) b = Reshape (a, u)
        }"""
    )
    changes = SimplifyReshape().apply(model, WITHOUT_RUNNER)
    assert changes.rewrites == 1
    assert invariants.check(model) == []
    (function,) = model.functions.values()
    assert [node.op_type for node in function][-2:] == ["Constant", "Reshape"]


def test_functions_and_their_calls_are_not_common() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 20, "l" : 1]>
        g (float[4] x) => (float[4] y) { a = l.F (x) b = l.F (x) y = Sub (a, b) }
        <domain: "l", opset_import: ["" : 20]>
        F (a) => (b) { n = RandomNormalLike (a) p = Exp (a) q = Exp (a) r = Add (p, q) b = Add (n, r) }"""
    )
    changes = EliminateCommon().apply(model, WITHOUT_RUNNER)
    assert changes.rewrites == 1
    assert [node.op_type for node in model.graph] == ["F", "F", "Sub"]
