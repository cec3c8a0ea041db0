"""Several passes on one model: in any order the outputs stay, and what others need is kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.fusion_tools import (
    TRUE,
    apply,
    conv_weights,
    feed,
    float_model,
    floats,
    graph_output,
    operators,
    rewrites,
    run,
)

EXACT = (
    "fuse-conv-bn",
    "fuse-conv-affine",
    "fuse-hardswish",
    "fuse-matmul-add",
    "merge-transpose",
    "merge-cast",
    "merge-reshape",
)


@settings(max_examples=40, deadline=None)
@given(st.permutations(EXACT), st.integers(0, 2**16))
def test_exact_passes_in_any_order_keep_the_outputs(order: list[str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    node, weights, channels = conv_weights(rng, "Conv", 2, 1, bias=bool(seed % 2))
    weights |= {name: rng.uniform(0.5, 2, channels).astype(np.float32) for name in ("s", "t", "m", "v")}
    weights |= {name: np.array([number], np.float32) for name, number in (("three", 3), ("six", 6), ("k", 1.5))}
    weights["zero"] = np.array(0, np.float32)
    weights["top"] = np.array(6, np.float32)
    weights["w2"] = rng.standard_normal((2, channels, 1, 1)).astype(np.float32)
    weights["flat"] = np.array([2, -1], np.int64)
    weights["square"] = np.array([2, 2, -1, 1], np.int64)
    nodes = [
        node,
        helper.make_node("BatchNormalization", ["c", "s", "t", "m", "v"], ["n"]),
        helper.make_node("Mul", ["n", "k"], ["a"]),
        helper.make_node("Add", ["a", "three"], ["b1"]),
        helper.make_node("Clip", ["b1", "zero", "top"], ["b2"]),
        helper.make_node("Mul", ["a", "b2"], ["b3"]),
        helper.make_node("Div", ["b3", "six"], ["h"]),
        helper.make_node("Mul", ["h", "k"], ["h1"]),
        helper.make_node("Add", ["h1", "k"], ["h2"]),
        helper.make_node("Conv", ["h2", "w2"], ["d"]),
        helper.make_node("Transpose", ["d"], ["d1"], perm=[0, 2, 3, 1]),
        helper.make_node("Transpose", ["d1"], ["d2"], perm=[0, 3, 1, 2]),
        helper.make_node("Reshape", ["d2", "flat"], ["e"]),
        helper.make_node("Reshape", ["e", "square"], ["y"]),
    ]
    model = float_model(nodes, weights, 4)
    feeds = feed(rng, 2, 2, 4, 4)
    fused = ir.from_proto(model)
    for name in order:
        apply(name, fused)
    for name in order:
        apply(name, fused)
    assert [apply(name, fused).rewrites for name in order] == [0] * len(order)
    np.testing.assert_allclose(run(fused, feeds)[0], run(ir.from_proto(model), feeds)[0], rtol=1e-4, atol=1e-4)
    assert [node.op_type for node in fused.graph] == ["Conv", "HardSigmoid", "Mul", "Conv", "Reshape"]


@pytest.mark.parametrize(
    ("name", "nodes", "rank"),
    [
        ("fuse-conv-branches", [("Conv", ["x", "w"]), ("Add", ["h", "x"])], 4),
        ("fuse-pad", [("Pad", ["x", "pads"]), ("Conv", ["h", "w"])], 4),
        ("fuse-gemm-bn", [("MatMul", ["x", "m"]), ("Mul", ["h", "k"])], 2),
        ("fuse-gemm-gemm", [("MatMul", ["x", "m"]), ("MatMul", ["h", "m2"])], 2),
        ("merge-clip", [("Relu", ["x"]), ("Clip", ["h", "k", "top"])], 2),
        ("merge-slice", [("Slice", ["x", "i0", "i9"]), ("Slice", ["h", "i0", "i9"])], 2),
        ("merge-concat", [("Concat", ["x", "x"]), ("Concat", ["h", "x"])], 2),
    ],
)
def test_intermediates_that_are_needed_stay(name: str, nodes: list[tuple[str, list[str]]], rank: int) -> None:
    """The first value is a graph output, or has another consumer, or is captured by a branch."""
    rng = np.random.default_rng(13)
    weights = {
        "w": floats(rng, 2, 2, 3, 3) if name == "fuse-pad" else floats(rng, 2, 2, 1, 1),
        "m": floats(rng, 3, 3),
        "m2": floats(rng, 3, 2),
        "k": np.array(0.5, np.float32),
    }
    weights |= {
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
        "i0": np.array([0], np.int64),
        "i9": np.array([9], np.int64),
    }
    weights |= {"top": np.array(2, np.float32)}
    joined: dict[str, Any] = {"axis": 0} if name == "merge-concat" else {}
    made = [helper.make_node(op, inputs, [out], **joined) for (op, inputs), out in zip(nodes, ("h", "y"), strict=True)]
    weights = {key: array for key, array in weights.items() if any(key in node.input for node in made)}
    assert rewrites(name, float_model(made, weights, rank)) == 1
    assert rewrites(name, graph_output(float_model(made, weights, rank), "h")) == 0
    fanned = float_model([*made, helper.make_node("Neg", ["h"], ["z"])], weights, rank)
    assert rewrites(name, graph_output(fanned, "z")) == 0
    body = helper.make_graph(
        [helper.make_node("Neg", ["h"], ["n"])], "b", [], [helper.make_tensor_value_info("n", 1, None)]
    )
    captured = helper.make_node("If", ["yes"], ["z"], then_branch=body, else_branch=body)
    model = graph_output(float_model([*made, captured], weights | {"yes": TRUE}, rank), "z")
    assert rewrites(name, model) == 0


EVERY = (
    "fuse-conv-bn",
    "fuse-conv-affine",
    "fuse-conv-branches",
    "fuse-pad",
    "fuse-padded-affine",
    "fuse-hardswish",
    "fuse-matmul-add",
    "fuse-gemm-bn",
    "fuse-gemm-gemm",
    "merge-transpose",
    "sink-transpose",
    "merge-reshape",
    "merge-clip",
    "merge-slice",
    "merge-concat",
)


@settings(max_examples=40, deadline=None)
@given(st.permutations(EVERY), st.integers(0, 2**16))
def test_in_any_order_the_outputs_stay(order: list[str], seed: int) -> None:
    """One model with a place for each, until nothing changes; in the end nothing is left to do for any of them."""
    rng = np.random.default_rng(seed)
    weights = {"w": floats(rng, 2, 2, 3, 3), "u": floats(rng, 2, 2, 1, 1), "k": rng.uniform(0.5, 2, (2, 1, 1))}
    weights |= {name: rng.uniform(0.5, 2, 2) for name in "stmv"} | {"g": floats(rng, 50, 8), "h": floats(rng, 8, 3)}
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    weights |= {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "flat": np.array([0, 50], np.int64)}
    weights |= {"i0": np.array([0], np.int64), "i9": np.array([9], np.int64), "top": np.array(4, np.float32)}
    nodes = [
        helper.make_node("Mul", ["x", "k"], ["a"]),
        helper.make_node("Add", ["a", "k"], ["b"]),
        helper.make_node("Pad", ["b", "pads"], ["c"]),
        helper.make_node("Conv", ["c", "w"], ["d"]),
        helper.make_node("BatchNormalization", ["d", "s", "t", "m", "v"], ["e"]),
        helper.make_node("Conv", ["e", "w"], ["f1"], pads=[1] * 4),
        helper.make_node("Conv", ["e", "u"], ["f2"]),
        helper.make_node("Add", ["f1", "f2"], ["f3"]),
        helper.make_node("Add", ["f3", "e"], ["f"]),
        helper.make_node("Relu", ["f"], ["r"]),
        helper.make_node("Clip", ["r", "", "top"], ["r2"]),
        helper.make_node("Transpose", ["r2"], ["t1"], perm=[0, 2, 3, 1]),
        helper.make_node("Mul", ["t1", "s"], ["t2"]),
        helper.make_node("Transpose", ["t2"], ["t3"], perm=[0, 3, 1, 2]),
        helper.make_node("Slice", ["t3", "i0", "i9"], ["s1"]),
        helper.make_node("Slice", ["s1", "i0", "i9"], ["s2"]),
        helper.make_node("Reshape", ["s2", "flat"], ["n"]),
        helper.make_node("MatMul", ["n", "g"], ["n1"]),
        helper.make_node("Mul", ["n1", "top"], ["n2"]),
        helper.make_node("Gemm", ["n2", "h"], ["n3"]),
        helper.make_node("Concat", ["n3", "n3"], ["n4"], axis=1),
        helper.make_node("Concat", ["n4", "n3"], ["y"], axis=1),
    ]
    model = float_model(nodes, weights, 4)
    del model.graph.output[0].type.tensor_type.shape.dim[2:]
    fused = ir.from_proto(model)
    for _ in range(3):
        for name in order:
            apply(name, fused)
    assert [apply(name, fused).rewrites for name in order] == [0] * len(order)
    feeds = feed(rng, 2, 2, 5, 5)
    expected = run(ir.from_proto(model), feeds)[0]
    np.testing.assert_allclose(run(fused, feeds)[0], expected, rtol=1e-3, atol=1e-4 * float(np.abs(expected).max()))
    assert operators(fused)[:2] == ["Mul", "Add"] or operators(fused)[0] == "Add"
    assert "Transpose" not in operators(fused)
    assert operators(fused).count("Gemm") + operators(fused).count("MatMul") == 1
