"""The fusion passes keep what a model computes, on random instances of each pattern and on whole random chains."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from modelopt import passes
from modelopt.calibration.context import Context
from modelopt.core import targets
from modelopt.core.changes import Changes

EXACT = (
    "fuse-conv-bn",
    "fuse-conv-affine",
    "fuse-hardswish",
    "fuse-matmul-add",
    "merge-transpose",
    "merge-cast",
    "merge-reshape",
)


class NoRunner:
    """None of these passes runs a model."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a fusion pass asked the runner to {name}")


TRUE = np.ones((), np.bool_)
CONTEXT = Context(runner=NoRunner(), target=targets.resolve("x86-vnni"))


def apply(name: str, model: ir.Model) -> Changes:
    return passes.find(name)().apply(model, CONTEXT)


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(output) for output in session.run(None, feeds)]


def assert_fuses(model: onnx.ModelProto, feeds: dict[str, np.ndarray], name: str, rewrites: int) -> ir.Model:
    """`name` rewrites that many places, nothing more the second time, and the outputs stay."""
    onnx.checker.check_model(model)
    fused = ir.from_proto(model)
    assert apply(name, fused).rewrites == rewrites
    assert apply(name, fused).rewrites == 0
    onnx.checker.check_model(ir.to_proto(fused))
    for before, after in zip(run(ir.from_proto(model), feeds), run(fused, feeds), strict=True):
        assert before.dtype == after.dtype
        assert before.shape == after.shape
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(before).max())))
    return fused


def model_of(
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    rank: int,
    *,
    in_nodes: bool = False,
    opset: int = 17,
    in_branch: bool = False,
    in_function: bool = False,
) -> onnx.ModelProto:
    """x → nodes → y, all float; the weights are initializers, or in Constant nodes beside the nodes."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * rank)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    constants = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in tensors]
    inner = [*constants, *nodes] if in_nodes or in_function else list(nodes)
    initializers = [] if in_nodes or in_function else tensors
    imports = [helper.make_opsetid("", opset)]
    functions = []
    inputs = [x]
    if in_function:
        functions = [helper.make_function("local", "f", ["x"], ["y"], inner, imports)]
        imports = [*imports, helper.make_opsetid("local", 1)]
        inner = [helper.make_node("f", ["x"], ["y"], domain="local")]
    if in_branch:
        body = helper.make_graph(inner, "body", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
        other = helper.make_graph(
            [helper.make_node("Neg", ["x"], ["z"])], "other", [], [helper.make_tensor_value_info("z", 1, None)]
        )
        body.output[0].name = "inner"
        body.node[-1].output[0] = "inner"
        inner = [helper.make_node("If", ["p"], ["y"], then_branch=body, else_branch=other)]
        inputs = [x, helper.make_tensor_value_info("p", TensorProto.BOOL, [])]
    graph = helper.make_graph(inner, "g", inputs, [y], initializers)
    return helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=8)


def conv_weights(
    rng: np.random.Generator, op: str, dims: int, group: int, *, bias: bool
) -> tuple[onnx.NodeProto, dict[str, np.ndarray], int]:
    """A convolution of 2 · group channels into 3 · group: (node x → c, weights, output channels)."""
    shape = (3 * group, 2) if op == "Conv" else (2 * group, 3)
    weights = {"w": rng.standard_normal((*shape, *[2] * dims)).astype(np.float32)}
    if bias:
        weights["b"] = rng.standard_normal(3 * group).astype(np.float32)
    return helper.make_node(op, ["x", *weights], ["c"], group=group), weights, 3 * group


def feeds_for(rng: np.random.Generator, channels: int, dims: int, *, in_branch: bool) -> dict[str, np.ndarray]:
    feeds = {"x": rng.standard_normal((2, channels, *[4] * dims)).astype(np.float32)}
    return {**feeds, "p": TRUE} if in_branch else feeds


SHAPES = list(itertools.product(["Conv", "ConvTranspose"], [1, 2, 3], [1, 3], [False, True]))
PLACES = [
    {},
    {"in_nodes": True},
    {"in_branch": True},
    {"in_branch": True, "in_nodes": True},
    {"in_function": True},
]


@pytest.mark.parametrize(("op", "dims", "group", "bias"), SHAPES)
def test_conv_bn(op: str, dims: int, group: int, bias: bool) -> None:
    rng = np.random.default_rng(7)
    node, weights, channels = conv_weights(rng, op, dims, group, bias=bias)
    for name in ("s", "t", "m"):
        weights[name] = rng.standard_normal(channels).astype(np.float32)
    weights["v"] = rng.uniform(0.1, 2, channels).astype(np.float32)
    bn = helper.make_node("BatchNormalization", ["c", "s", "t", "m", "v"], ["y"], epsilon=1e-3)
    feeds = feeds_for(rng, 2 * group, dims, in_branch=False)
    fused = assert_fuses(model_of([node, bn], weights, dims + 2), feeds, "fuse-conv-bn", 1)
    assert [node.op_type for node in fused.graph] == [op]
    assert len(fused.graph.initializers) == 2


def dead_channel(mean: float, epsilon: float = 1e-5) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A convolution whose channel 1 is always `mean`, as trained mobile networks have many, and its normalization."""
    rng = np.random.default_rng(13)
    node, weights, channels = conv_weights(rng, "Conv", 2, 1, bias=True)
    weights |= {name: rng.uniform(0.5, 2, channels).astype(np.float32) for name in ("s", "t", "m", "v")}
    weights["w"][1], weights["b"][1], weights["m"][1], weights["v"][1] = 0, mean, mean, 0
    bn = helper.make_node("BatchNormalization", ["c", "s", "t", "m", "v"], ["y"], epsilon=epsilon)
    return model_of([node, bn], weights, 4), feeds_for(rng, 2, 2, in_branch=False)


