"""Attention whose three projections are one product, and masks that replace scores, on random instances."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from modelopt.graph import invariants
from modelopt.measure.tolerance import OutputMismatch, compare_outputs
from tests.fusion_tools import apply, run
from tests.transformer_tools import assert_becomes, attention, inferred_model, node


def packed(form: str, *, biased: bool, order: str = "qkv") -> tuple[list[NodeProto], dict[str, np.ndarray]]:
    """One layer of attention with 4 heads of 2, x → y, whose Q, K and V are thirds of one product."""
    nodes, weights = attention("none", "scores", layers=1, biased=False)
    nodes = [one for one in nodes if not one.output[0].startswith("l0_m")]
    rng = np.random.default_rng(3)
    weights = {name: array for name, array in weights.items() if not name.startswith("l0_w")}
    weights["w"] = rng.standard_normal((8, 24)).astype(np.float32)
    head = [node("MatMul", "x w", "m")]
    if biased:
        weights["b"] = rng.standard_normal(24).astype(np.float32)
        head.append(node("Add", "b m", "a"))
    source, thirds = "a" if biased else "m", [f"l0_m{part}" for part in order]
    if form == "split":
        head.append(node("Split", source, " ".join(thirds), axis=2))
    elif form == "sizes":
        weights["sizes"] = np.array([8, 8, 8])
        head.append(node("Split", f"{source} sizes", " ".join(thirds), axis=-1))
    else:
        weights |= {"axis": np.array([-1]), "s0": np.array([0]), "s1": np.array([8]), "s2": np.array([16])}
        weights["s3"] = np.array([2**63 - 1])
        head += [node("Slice", f"{source} s{i} s{i + 1} axis", name) for i, name in enumerate(thirds)]
    return [*head, *nodes], weights


@pytest.mark.parametrize("form", ["split", "sizes", "slices"])
@pytest.mark.parametrize("biased", [False, True])
def test_packed(form: str, biased: bool) -> None:
    nodes, weights = packed(form, biased=biased)
    feeds = {"x": np.random.default_rng(1).standard_normal((3, 5, 8)).astype(np.float32)}
    opset = 17 if form != "slices" else 12
    assert_becomes(inferred_model(nodes, weights, {"x": ["N", "S", 8]}, opset=opset), "fuse-attention", feeds,
                   ["Attention", "Add"])  # fmt: skip


@pytest.mark.parametrize(("order", "outputs"), [("kqv", ("y",)), ("qkv", ("y", "l0_mk")), ("qkv", ("y", "m"))])
def test_packed_but_not_as_one_product(order: str, outputs: tuple[str, ...]) -> None:
    """In another order, or where a third or the product is needed, the parts are the inputs as they are."""
    nodes, weights = packed("split", biased=False, order=order)
    feeds = {"x": np.random.default_rng(1).standard_normal((3, 5, 8)).astype(np.float32)}
    model = inferred_model(nodes, weights, {"x": ["N", "S", 8]}, opset=17, outputs=outputs)
    assert_becomes(model, "fuse-attention", feeds, ["MatMul", "Split", "MultiHeadAttention", "Add"])


def filled(number: float, *, first: bool, dtype: type = np.float32) -> onnx.ModelProto:
    """Two layers, where `allowed` of shape (N, 1, S, S) says which scores stay."""
    nodes, weights = attention("none", "scores", layers=2, biased=True)
    weights["low"] = np.array(number, dtype)
    for layer in (0, 1):
        at = next(i for i, one in enumerate(nodes) if one.output[0] == f"l{layer}_p")
        scores = nodes[at].input[0]
        chosen = f"allowed low {scores}" if first else f"allowed {scores} low"
        nodes.insert(at, node("Where", chosen, f"l{layer}_f"))
        nodes[at + 1].input[0] = f"l{layer}_f"
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "S", 8]),
            helper.make_tensor_value_info("allowed", TensorProto.BOOL, ["N", 1, "S", "S"]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return onnx.shape_inference.infer_shapes(made)


@pytest.mark.parametrize("number", [-np.inf, float(np.finfo(np.float32).min), -1e30])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("whole_row", [False, True])
def test_scores_that_are_replaced(number: float, first: bool, whole_row: bool) -> None:
    model = filled(number, first=first)
    hidden = ~np.tri(5, dtype=bool)[None, None] | np.zeros((3, 1, 5, 5), bool)
    hidden[:, :, 2] |= whole_row
    feeds = {
        "x": np.random.default_rng(1).standard_normal((3, 5, 8)).astype(np.float32),
        "allowed": hidden if first else ~hidden,
    }
    fused = ir.from_proto(model)
    assert apply("fuse-attention", fused).rewrites == 2
    assert apply("fuse-attention", fused).rewrites == 0
    assert invariants.check(fused) == []
    operators = [one.op_type for one in fused.graph if one.op_type != "Constant"]
    assert operators == ["Where", "Attention", "Add", "Attention", "Add"]
    found = compare_outputs(run(ir.from_proto(model), dict(feeds)), run(fused, dict(feeds)), ["y"])
    assert not isinstance(found, OutputMismatch), found


@pytest.mark.parametrize("number", [-1e4, 0.0])
def test_a_number_that_a_score_is_not_lost_in(number: float) -> None:
    model = ir.from_proto(filled(number, first=False))
    changes = apply("fuse-attention", model)
    assert changes.rewrites == 0
    assert any("not a scaled product and a mask" in skip.reason for skip in changes.skipped)