@pytest.mark.parametrize("mean", [0.0, 1e-20, -0.3])
def test_a_channel_without_variance_is_folded(mean: float) -> None:
    fused = assert_fuses(*dead_channel(mean), "fuse-conv-bn", 1)
    assert [node.op_type for node in fused.graph] == ["Conv"]


@pytest.mark.parametrize(
    ("mean", "epsilon", "reason"), [(1000.0, 1e-5, "a mean so large"), (0.1, 0.0, "nothing is added to it")]
)
def test_a_channel_without_variance_is_refused_where_rounding_would_show(
    mean: float, epsilon: float, reason: str
) -> None:
    changes = apply("fuse-conv-bn", ir.from_proto(dead_channel(mean, epsilon)[0]))
    assert changes.rewrites == 0
    assert reason in changes.skipped[0].reason


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_conv_bn_wherever_the_weights_are(place: dict[str, bool]) -> None:
    rng = np.random.default_rng(8)
    node, weights, channels = conv_weights(rng, "Conv", 2, 1, bias=False)
    weights |= {name: rng.uniform(0.5, 2, channels).astype(np.float32) for name in ("s", "t", "m", "v")}
    bn = helper.make_node("BatchNormalization", ["c", "s", "t", "m", "v"], ["y"])
    feeds = feeds_for(rng, 2, 2, in_branch=place.get("in_branch", False))
    assert_fuses(model_of([node, bn], weights, 4, **place), feeds, "fuse-conv-bn", 1)


@pytest.mark.parametrize(
    ("opset", "attributes", "outputs", "reason"),
    [
        (17, {"training_mode": 1}, ["y", "", ""], "training mode"),
        (9, {}, ["y", "a", "b", "c1", "d"], "training outputs"),
        (8, {"spatial": 0}, ["y"], "spatial is 0"),
        (6, {}, ["y"], "is_test is 0"),
    ],
)
def test_bn_in_training_mode_is_refused(
    opset: int, attributes: dict[str, Any], outputs: list[str], reason: str
) -> None:
    rng = np.random.default_rng(9)
    node, weights, channels = conv_weights(rng, "Conv", 2, 1, bias=False)
    weights |= {name: np.ones(channels, np.float32) for name in ("s", "t", "m", "v")}
    bn = helper.make_node("BatchNormalization", ["c", "s", "t", "m", "v"], outputs, **attributes)
    changes = apply("fuse-conv-bn", ir.from_proto(model_of([node, bn], weights, 4, opset=opset)))
    assert changes.rewrites == 0
    assert reason in changes.skipped[0].reason


@pytest.mark.parametrize(("op", "dims", "group", "bias"), SHAPES)
@pytest.mark.parametrize("first", [False, True])
def test_conv_affine(op: str, dims: int, group: int, bias: bool, first: bool) -> None:
    """Four operators behind one convolution, with one number and one per channel, on either side."""
    rng = np.random.default_rng(10)
    node, weights, channels = conv_weights(rng, op, dims, group, bias=bias)
    shapes: list[tuple[int, ...]] = [(), (1,), (channels, *[1] * dims), (1, channels, *[1] * dims)]
    nodes = [node]
    for index, (kind, shape) in enumerate(zip(("Mul", "Add", "Sub", "Div"), shapes, strict=True)):
        weights[f"k{index}"] = rng.uniform(0.5, 2, shape).astype(np.float32)
        operands = [nodes[-1].output[0], f"k{index}"]
        swapped = first and kind != "Div"
        nodes.append(helper.make_node(kind, operands[::-1] if swapped else operands, [f"o{index}"]))
    nodes[-1].output[0] = "y"
    feeds = feeds_for(rng, 2 * group, dims, in_branch=False)
    fused = assert_fuses(model_of(nodes, weights, dims + 2), feeds, "fuse-conv-affine", 4)
    assert [node.op_type for node in fused.graph] == [op]


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_conv_affine_wherever_the_weights_are(place: dict[str, bool]) -> None:
    rng = np.random.default_rng(11)
    node, weights, _ = conv_weights(rng, "Conv", 2, 1, bias=False)
    weights["k"] = rng.uniform(0.5, 2, (3, 1, 1)).astype(np.float32)
    nodes = [node, helper.make_node("Add", ["c", "k"], ["d"]), helper.make_node("Mul", ["d", "k"], ["y"])]
    feeds = feeds_for(rng, 2, 2, in_branch=place.get("in_branch", False))
    assert_fuses(model_of(nodes, weights, 4, **place), feeds, "fuse-conv-affine", 2)


@pytest.mark.parametrize(("dims", "group", "bias"), list(itertools.product([1, 2, 3], [1, 3], [False, True])))
def test_affine_before_conv(dims: int, group: int, bias: bool) -> None:
    rng = np.random.default_rng(12)
    node, weights, _ = conv_weights(rng, "Conv", dims, group, bias=bias)
    node.input[0] = "a"
    weights["k"] = rng.uniform(0.5, 2, (2 * group, *[1] * dims)).astype(np.float32)
    weights["t"] = rng.uniform(0.5, 2, (1,)).astype(np.float32)
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Mul", ["k", "r"], ["m"]),
        helper.make_node("Sub", ["t", "m"], ["a"]),
        node,
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    feeds = feeds_for(rng, 2 * group, dims, in_branch=False)
    fused = assert_fuses(model_of(nodes, weights, dims + 2), feeds, "fuse-conv-affine", 2)
    assert [node.op_type for node in fused.graph] == ["Relu", "Conv", "Relu"]


def test_a_large_shared_weight_is_not_copied() -> None:
    rng = np.random.default_rng(13)
    weights = {"w": rng.standard_normal((64, 64, 2, 2)).astype(np.float32), "k": np.array(2, np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Mul", ["c", "k"], ["m"]),
        helper.make_node("Conv", ["m", "w"], ["y"]),
    ]
    changes = apply("fuse-conv-affine", ir.from_proto(model_of(nodes, weights, 4)))
    assert changes.rewrites == 0
    assert {skip.reason for skip in changes.skipped} == {
        "other nodes use its weight too, and a copy would add 65536 bytes"
    }


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("form", ["swish", "swish-times-sixth", "gate", "gate-then-product", "relu-min"])
@pytest.mark.parametrize("opset", [10, 11, 17])
def test_hardswish(form: str, opset: int, place: dict[str, bool]) -> None:
    if form == "relu-min" and opset < 8:
        return
    weights = {"three": np.array([3], np.float32), "six": np.array(6, np.float32)}
    clip = [helper.make_node("Clip", ["a", "zero", "six"], ["c"])]
    if form == "relu-min":
        clip = [helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Min", ["six", "r"], ["c"])]
    elif opset < 11:
        clip = [helper.make_node("Clip", ["a"], ["c"], min=0.0, max=6.0)]
    else:
        weights["zero"] = np.array(0, np.float32)
    weights["sixth"] = np.array(1 / 6, np.float32)
    ends = {
        "swish": [helper.make_node("Mul", ["x", "c"], ["m"]), helper.make_node("Div", ["m", "six"], ["y"])],
        "swish-times-sixth": [
            helper.make_node("Mul", ["c", "x"], ["m"]),
            helper.make_node("Mul", ["m", "sixth"], ["y"]),
        ],
        "gate": [helper.make_node("Div", ["c", "six"], ["y"])],
        "gate-then-product": [
            helper.make_node("Mul", ["sixth", "c"], ["d"]),
            helper.make_node("Mul", ["x", "d"], ["y"]),
        ],
        "relu-min": [helper.make_node("Div", ["c", "six"], ["y"])],
    }
    nodes = [helper.make_node("Add", ["x", "three"], ["a"]), *clip, *ends[form]]
    feeds: dict[str, np.ndarray] = {"x": np.linspace(-5, 5, 200, dtype=np.float32).reshape(2, 100)}
    if place.get("in_branch"):
        feeds["p"] = TRUE
    fused = assert_fuses(model_of(nodes, weights, 2, opset=opset, **place), feeds, "fuse-hardswish", 1)
    operators = [node.op_type for node in ir.traversal.RecursiveGraphIterator(fused.graph)]
    operators += [node.op_type for function in fused.functions.values() for node in function]
    assert "HardSigmoid" in operators
    assert not {"Clip", "Min", "Div"} & set(operators)


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 3), (1, 1)], ids=str)
def test_matmul_add(shape: tuple[int, ...], place: dict[str, bool]) -> None:
    rng = np.random.default_rng(14)
    weights = {"w": rng.standard_normal((4, 3)).astype(np.float32), "b": rng.standard_normal(shape).astype(np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Add", ["b", "m"], ["y"])]
    feeds: dict[str, np.ndarray] = {"x": rng.standard_normal((5, 4)).astype(np.float32)}
    if place.get("in_branch"):
        feeds["p"] = TRUE
    # A function does not know the rank of what it is called with.
    expected = 0 if place.get("in_function") else 1
    assert_fuses(model_of(nodes, weights, 2, **place), feeds, "fuse-matmul-add", expected)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.permutations(range(3)), min_size=2, max_size=5))
def test_transposes(perms: list[list[int]]) -> None:
    names = [*(f"t{index}" for index in range(len(perms))), "y"]
    nodes = [helper.make_node("Relu", ["x"], ["t0"])]
    nodes += [
        helper.make_node("Transpose", [names[index]], [f"t{index + 1}"], perm=perm) for index, perm in enumerate(perms)
    ]
    nodes.append(helper.make_node("Neg", [f"t{len(perms)}"], ["y"]))
    model = model_of(nodes, {}, 3)
    fused = ir.from_proto(model)
    apply("merge-transpose", fused)
    assert apply("merge-transpose", fused).rewrites == 0
    assert sum(node.op_type == "Transpose" for node in fused.graph) <= 1
    feeds = {"x": np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 12}
    np.testing.assert_array_equal(run(fused, feeds)[0], run(ir.from_proto(model), feeds)[0])


CAST_TYPES = (1, 2, 3, 5, 6, 7, 9, 10, 11, 12)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(CAST_TYPES), min_size=3, max_size=4),
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=8),
)
def test_casts(types: list[int], numbers: list[int]) -> None:
    """Merged, the same bits come out, also where integers wrap; other floats than small ones are a matter of luck."""
    source = helper.tensor_dtype_to_np_dtype(types[0])
    small = any(kind in {1, 10, 11} for kind in types)
    values = np.array([number % 2 if small else number for number in numbers], np.int64).astype(source)
    names = ["x", *(f"c{index}" for index in range(len(types) - 2)), "y"]
    nodes = [
        helper.make_node("Cast", [names[index]], [names[index + 1]], to=kind) for index, kind in enumerate(types[1:])
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", types[0], [None])],
        [helper.make_tensor_value_info("y", types[-1], [None])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    fused = ir.from_proto(model)
    apply("merge-cast", fused)
    assert apply("merge-cast", fused).rewrites == 0
    np.testing.assert_array_equal(run(fused, {"x": values})[0], run(ir.from_proto(model), {"x": values})[0])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from([(24,), (2, 12), (4, 6), (1, 24), (2, 3, 4), (-1, 2), (0, -1), (3, 0, -1), (2, 0, 3)]),
        min_size=2,
        max_size=5,
    )
)
def test_reshapes(shapes: list[tuple[int, ...]]) -> None:
    """Whatever onnxruntime accepts before, it accepts after, with the same outcome."""
    weights = {f"s{index}": np.array(shape, np.int64) for index, shape in enumerate(shapes)}
    names = ["x", *(f"r{index}" for index in range(len(shapes)))]
    nodes = [
        helper.make_node("Reshape", [names[index], f"s{index}"], [names[index + 1]]) for index in range(len(shapes))
    ]
    nodes.append(helper.make_node("Neg", [names[-1]], ["y"]))
    model = model_of(nodes, weights, 2)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    feeds = {"x": np.arange(24, dtype=np.float32).reshape(4, 6)}
    try:
        expected = run(ir.from_proto(model), feeds)[0]
    except Exception:  # noqa: BLE001 (onnxruntime has an exception type for each way a shape can be wrong)
        return
    fused = ir.from_proto(model)
    apply("merge-reshape", fused)
    assert apply("merge-reshape", fused).rewrites == 0
    np.testing.assert_array_equal(run(fused, feeds)[0], expected)


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
    model = model_of(nodes, weights, 4)
    feeds = feeds_for(rng, 2, 2, in_branch=False)
    fused = ir.from_proto(model)
    for name in order:
        apply(name, fused)
    for name in order:
        apply(name, fused)
    assert [apply(name, fused).rewrites for name in order] == [0] * len(order)
    np.testing.assert_allclose(run(fused, feeds)[0], run(ir.from_proto(model), feeds)[0], rtol=1e-4, atol=1e-4)
    assert [node.op_type for node in fused.graph] == ["Conv", "HardSigmoid", "Mul", "Conv", "Reshape"]
